// Random weights in any storage format, with the values that they stand for.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"
#include "kernels/isa.h"

namespace gemma4 {

inline const DType kAllFormats[] = {DType::kF32, DType::kF16, DType::kBF16};

// The f16 bits of a normal, finite value: rounded towards zero, which is all that a test needs.
inline uint16_t f16_of(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const int exponent = static_cast<int>((u >> 23) & 0xffu) - 112;
  const uint32_t sign = (u >> 16) & 0x8000u;
  if (exponent <= 0) return static_cast<uint16_t>(sign);
  return static_cast<uint16_t>(sign | (static_cast<uint32_t>(exponent) << 10) | ((u >> 13) & 0x3ffu));
}

inline float stored(DType t, float f, std::byte* to) {
  if (t == DType::kF32) {
    std::memcpy(to, &f, sizeof f);
    return f;
  }
  const uint16_t bits = t == DType::kBF16 ? f32_to_bf16(f) : f16_of(f);
  std::memcpy(to, &bits, sizeof bits);
  return t == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

inline std::vector<float> random_rows(size_t n, std::mt19937& rng) {
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return x;
}

// A tensor, its bytes (which begin `offset` bytes after an aligned address) and its values.
struct RandomTensor {
  RandomTensor() = default;
  RandomTensor(DType t, std::vector<size_t> shape, float deviation, std::mt19937& rng, size_t offset = 0) {
    view.dtype = t;
    view.rank = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), view.shape.begin());
    const size_t n = view.elements(), size = traits(t).block_bytes;
    bytes = std::make_shared<std::vector<std::byte>>(row_bytes(t, n) + offset);
    view.data = bytes->data() + offset;
    std::normal_distribution<float> normal(0, deviation);
    if (is_block_format(t)) {
      const FormatKernels& format = isa_by_name("scalar").k.of(t);
      for (size_t i = 0; i < n; ++i) values.push_back(normal(rng));
      format.from_f32(values.data(), bytes->data() + offset, n);
      format.to_f32(bytes->data() + offset, values.data(), n);
      return;
    }
    for (size_t i = 0; i < n; ++i) values.push_back(stored(t, normal(rng), bytes->data() + offset + i * size));
  }

  void set(size_t i, float f) {
    values[i] = stored(view.dtype, f, bytes->data() + (view.data - bytes->data()) + i * traits(view.dtype).block_bytes);
  }

  TensorView view;
  std::shared_ptr<std::vector<std::byte>> bytes;
  std::vector<float> values;
};

}  // namespace gemma4
