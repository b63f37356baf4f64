// Storage formats of weights and caches. One row of kFormats describes one format; a quantized block format is one
// more row here and one more column in the kernel table (kernels/kernels.h).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace gemma4 {

enum class DType : uint8_t { kF32, kF16, kBF16 };
inline constexpr int kDTypeCount = 3;

struct FormatTraits {
  DType dtype;
  std::string_view name;  // as safetensors spells it
  size_t block_elems;     // elements in one block; a row of a matrix is a whole number of blocks
  size_t block_bytes;     // bytes of one block
};

inline constexpr FormatTraits kFormats[kDTypeCount] = {
    {DType::kF32, "F32", 1, 4},
    {DType::kF16, "F16", 1, 2},
    {DType::kBF16, "BF16", 1, 2},
};

inline constexpr const FormatTraits& traits(DType t) { return kFormats[static_cast<int>(t)]; }

// Bytes of one row of `cols` elements; `cols` is a multiple of the block size (checked when the tensor is registered).
inline constexpr size_t row_bytes(DType t, size_t cols) { return cols / traits(t).block_elems * traits(t).block_bytes; }

inline float bf16_to_f32(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

// Round to nearest even; a NaN stays a NaN.
inline uint16_t f32_to_bf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
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

}  // namespace gemma4
