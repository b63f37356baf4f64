// Matrix products over weights in any format, split over threads.
// Knows: matrices, the kernel table, OpenBLAS. Must not know: layers.
#pragma once

#include <span>

#include "core/tensor.h"
#include "model/compute.h"

namespace gemma4 {

// How the rows of a call are computed. Those that belong together, such as a prompt's, take the way that their number
// asks for. Behind them are single ones, such as the next tokens of several sequences: each gets the bits that it would
// get alone, whatever its company.
struct RowCounts {
  size_t together = 0, single = 0;

  size_t all() const { return together + single; }
};

// A matrix that a call multiplies with, and where the product goes.
struct Product {
  TensorView w;        // (rows, cols)
  float* y;            // (m, rows) f32, m: all rows of the call
  Bounds bounds = {};  // of y
  size_t ldy = 0;      // floats from one row of y to the next; 0 = rows
  size_t row = 0;      // of x: the first of the m that it meets

  size_t stride() const { return ldy == 0 ? w.rows() : ldy; }
};

// y = clamp(clamp(x) w^T) for every product.   x: (m, cols) f32, or more rows where products meet others of them
// Few rows stream the weights as they are; many rows unpack a tile of weights once and multiply it: by OpenBLAS, or for
// block formats (Q4_0 ...) by int8 kernels, which round each 32 values of x to int8 with a scale of their own. Where
// the processor multiplies tiles (kernels/tiles.h), those take many rows of any format: blocks and x rounded to bf16.
// The tiles depend on the shapes alone, so the result is the same for any number of threads. What one format needs of x
// is made once for consecutive products in that format, and they are computed in one loop over the threads.
// Quants multiply f32 activations exactly, those that their file rounds to a lattice as the integers that they are.
// Where all rows take int8 kernels, weights are read once for those that belong together and the single ones.
void linear(const Compute& c, std::span<const Product> products, const float* x, RowCounts rows, Bounds bounds = {});

// One product, unbounded.
void linear(const Compute& c, const TensorView& w, const float* x, RowCounts rows, float* y, size_t ldy = 0);

// Of m rows that belong together.
inline void linear(const Compute& c, std::span<const Product> products, const float* x, size_t m, Bounds bounds = {}) {
  linear(c, products, x, RowCounts{.together = m}, bounds);
}
inline void linear(const Compute& c, const TensorView& w, const float* x, size_t m, float* y, size_t ldy = 0) {
  linear(c, w, x, RowCounts{.together = m}, y, ldy);
}

// One thread of OpenBLAS per call of ours: the pool is the only source of parallelism.
void single_threaded_blas();

}  // namespace gemma4
