// The quantized blocks of GGUF, byte for byte, and the activations that meet them.
// Knows: layouts. Must not know: arithmetic. A block may lie at any address: the structs are packed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/dtype.h"

namespace gemma4 {

// Elements that share one scale of Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4 and of the activations.
inline constexpr size_t kBlock = 32;
// Elements of a block of the other formats, and of one step of every kernel: eight blocks of Q8_0 or Q4_0.
inline constexpr size_t kSuperBlock = 256;

// w[i] = d * q[i]
struct __attribute__((packed)) BlockQ8_0 {
  static constexpr DType kType = DType::kQ8_0;
  uint16_t d;  // f16
  int8_t q[32];
};

// w[i] = d * (q - 8): element i in the low nibble of q[i], element i + 16 in the high one
struct __attribute__((packed)) BlockQ4_0 {
  static constexpr DType kType = DType::kQ4_0;
  uint16_t d;  // f16
  uint8_t q[16];
};

// w[i] = d * q + m, q as in Q4_0
struct __attribute__((packed)) BlockQ4_1 {
  static constexpr DType kType = DType::kQ4_1;
  uint16_t d, m;  // f16
  uint8_t q[16];
};

// w[i] = d * (q - 16): the low four bits of q as in Q4_0; bit i of the 32 in `high` is the fifth of element i
struct __attribute__((packed)) BlockQ5_0 {
  static constexpr DType kType = DType::kQ5_0;
  uint16_t d;  // f16
  uint8_t high[4];
  uint8_t q[16];
};

// w[i] = d * q + m, q as in Q5_0
struct __attribute__((packed)) BlockQ5_1 {
  static constexpr DType kType = DType::kQ5_1;
  uint16_t d, m;  // f16
  uint8_t high[4];
  uint8_t q[16];
};

// w[i] = d * kIQ4Values[q], q as in Q4_0
struct __attribute__((packed)) BlockIQ4_NL {
  static constexpr DType kType = DType::kIQ4_NL;
  uint16_t d;  // f16
  uint8_t q[16];
};

// w[i] = 2^(e - 128) * kFP4Values[q], q as in Q4_0
struct __attribute__((packed)) BlockMXFP4 {
  static constexpr DType kType = DType::kMXFP4;
  uint8_t e;
  uint8_t q[16];
};

// Sixteen groups of 16. w = d * s * q - dmin * m; s and m are the low and high nibbles of scales[group]. Bits 2b and
// 2b + 1 of q[32h + i] are element i of block 4h + b.
struct __attribute__((packed)) BlockQ2_K {
  static constexpr DType kType = DType::kQ2_K;
  uint8_t scales[16];
  uint8_t q[64];
  uint16_t d, dmin;  // f16
};

// Sixteen groups of 16. w = d * (s - 32) * (q - 4): q has its low two bits in `low`, as Q2_K, and bit b of high[i] for
// element i of block b. The low four bits of s are the low nibbles of scales[0-7], then their high nibbles; bits 2g
// and 2g + 1 of scales[8 + i] are the top two of group 4g + i.
struct __attribute__((packed)) BlockQ3_K {
  static constexpr DType kType = DType::kQ3_K;
  uint8_t high[32];
  uint8_t low[64];
  uint8_t scales[12];
  uint16_t d;  // f16
};

// Eight blocks of 32. w = d * scale * q - dmin * min with 6-bit scale and min for each block: those of blocks 0-3 are
// the low six bits of scales[0-3] and scales[4-7], those of blocks 4-7 the low and high nibbles of scales[8-11] with
// the top two bits of scales[0-3] and scales[4-7]. Blocks 2i and 2i + 1 are the low and high nibbles of q[32i...].
struct __attribute__((packed)) BlockQ4_K {
  static constexpr DType kType = DType::kQ4_K;
  uint16_t d, dmin;  // f16
  uint8_t scales[12];
  uint8_t q[128];
};

// As Q4_K, with a fifth bit: bit b of high[i] belongs to element i of block b.
struct __attribute__((packed)) BlockQ5_K {
  static constexpr DType kType = DType::kQ5_K;
  uint16_t d, dmin;  // f16
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t q[128];
};

// Sixteen groups of 16. w = d * scales[group] * (q - 32). Blocks of 32 elements 4h ... 4h + 3 have their low four bits
// in low[64h...]: the low nibbles of its 32-byte halves are blocks 0 and 1, the high nibbles blocks 2 and 3; bits 2b
// and 2b + 1 of high[32h + i] are the top two of element i of block b.
struct __attribute__((packed)) BlockQ6_K {
  static constexpr DType kType = DType::kQ6_K;
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  uint16_t d;  // f16
};

// Eight blocks of 32. w = d * (s - 32) * kIQ4Values[q], q of each block as in Q4_0. The low four bits of s are the
// nibbles of `low`, the top two are two bits of `high`, both the lowest first.
struct __attribute__((packed)) BlockIQ4_XS {
  static constexpr DType kType = DType::kIQ4_XS;
  uint16_t d;  // f16
  uint16_t high;
  uint8_t low[4];
  uint8_t q[128];
};

// The formats below store entries of a grid (grids.h): quants of eight (IQ2) or four (IQ3) elements, whose signs are
// apart, one bit an element, set for a minus. Where seven bits are kept for eight elements, the number of minuses is
// even.

// Eight blocks of 32, each eight bytes of q: four entries of 8 bits, then 32 bits with four times seven signs and, on
// top, s. w = d * (2 s + 1) / 8 * quant
struct __attribute__((packed)) BlockIQ2_XXS {
  static constexpr DType kType = DType::kIQ2_XXS;
  uint16_t d;  // f16
  uint8_t q[64];
};

// An entry of 9 bits with seven signs above it for each eight elements. Group g of 16 has the g-th nibble of `scales`
// as its s. w = d * (2 s + 1) / 8 * quant
struct __attribute__((packed)) BlockIQ2_XS {
  static constexpr DType kType = DType::kIQ2_XS;
  uint16_t d;  // f16
  uint16_t q[32];
  uint8_t scales[8];
};

// Entries of 10 bits: q, and two bits of high[block], the lowest first. `scales` and w as in IQ2_XS.
struct __attribute__((packed)) BlockIQ2_S {
  static constexpr DType kType = DType::kIQ2_S;
  uint16_t d;  // f16
  uint8_t q[32];
  uint8_t signs[32];
  uint8_t high[8];
  uint8_t scales[8];
};

// Eight blocks of 32: eight entries of 8 bits in q, and signs and s in 32 bits as in IQ2_XXS.
// w = d * (2 s + 1) / 4 * quant
struct __attribute__((packed)) BlockIQ3_XXS {
  static constexpr DType kType = DType::kIQ3_XXS;
  uint16_t d;  // f16
  uint8_t q[64];
  uint32_t signs[8];
};

// Entries of 9 bits: q, and a bit of high[block], the lowest first. Block b has the b-th nibble of `scales` as its s.
// w = d * (2 s + 1) * quant
struct __attribute__((packed)) BlockIQ3_S {
  static constexpr DType kType = DType::kIQ3_S;
  uint16_t d;  // f16
  uint8_t q[64];
  uint8_t high[8];
  uint8_t signs[32];
  uint8_t scales[4];
};

// What four bits stand for. A copy for each source file: data of one name is exported like a function.
constexpr int8_t kIQ4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kFP4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};  // twice e2m1

