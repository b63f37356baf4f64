// A named read-only view of weights: where the numbers are, how they are stored, what shape they have.
// Knows: formats and shapes. Must not know: which file or layer it came from.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "core/dtype.h"

namespace gemma4 {

// What a matrix of quants needs beside them.
struct Scales {
  const std::byte* data = nullptr;  // (rows, groups)  a row is `groups` equal parts, each with a scale
  DType dtype = DType::kF32;
  size_t groups = 0;
  // Steps of the lattices, of 256 quants, to which a product rounds what it reads and what it writes; 0: it does not.
  float input = 0, output = 0;
};

struct TensorView {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<size_t, 4> shape{};  // the first `rank` are valid
  Scales scales{};                // of quants

  bool empty() const { return data == nullptr; }
  size_t elements() const {
    size_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  size_t cols() const { return shape[rank - 1]; }
  size_t rows() const { return elements() / cols(); }
  size_t stride() const { return row_bytes(dtype, cols()); }
  // Row r of the tensor seen as a (rows, cols) matrix.
  const std::byte* row(size_t r) const { return data + r * stride(); }
  // Rows [first, first + n) of the tensor seen as a (rows, cols) matrix.
  TensorView slice(size_t first, size_t n) const {
    TensorView part{row(first), dtype, 2, {n, cols()}, scales};
    if (scales.data != nullptr) part.scales.data += first * row_bytes(scales.dtype, scales.groups);
    return part;
  }
  // The matrix at index i of a rank-3 tensor (an expert of a mixture).
  TensorView matrix(size_t i) const { return {data + i * shape[1] * stride(), dtype, 2, {shape[1], shape[2]}}; }
};

}  // namespace gemma4
