// The quantized blocks of GGUF, byte for byte, and the activations that meet them.
// Knows: layouts. Must not know: arithmetic. A block may lie at any address: the structs are packed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/dtype.h"

namespace gemma4 {

// Elements that share one scale of Q8_0, Q4_0, Q5_0, Q5_1 and of the activations.
inline constexpr size_t kBlock = 32;
// Elements of a block of Q4_K, Q5_K, Q6_K, and of one step of every kernel: eight blocks of Q8_0 or Q4_0.
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
using AllBlocks = BlockList<BlockQ8_0, BlockQ4_0, BlockQ5_0, BlockQ5_1, BlockQ4_K, BlockQ5_K, BlockQ6_K>;

// 256 activations x = scale * q in eight blocks of 32, |q| <= 127, with what the offsets of the weights need.
// Everything about one step of a kernel is in six cache lines behind one pointer. A row is ceil(k / 256) chunks, the
// last padded with zeros.
struct alignas(64) Int8Chunk {
  int8_t q[256];  // in the order in which the kernels of a format and table meet them
  float scale[8];
  float sum[8];      // scale * (sum of the block's q): multiplies minimums
  int32_t zero[16];  // -zero point * (sum of q) of each group of weights that shares a scale (32 elements; 16 in Q6_K)
};

inline constexpr size_t chunks_of(size_t k) { return (k + kSuperBlock - 1) / kSuperBlock; }

// Chunks from one row of activations to the next. An odd number keeps the rows of a tile in different cache sets.
inline constexpr size_t chunk_stride(size_t k) { return chunks_of(k) | 1; }

}  // namespace gemma4
