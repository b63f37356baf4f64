// The rows of a key/value cache, and how they are written.
// Knows: layouts and rounding. Must not know: vectors, positions, heads. A row holds one key or value: a multiple of
// kCacheBlock elements in f32 or bf16, or as quants of 8 or 4 bits with one scale for each kCacheGroup of them. Quants
// and scales lie apart, so that a load of quants never crosses a cache line for the sake of a scale. One scale for 64
// elements, not for 32 as in GGUF, brings the caches to 51.6 % and 26.6 % of bf16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace gemma4 {

inline constexpr size_t kCacheBlock = 32;
inline constexpr size_t kCacheGroup = 64;

// Elements of a row for a head of that size: the rest is zero and changes no product.
inline constexpr size_t padded_head(size_t head_dim) {
  return (head_dim + kCacheBlock - 1) / kCacheBlock * kCacheBlock;
}

// Whether rows are quants with scales. Such rows are stored rotated (AttentionKernels::hadamard), which spreads a
// channel that stands out over all others.
inline constexpr bool is_quantized_cache(DType t) { return t == DType::kQ8_0 || t == DType::kQ4_0; }
inline constexpr bool is_cache_format(DType t) {
  return t == DType::kF32 || t == DType::kBF16 || is_quantized_cache(t);
}

// Bytes of the quants of a row of n elements, and how many scales it has.
inline constexpr size_t cache_row_bytes(DType t, size_t n) {
  return t == DType::kF32 ? 4 * n : t == DType::kBF16 ? 2 * n : t == DType::kQ8_0 ? n : n / 2;
}
inline constexpr size_t cache_row_scales(DType t, size_t n) {
  return is_quantized_cache(t) ? (n + kCacheGroup - 1) / kCacheGroup : 0;
}

// Consecutive rows.
struct CacheRows {
  const char* quants;      // (rows, n) elements
  const uint16_t* scales;  // (rows, groups) bf16; unused by f32 and bf16
};

// One row of n floats in a cache format. In blocks of 32, elements i and i + 16 share four bytes of kBF16 (the first in
// the lower half) and a byte of kQ4_0 (quant + 8 in the lower four bits): two vectors come out of one by a shift and a
// mask. The quants of kQ8_0 are int8 in order. The same code for every instruction
// set, so the bits of a cache do not depend on it. A group with a value that is not finite becomes NaN.
void store_row(DType t, const float* x, size_t n, char* quants, uint16_t* scales);

}  // namespace gemma4
