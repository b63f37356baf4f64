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

// Indexed by DType. A comment ends each row: bits of an element. Quants of I2 (-2 to 1) and I4 (-8 to 7) are stored as
// 0 to 3 and 0 to 15, the first in the lowest bits of a byte; those of I8 are signed bytes.
inline constexpr FormatTraits kFormats[] = {
    {.dtype = DType::kF32, .name = "F32", .block_elems = 1, .block_bytes = 4},             // 32
    {.dtype = DType::kF16, .name = "F16", .block_elems = 1, .block_bytes = 2},             // 16
    {.dtype = DType::kBF16, .name = "BF16", .block_elems = 1, .block_bytes = 2},           // 16
    {.dtype = DType::kQ8_0, .name = "Q8_0", .block_elems = 32, .block_bytes = 34},         // 8.5
    {.dtype = DType::kQ4_0, .name = "Q4_0", .block_elems = 32, .block_bytes = 18},         // 4.5
    {.dtype = DType::kQ4_1, .name = "Q4_1", .block_elems = 32, .block_bytes = 20},         // 5
    {.dtype = DType::kQ5_0, .name = "Q5_0", .block_elems = 32, .block_bytes = 22},         // 5.5
    {.dtype = DType::kQ5_1, .name = "Q5_1", .block_elems = 32, .block_bytes = 24},         // 6
    {.dtype = DType::kQ2_K, .name = "Q2_K", .block_elems = 256, .block_bytes = 84},        // 2.625
    {.dtype = DType::kQ3_K, .name = "Q3_K", .block_elems = 256, .block_bytes = 110},       // 3.4375
    {.dtype = DType::kQ4_K, .name = "Q4_K", .block_elems = 256, .block_bytes = 144},       // 4.5
    {.dtype = DType::kQ5_K, .name = "Q5_K", .block_elems = 256, .block_bytes = 176},       // 5.5
    {.dtype = DType::kQ6_K, .name = "Q6_K", .block_elems = 256, .block_bytes = 210},       // 6.5625
    {.dtype = DType::kIQ2_XXS, .name = "IQ2_XXS", .block_elems = 256, .block_bytes = 66},  // 2.0625
    {.dtype = DType::kIQ2_XS, .name = "IQ2_XS", .block_elems = 256, .block_bytes = 74},    // 2.3125
    {.dtype = DType::kIQ2_S, .name = "IQ2_S", .block_elems = 256, .block_bytes = 82},      // 2.5625
    {.dtype = DType::kIQ3_XXS, .name = "IQ3_XXS", .block_elems = 256, .block_bytes = 98},  // 3.0625
    {.dtype = DType::kIQ3_S, .name = "IQ3_S", .block_elems = 256, .block_bytes = 110},     // 3.4375
    {.dtype = DType::kIQ4_NL, .name = "IQ4_NL", .block_elems = 32, .block_bytes = 18},     // 4.5
    {.dtype = DType::kIQ4_XS, .name = "IQ4_XS", .block_elems = 256, .block_bytes = 136},   // 4.25
    {.dtype = DType::kMXFP4, .name = "MXFP4", .block_elems = 32, .block_bytes = 17},       // 4.25
    {.dtype = DType::kI2, .name = "I2", .block_elems = 4, .block_bytes = 1},               // 2
    {.dtype = DType::kI4, .name = "I4", .block_elems = 2, .block_bytes = 1},               // 4
    {.dtype = DType::kI8, .name = "I8", .block_elems = 1, .block_bytes = 1},               // 8
    {.dtype = DType::kU8, .name = "U8", .block_elems = 1, .block_bytes = 1},               // 8
    {.dtype = DType::kI32, .name = "I32", .block_elems = 1, .block_bytes = 4},             // 32
    {.dtype = DType::kI64, .name = "I64", .block_elems = 1, .block_bytes = 8},             // 64
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
