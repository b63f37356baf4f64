// Matrix products over weights in any format, split over threads.
// Knows: matrices, the kernel table, OpenBLAS. Must not know: layers.
#pragma once

#include "core/interrupt.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "kernels/kernels.h"

namespace gemma4 {

// What a computation runs on: passed whole through the forward pass.
struct Compute {
  const Kernels& k;
  ThreadPool& pool;
  Interrupt& interrupt;
};

// y = x w^T.   x: (m, w.cols) f32; w: (rows, cols); y: (m, w.rows) f32, rows of y `ldy` floats apart (0 = w.rows).
// Few rows stream the weights as they are; many rows unpack a tile of weights once and multiply it: by OpenBLAS, or for
// block formats (Q4_0 ...) by int8 kernels, which round each 32 values of x to int8 with a scale of their own.
// The tiles depend on the shapes alone, so the result is the same for any number of threads.
void linear(const Compute& c, const TensorView& w, const float* x, size_t m, float* y, size_t ldy = 0);

// One thread of OpenBLAS per call of ours: the pool is the only source of parallelism.
void single_threaded_blas();

}  // namespace gemma4
