// What the encoders do row by row: parallel loops, and linears whose input and output are clamped.
// Knows: rows of floats, matrices, the thread pool. Must not know: layers.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "model/linear.h"
#include "model/weights.h"

namespace gemma4 {

inline size_t blocks(size_t n, size_t size) { return (n + size - 1) / size; }

// Calls body(row, thread) for each row in [0, rows), in parallel.
template <class Body>
void for_rows(const Compute& c, size_t rows, const Body& body) {
  constexpr size_t kRowsPerItem = 8;
  c.pool.parallel_for(blocks(rows, kRowsPerItem), [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    const size_t end = std::min(rows, (item + 1) * kRowsPerItem);
    for (size_t row = item * kRowsPerItem; row < end; ++row) body(row, thread);
  });
}

// Returns x itself where the bounds are infinite, else y = clamp(x), which may be in place.
inline const float* clamp(const Compute& c, const float* x, float* y, size_t n, float lo, float hi) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr size_t kPiece = 4096;
  if (lo == -kInfinity && hi == kInfinity) return x;
  for_rows(c, blocks(n, kPiece), [&](size_t piece, int) {
    const size_t first = piece * kPiece, count = std::min(kPiece, n - first);
    if (y != x) std::memcpy(y + first, x + first, count * sizeof(float));
    c.k.clamp(y + first, count, lo, hi);
  });
  return y;
}

// y = clamp(w clamp(x)).   x: (rows, w.cols); y: (rows, w.rows); scratch: (rows, w.cols), unused without bounds
inline void clipped_linear(const Compute& c, const ClippedMatrix& m, const float* x, size_t rows, float* y,
                           float* scratch) {
  linear(c, m.w, clamp(c, x, scratch, rows * m.w.cols(), m.in_min, m.in_max), rows, y);
  clamp(c, y, y, rows * m.w.rows(), m.out_min, m.out_max);
}

}  // namespace gemma4
