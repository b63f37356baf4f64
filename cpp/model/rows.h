// What models do row by row: parallel loops, and linears whose input and output are clamped.
// Knows: rows of floats, matrices, the thread pool. Must not know: layers.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "model/adapters.h"
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

// y = clamp(y + what an adapter adds to it), where y is w clamp(x).
//   x: (rows, w.cols); y: (rows, w.rows)
inline void adapt_clipped(const Compute& c, const Adapter& adapter, const ClippedMatrix& m, const float* x, size_t rows,
                          float* y) {
  const size_t in = m.w.cols(), out = m.w.rows();
  const Bounds within{m.in_min, m.in_max};
  const float* own = x;
  if (!(within == Bounds{})) {
    float* clamped = c.workspace.clamped.room(rows * in);
    for_rows(c, rows, [&](size_t r, int) {
      std::copy_n(x + r * in, in, clamped + r * in);
      c.k.clamp(clamped + r * in, in, within.lo, within.hi);
    });
    own = clamped;
  }
  adapt(c, &adapter, m.w, own, rows, y);
  for_rows(c, rows, [&](size_t r, int) { c.k.clamp(y + r * out, out, m.out_min, m.out_max); });
}

// A clipped matrix of a call, and where its product goes.
struct ClippedProduct {
  const ClippedMatrix& matrix;
  float* y;  // (rows, w.rows)
};

// y = clamp(w clamp(x)) for every product; those whose bounds of x are the same share what is made of it. What an
// adapter (null = none) adds to a product lies within the same bounds.
//   x: (rows, w.cols)
inline void clipped_linear(const Compute& c, const Adapter* adapter, std::initializer_list<ClippedProduct> products,
                           const float* x, size_t rows) {
  const auto bounds_of = [](const ClippedProduct& p) { return Bounds{p.matrix.in_min, p.matrix.in_max}; };
  const auto adapted = [&](const ClippedProduct& p) {
    return adapter != nullptr && adapter->of(p.matrix.w) != nullptr;
  };
  std::vector<Product> alike;
  for (const ClippedProduct* p = products.begin(); p != products.end();) {
    const Bounds bounds = bounds_of(*p);
    alike.clear();
    do {
      const Bounds out{p->matrix.out_min, p->matrix.out_max};
      alike.push_back({.w = p->matrix.w, .y = p->y, .bounds = adapted(*p) ? Bounds{} : out});
    } while (++p != products.end() && bounds_of(*p) == bounds);
    linear(c, alike, x, rows, bounds);
  }
  for (const ClippedProduct& p : products) {
    if (adapted(p)) adapt_clipped(c, *adapter, p.matrix, x, rows, p.y);
  }
}

}  // namespace gemma4
