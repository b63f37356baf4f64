// The kernel table: every arithmetic loop of the engine, once per instruction set.
// Knows: rows of floats and blocks. Must not know: layers, models, threads.
//
// One table per instruction set; kernels/isa.h says which one is in use. The scalar table is the specification; the
// others equal it within the rounding of reordered sums. A call does at least a row of work, so dispatch costs nothing.
#pragma once

#include <cstddef>

#include "core/dtype.h"
#include "kernels/blocks.h"

namespace gemma4 {

// What values are held within; infinite bounds leave them alone.
struct Bounds {
  float lo = -__builtin_inff(), hi = __builtin_inff();

  bool operator==(const Bounds&) const = default;
};

// Rows of a matrix as they are stored: (count, k) elements of one format.
struct WeightRows {
  const void* rows;
  size_t stride;  // bytes from one row to the next, of which row_bytes(dtype, k) are the row's
  size_t count, k;
};
// What they meet: `count` rows, `ld` elements apart.
template <class T>
struct InputRows {
  const T* rows;
  size_t ld, count;
};
// Where the results go, one row for each row of the input: `ld` floats apart.
struct OutputRows {
  float* rows;
  size_t ld;
};

// Kernels of one storage format: what a matrix or a cache in that format must be able to do. F32, F16 and BF16 multiply
// f32 activations (rows_dot, rows_axpy), and so do quants, whose values here are without their scales; block formats
// multiply activations that `quantize` rounded to int8, so that one rounding serves every row and thread. What a format
// does not do is null.
struct FormatKernels {
  // dst[0..n) = the n elements at src, n a multiple of the block size.
  void (*to_f32)(const void* src, float* dst, size_t n);
  // y[j][r] = sum_i w[r][i] * x[j][i] for all rows r of w and j of x.
  //   w: (rows, k); x: (m, k); y: (m, rows)
  void (*rows_dot)(WeightRows w, InputRows<float> x, OutputRows y);
  // y[j][i] += sum_r p[j][r] * w[r][i] for i < k and all rows j of p: the weighted sum of value rows.
  //   w: (rows, k); p: (m, rows); y: (m, k)
  void (*rows_axpy)(WeightRows w, InputRows<float> p, OutputRows y);
  // dst = the n floats at src in this format: caches are written with it, checkpoints converted.
  void (*from_f32)(const float* src, void* dst, size_t n);

  // out[0..ceil(k / 256)) = the k floats at x, clamped, as int8; k a multiple of 32. For this format and this table
  // only: the zero point is in `out`. A NaN stays a NaN.
  void (*quantize)(const float* x, size_t k, Bounds bounds, Int8Chunk* out);
  // y[j][r] = clamp(sum_i w[r][i] * x[j][i]), as rows_dot, with rows of x as `quantize` writes them. Products are
  // summed exactly inside a block, and blocks are added in order: the bits of a result do not depend on the other rows
  // and activations of the call. But few rows of activations (up to four) are added lane by lane, in an order of their
  // own.
  void (*multiply_int8)(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows y);
  // The same for rows that must not depend on their number: the bits of row j are those that x's row j has alone, for
  // any m, by the order of sums of m = 1. Up to 16 rows or so cost less than they do one by one; for many more,
  // multiply_int8 is faster.
  void (*multiply_streamed)(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows y);
};

struct Kernels {
  FormatKernels format[kDTypeCount];  // indexed by DType
  // y = x / sqrt(mean(x^2) + eps) * weight; weight (n,) or null for none. y may be x.
  void (*rms_norm)(const float* x, const float* weight, float* y, size_t n, float eps);
  // y += a * x
  void (*axpy)(float a, const float* x, float* y, size_t n);
  // y = a * x. y may be x.
  void (*scale)(float a, const float* x, float* y, size_t n);
  // y = x * z elementwise. y may be x.
  void (*mul)(const float* x, const float* z, float* y, size_t n);
  // y = gelu_tanh(gate) * up. y may be gate.
  void (*gelu_mul)(const float* gate, const float* up, float* y, size_t n);
  // x = cap * tanh(x / cap)
  void (*soft_cap)(float* x, size_t n, float cap);
  // x = exp(x - max); returns the sum. The caller divides: attention folds it into its output.
  float (*exp_sum)(float* x, size_t n, float max);
  float (*max)(const float* x, size_t n);
  // Rotates the pairs (x[i], x[i + half]) for i < pairs by the angle whose cosine and sine are cos[i], sin[i].
  void (*rope)(float* x, const float* cos, const float* sin, size_t pairs, size_t half);
  // x = clamp(x, lo, hi); a NaN stays a NaN.
  void (*clamp)(float* x, size_t n, float lo, float hi);
  // y = unit * the nearest of the quants -128 to 127 to x / step, ties to even; a NaN stays a NaN. y may be x.
  void (*to_lattice)(const float* x, float* y, size_t n, float step, float unit);

  const FormatKernels& of(DType t) const { return format[static_cast<int>(t)]; }
};

}  // namespace gemma4
