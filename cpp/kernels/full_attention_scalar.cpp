// The kernels of full attention for every CPU: the specification of the others, in plain loops.
// Knows: arithmetic that any machine has. Must not know: vectors.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/full_attention.h"

namespace gemma4 {
namespace {

// What a query keeps from block to block: out is its weighted sum, not yet divided by `sum`.
struct Running {
  // Rows whose scores with this query are p, and whose largest is `best`, come next.
  void move(float best, size_t dim) {
    const float most = best > max || best != best ? best : max, shrink = std::exp(max - most);
    max = most;
    sum *= shrink;
    for (size_t i = 0; i < dim; ++i) out[i] *= shrink;
  }

  float* out;  // (dim)
  float max = -INFINITY, sum = 0;
};

float larger(float a, float b) { return b > a || b != b ? b : a; }

float largest(const float* x, size_t n, float from) {
  for (size_t i = 0; i < n; ++i) from = larger(from, x[i]);
  return from;
}

// ---------------------------------------------------------------------------------------------------------------------
// In f32. A packed block: keys (kFullKeys, dim), values (kFullKeys, dim).

size_t exact_bytes(size_t dim) { return 2 * kFullKeys * dim * sizeof(float); }

void exact_pack(const float* k, const float* v, size_t ld, size_t keys, size_t dim, void* block) {
  auto* to = static_cast<float*>(block);
  for (size_t r = 0; r < keys; ++r) {
    std::memcpy(to + r * dim, k + r * ld, dim * sizeof(float));
    std::memcpy(to + (kFullKeys + r) * dim, v + r * ld, dim * sizeof(float));
  }
}

void exact_block(const float* block, size_t keys, size_t dim, const float* q, Running& running) {
  float p[kFullKeys];
  for (size_t r = 0; r < keys; ++r) {
    p[r] = 0;
    for (size_t i = 0; i < dim; ++i) p[r] += q[i] * block[r * dim + i];
  }
  running.move(largest(p, keys, -INFINITY), dim);
  for (size_t r = 0; r < keys; ++r) {
    const float weight = std::exp(p[r] - running.max);
    running.sum += weight;
    for (size_t i = 0; i < dim; ++i) running.out[i] += weight * block[(kFullKeys + r) * dim + i];
  }
}

template <size_t (*kBytes)(size_t dim), void (*kBlock)(const float*, size_t, size_t, const float*, Running&)>
void attend(const void* blocks, size_t keys, size_t dim, float* q, size_t ld, size_t queries, void* scratch) {
  for (size_t j = 0; j < queries; ++j) {
    Running running{static_cast<float*>(scratch)};
    std::memset(running.out, 0, dim * sizeof(float));
    const auto* block = static_cast<const char*>(blocks);
    for (size_t first = 0; first < keys; first += kFullKeys, block += kBytes(dim)) {
      const size_t count = keys - first < kFullKeys ? keys - first : kFullKeys;
      kBlock(reinterpret_cast<const float*>(block), count, dim, q + j * ld, running);
    }
    for (size_t i = 0; i < dim; ++i) q[j * ld + i] = running.out[i] / running.sum;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The weighted sum of values in int8. A packed block: keys (kFullKeys, dim) in f32, values (kFullKeys, dim) in int8,
// and a scale of each value.

size_t rounded_bytes(size_t dim) { return kFullKeys * (dim * (sizeof(float) + 1) + sizeof(float)); }

// q = x as int8; returns the scale, NaN if an element is not finite.
float round_row(const float* x, size_t dim, int8_t* q) {
  float most = 0;
  for (size_t i = 0; i < dim; ++i) most = larger(most, std::fabs(x[i]));
  const bool finite = most < INFINITY, some = most >= 0x1p-100f;
  for (size_t i = 0; i < dim; ++i)
    q[i] = finite && some ? static_cast<int8_t>(std::nearbyint(x[i] * (127.0f / most))) : int8_t{0};
  return finite ? (some ? most / 127.0f : 0.0f) : NAN;
}

void rounded_pack(const float* k, const float* v, size_t ld, size_t keys, size_t dim, void* block) {
  auto* packed = static_cast<float*>(block);
  float* scales = packed + kFullKeys * dim;
  auto* values = reinterpret_cast<int8_t*>(scales + kFullKeys);
  for (size_t r = 0; r < keys; ++r) {
    std::memcpy(packed + r * dim, k + r * ld, dim * sizeof(float));
    scales[r] = round_row(v + r * ld, dim, values + r * dim);
  }
}

// The weights of a block, each times the scale of its value, become int8 with one scale: the largest weight times the
// largest scale is 127.
void rounded_block(const float* block, size_t keys, size_t dim, const float* q, Running& running) {
  const float* scales = block + kFullKeys * dim;
  const auto* values = reinterpret_cast<const int8_t*>(scales + kFullKeys);
  float p[kFullKeys];
  int32_t quant[kFullKeys];
  for (size_t r = 0; r < keys; ++r) {
    p[r] = 0;
    for (size_t i = 0; i < dim; ++i) p[r] += q[i] * block[r * dim + i];
  }
  const float best = largest(p, keys, -INFINITY), most = largest(scales, keys, 0);
  running.move(best, dim);
  const float share = std::exp(best - running.max);
  for (size_t r = 0; r < keys; ++r) {
    const float weight = std::exp(p[r] - best);
    running.sum += share * weight;
    const float scaled = weight * (127.0f * scales[r] / most);
    quant[r] = scaled == scaled ? static_cast<int32_t>(std::nearbyint(scaled)) : 0;
  }
  for (size_t i = 0; i < dim; ++i) {
    int32_t total = 0;
    for (size_t r = 0; r < keys; ++r) total += quant[r] * values[r * dim + i];
    running.out[i] += static_cast<float>(total) * (share * (most / 127.0f));
  }
}

size_t scratch_bytes(size_t dim) { return dim * sizeof(float); }

constexpr FullAttentionKernels kTable{
    .exact = {.block_bytes = exact_bytes,
              .scratch_bytes = scratch_bytes,
              .pack = exact_pack,
              .attend = attend<exact_bytes, exact_block>},
    .rounded = {.block_bytes = rounded_bytes,
                .scratch_bytes = scratch_bytes,
                .pack = rounded_pack,
                .attend = attend<rounded_bytes, rounded_block>},
};

}  // namespace

const FullAttentionKernels* full_attention_scalar_kernels() { return &kTable; }

}  // namespace gemma4
