// Storage formats of weights and caches. One row of kFormats describes one format; its arithmetic is one column of the
// kernel table (kernels/kernels.h), the bytes of a quantized block are in kernels/blocks.h.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>

namespace gemma4 {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ2_XXS,
  kIQ2_XS,
  kIQ2_S,
  kIQ3_XXS,
  kIQ3_S,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
  kI2,
  kI4,
  kI8,
  kU8,
  kI32,
  kI64,
};

struct FormatTraits {
  DType dtype;
  std::string_view name;  // as safetensors and GGUF spell it
  size_t block_elems;     // elements in one block; a row of a matrix is a whole number of blocks
  size_t block_bytes;     // bytes of one block
};

// Indexed by DType. A comment ends each row: bits of an element.
inline constexpr FormatTraits kFormats[] = {
    {DType::kF32, "F32", 1, 4},             // 32
    {DType::kF16, "F16", 1, 2},             // 16
    {DType::kBF16, "BF16", 1, 2},           // 16
    {DType::kQ8_0, "Q8_0", 32, 34},         // 8.5
    {DType::kQ4_0, "Q4_0", 32, 18},         // 4.5
    {DType::kQ4_1, "Q4_1", 32, 20},         // 5
    {DType::kQ5_0, "Q5_0", 32, 22},         // 5.5
    {DType::kQ5_1, "Q5_1", 32, 24},         // 6
    {DType::kQ2_K, "Q2_K", 256, 84},        // 2.625
    {DType::kQ3_K, "Q3_K", 256, 110},       // 3.4375
    {DType::kQ4_K, "Q4_K", 256, 144},       // 4.5
    {DType::kQ5_K, "Q5_K", 256, 176},       // 5.5
    {DType::kQ6_K, "Q6_K", 256, 210},       // 6.5625
    {DType::kIQ2_XXS, "IQ2_XXS", 256, 66},  // 2.0625
    {DType::kIQ2_XS, "IQ2_XS", 256, 74},    // 2.3125
    {DType::kIQ2_S, "IQ2_S", 256, 82},      // 2.5625
    {DType::kIQ3_XXS, "IQ3_XXS", 256, 98},  // 3.0625
    {DType::kIQ3_S, "IQ3_S", 256, 110},     // 3.4375
    {DType::kIQ4_NL, "IQ4_NL", 32, 18},     // 4.5
    {DType::kIQ4_XS, "IQ4_XS", 256, 136},   // 4.25
    {DType::kMXFP4, "MXFP4", 32, 17},       // 4.25
    {DType::kI2, "I2", 4, 1},               // 2: quants -2 to 1, stored as 0 to 3, the first in the lowest bits
    {DType::kI4, "I4", 2, 1},               // 4: quants -8 to 7, stored as 0 to 15, the first in the lowest bits
    {DType::kI8, "I8", 1, 1},               // 8: quants -128 to 127
    {DType::kU8, "U8", 1, 1},               // 8: bytes whose meaning their place in a model decides
    {DType::kI32, "I32", 1, 4},             // 32: as U8
    {DType::kI64, "I64", 1, 8},             // 64: as U8
};
inline constexpr int kDTypeCount = static_cast<int>(std::size(kFormats));
static_assert([] {
  for (int i = 0; i < kDTypeCount; ++i)
    if (kFormats[i].dtype != static_cast<DType>(i)) return false;
  return true;
}());

inline constexpr const FormatTraits& traits(DType t) { return kFormats[static_cast<int>(t)]; }

// Small integers whose scales lie in a tensor of their own (core/tensor.h).
inline constexpr bool is_quants(DType t) { return t == DType::kI2 || t == DType::kI4 || t == DType::kI8; }

// What no kernel reads before its place in a model says what it means.
inline constexpr bool is_raw(DType t) { return t == DType::kU8 || t == DType::kI32 || t == DType::kI64; }

// Whether scales lie among the elements: such weights meet activations that were rounded to int8.
inline constexpr bool is_block_format(DType t) { return traits(t).block_elems > 1 && !is_quants(t); }

// Bytes of one row of `cols` elements; `cols` is a multiple of the block size (checked when the tensor is registered),
// or the last byte of a row of quants is not full.
inline constexpr size_t row_bytes(DType t, size_t cols) {
  return (cols + traits(t).block_elems - 1) / traits(t).block_elems * traits(t).block_bytes;
}

inline float bf16_to_f32(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

// Round to nearest even; a NaN stays a NaN.
inline uint16_t f32_to_bf16(float f) {
  auto u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline float f16_to_f32(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 0x1fu;
  uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  // Subnormal: the value is mantissa * 2^-24, exact in f32.
  float v = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -v : v;
}

// Round to nearest even; beyond the largest half is infinity; a NaN stays a NaN.
inline uint16_t f32_to_f16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f), a = u & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (a >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  // Subnormal halves are multiples of 2^-24, to which adding 0.5 rounds.
  if (a < 0x38800000u) {
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(a) + 0.5f) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | (((a + 0xfffu + ((a >> 13) & 1u)) >> 13) - (112u << 10)));
}

}  // namespace gemma4
