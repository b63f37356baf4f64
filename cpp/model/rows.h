// What models do row by row: parallel loops, and linears whose input and output are clamped.
// Knows: rows of floats, matrices, the thread pool. Must not know: layers.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

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

// A clipped matrix of a call, and where its product goes.
struct ClippedProduct {
  const ClippedMatrix& matrix;
  float* y;  // (rows, w.rows)
};

// y = clamp(w clamp(x)) for every product; those whose bounds of x are the same share what is made of it.
//   x: (rows, w.cols)
inline void clipped_linear(const Compute& c, std::initializer_list<ClippedProduct> products, const float* x,
                           size_t rows) {
  const auto bounds_of = [](const ClippedProduct& p) { return Bounds{p.matrix.in_min, p.matrix.in_max}; };
  std::vector<Product> alike;
  for (const ClippedProduct* p = products.begin(); p != products.end();) {
    const Bounds bounds = bounds_of(*p);
    alike.clear();
    do {
      alike.push_back({.w = p->matrix.w, .y = p->y, .bounds = {p->matrix.out_min, p->matrix.out_max}});
    } while (++p != products.end() && bounds_of(*p) == bounds);
    linear(c, alike, x, rows, bounds);
  }
}

}  // namespace gemma4
