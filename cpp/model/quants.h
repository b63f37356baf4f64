// Rows of a matrix of any format as f32, those of quants with their scales.
// Knows: views, the kernel table. Must not know: files, layers.
#pragma once

#include <cstddef>

#include "core/tensor.h"
#include "kernels/kernels.h"

namespace gemma4 {

// out = the scales of rows [first, first + n).   out: (n, groups)
inline void scales_to_f32(const Kernels& k, const TensorView& w, size_t first, size_t n, float* out) {
  const Scales& s = w.scales;
  k.of(s.dtype).to_f32(s.data + first * row_bytes(s.dtype, s.groups), out, n * s.groups);
}

// values *= the scales of row r; for a matrix that is not of quants, nothing happens.   values: (cols)
inline void scale_row(const Kernels& k, const TensorView& w, size_t r, float* values) {
  if (w.scales.data == nullptr) return;
  const size_t groups = w.scales.groups, group = w.cols() / groups, scale_bytes = row_bytes(w.scales.dtype, 1);
  const auto to_f32 = k.of(w.scales.dtype).to_f32;
  for (size_t g = 0; g < groups; ++g) {
    float scale = 0;
    to_f32(w.scales.data + (r * groups + g) * scale_bytes, &scale, 1);
    k.scale(scale, values + g * group, values + g * group, group);
  }
}

// values: (cols)
inline void row_to_f32(const Kernels& k, const TensorView& w, size_t r, float* values) {
  k.of(w.dtype).to_f32(w.row(r), values, w.cols());
  scale_row(k, w, r, values);
}

}  // namespace gemma4