// Elements of a block.
template <class Block>
constexpr size_t elements_of() {
  return traits(Block::kType).block_elems;
}

// All of them: what every table of kernels has a row for.
template <class... Blocks>
struct BlockList {
  static_assert(((sizeof(Blocks) == traits(Blocks::kType).block_bytes) && ...));

  template <class Block>
  static consteval bool has() {
    return (std::is_same_v<Block, Blocks> || ...);
  }
  // f(null pointer to a block) for each.
  template <class Fn>
  static consteval void for_each(Fn f) {
    (f(static_cast<const Blocks*>(nullptr)), ...);
  }
};
using AllBlocks = BlockList<BlockQ8_0, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockIQ4_NL, BlockMXFP4, BlockQ2_K,
                            BlockQ3_K, BlockQ4_K, BlockQ5_K, BlockQ6_K, BlockIQ4_XS, BlockIQ2_XXS, BlockIQ2_XS,
                            BlockIQ2_S, BlockIQ3_XXS, BlockIQ3_S>;

// 256 activations x = scale * q in eight blocks of 32, |q| <= 127, with what the offsets of the weights need.
// Everything about one step of a kernel is in six cache lines behind one pointer. A row is ceil(k / 256) chunks, the
// last padded with zeros.
struct alignas(64) Int8Chunk {
  int8_t q[256];  // in the order in which the kernels of a format and table meet them
  float scale[8];
  float sum[8];      // scale * (sum of the block's q): multiplies minimums
  int32_t zero[16];  // -zero point * (sum of q) of each group of weights that shares a scale (32 elements or 16); where
                     // such groups of 16 have minimums, -(sum of q)
};

inline constexpr size_t chunks_of(size_t k) { return (k + kSuperBlock - 1) / kSuperBlock; }

// Chunks from one row of activations to the next. An odd number keeps the rows of a tile in different cache sets.
inline constexpr size_t chunk_stride(size_t k) { return chunks_of(k) | 1; }

}  // namespace gemma4
