// The one door to OpenBLAS. Knows: row-major f32 matrices. Must not know: weights, layers, threads.
// A product runs on the calling thread alone once `single_threaded_blas` (model/linear.h) was called.
#pragma once

#include <cblas.h>

#include <cstddef>

// The `scipy-openblas32` package prefixes every symbol; a distribution's OpenBLAS does not.
#ifndef BLAS_SYMBOL_PREFIX
#define BLAS_SYMBOL_PREFIX
#endif
#define GEMMA4_BLAS_JOIN_(a, b) a##b
#define GEMMA4_BLAS_JOIN(a, b) GEMMA4_BLAS_JOIN_(a, b)
#define GEMMA4_BLAS(name) GEMMA4_BLAS_JOIN(BLAS_SYMBOL_PREFIX, name)

namespace gemma4 {

struct MatrixRef {
  const float* data;  // (rows, cols), rows `ld` floats apart
  size_t rows, cols, ld;
};

// c = a b^T.   a: (m, k); b: (n, k); c: (m, n), rows `ldc` floats apart
inline void multiply_transposed(const MatrixRef& a, const MatrixRef& b, float* c, size_t ldc) {
  GEMMA4_BLAS(cblas_sgemm)
  (CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(a.rows), static_cast<blasint>(b.rows),
   static_cast<blasint>(a.cols), 1.0f, a.data, static_cast<blasint>(a.ld), b.data, static_cast<blasint>(b.ld), 0.0f, c,
   static_cast<blasint>(ldc));
}

}  // namespace gemma4
