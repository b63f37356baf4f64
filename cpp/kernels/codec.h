// The block formats in plain arithmetic: the specification of every faster kernel, and the codecs.
// Knows: blocks. Must not know: vectors, threads. Compiled for the baseline of the architecture; the tables of all
// instruction sets may point here.
#pragma once

#include <cstddef>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

namespace gemma4::codec {

// dst[0..n) = the n elements at src, n a multiple of the block size.
template <class Block>
void to_f32(const void* src, float* dst, size_t n);

// The n floats at src in blocks at dst. Minimizes the squared error over a search of scales. A block that lies on a
// lattice of Q4_0 or Q5_0, or of Q8_0 with 127 among its quants, is given back exactly, also where its values were
// rounded to bf16 or f16 since (codec_lattice.h); so is one of Q4_0 in Q8_0. A block with a value that is not finite
// becomes NaN.
template <class Block>
void from_f32(const float* src, void* dst, size_t n);
// Formats that have it; the others are only read.
using WrittenBlocks = BlockList<BlockQ8_0, BlockQ4_0, BlockQ5_0, BlockQ5_1, BlockQ4_K, BlockQ5_K, BlockQ6_K>;
template <class Block>
consteval auto writer() -> void (*)(const float*, void*, size_t) {
  if constexpr (WrittenBlocks::has<Block>()) return from_f32<Block>;
  return nullptr;
}

// See FormatKernels (kernels/kernels.h).
template <class Block>
void quantize(const float* x, size_t k, Bounds bounds, Int8Chunk* out);
template <class Block>
void multiply_int8(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows y);

}  // namespace gemma4::codec
