// Matrix products by instructions that multiply whole tiles, beside the table of kernels.h.
// Knows: rows of weights in any format, rows of floats. Must not know: layers, threads.
//
// Tiles multiply bf16 and add in f32. Block formats are rounded to bf16 on their way, and so is what they meet: finer
// than the int8 of the other kernels. F32, F16 and BF16 lose nothing: a float is the sum of at most three bf16, and
// every product of two such parts that reaches the last bits of a float is taken.
#pragma once

#include <cstddef>

#include "kernels/kernels.h"

namespace gemma4 {

// Rows of x that are packed together, and of w and x in one call at most: with these the unpacked weights and the sums
// stay in a core's L2.
inline constexpr size_t kTileGroup = 16;
inline constexpr size_t kTilePanel = 128;
inline constexpr size_t kTileBlock = 512;

struct TileKernels {
  // Bytes of kTileGroup rows of k floats, packed for weights of a format: a multiple of 64.
  size_t (*group_bytes)(DType w, size_t k);
  // out = clamp of at most kTileGroup rows of x, as weights of a format meet them; missing rows are zeros. On a cache
  // line. Elements beyond k meet no weight, whatever the bounds make of them.   x: (rows, k)
  void (*pack)(DType w, InputRows<float> x, size_t k, Bounds bounds, void* out);
  // Bytes that `multiply` works in.
  size_t scratch_bytes;
  // y[j][r] = clamp(sum_i w[r][i] * x[j][i]) for at most kTilePanel rows of w and j < m <= kTileBlock. The bits of a
  // result do not depend on the other rows and activations of the call.
  //   x: groups as packed, one after the other; y: (m, rows of w); scratch: on a cache line
  void (*multiply)(DType format, WeightRows w, const void* x, size_t m, Bounds bounds, OutputRows y, void* scratch);
};

#if defined(__x86_64__)
const TileKernels* tiles_amx_kernels();
#endif

}  // namespace gemma4
