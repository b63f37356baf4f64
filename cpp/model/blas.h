// The one door to OpenBLAS. Knows: row-major f32 matrices. Must not know: weights, layers, threads.
// A product runs on the calling thread alone once `single_threaded_blas` (model/linear.h) was called.
#pragma once

#include <cblas.h>

#include <atomic>
#include <cstddef>

#include "core/pages.h"

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

// Has to exist while `threads` threads multiply: OpenBLAS ends the process where it cannot have the memory that it
// packs matrices in, so whether it can is asked before. (What it has it keeps, but how much that is it does not say.)
class BlasMemory {
 public:
  // Throws std::bad_alloc.
  explicit BlasMemory(int threads) : threads_(threads) {
    try {
      const Pages room(static_cast<size_t>(users_.fetch_add(threads) + threads) * kEach);
    } catch (...) {
      users_.fetch_sub(threads);
      throw;
    }
  }
  ~BlasMemory() { users_.fetch_sub(threads_); }
  BlasMemory(const BlasMemory&) = delete;
  BlasMemory& operator=(const BlasMemory&) = delete;

 private:
  static constexpr size_t kEach = size_t{40} << 20;  // 32 MiB, and what its thread may need besides
  static inline std::atomic<int> users_{0};          // of the process, whatever their model
  const int threads_;
};

// c = a b^T.   a: (m, k); b: (n, k); c: (m, n), rows `ldc` floats apart
inline void multiply_transposed(const MatrixRef& a, const MatrixRef& b, float* c, size_t ldc) {
  GEMMA4_BLAS(cblas_sgemm)
  (CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(a.rows), static_cast<blasint>(b.rows),
   static_cast<blasint>(a.cols), 1.0f, a.data, static_cast<blasint>(a.ld), b.data, static_cast<blasint>(b.ld), 0.0f, c,
   static_cast<blasint>(ldc));
}

}  // namespace gemma4
