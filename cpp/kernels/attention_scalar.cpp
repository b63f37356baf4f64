// The attention kernels for every CPU: the specification of the others, in plain loops.
// Knows: arithmetic that any machine has. Must not know: vectors.
#include <cstring>

#include "kernels/attention.h"

namespace gemma4 {
namespace {

// Element i of row r of n elements.
template <DType t>
float element(CacheRows rows, size_t n, size_t r, size_t i) {
  const char* row = rows.quants + r * cache_row_bytes(t, n);
  if constexpr (t == DType::kF32) {
    float f;
    std::memcpy(&f, row + 4 * i, sizeof(f));
    return f;
  } else if constexpr (t == DType::kBF16) {
    uint16_t bits;
    std::memcpy(&bits, row + i / 32 * 64 + i % 16 * 4 + i % 32 / 16 * 2, sizeof(bits));
    return bf16_to_f32(bits);
  } else {
    const float scale = bf16_to_f32(rows.scales[r * cache_row_scales(t, n) + i / kCacheGroup]);
    if constexpr (t == DType::kQ8_0) return scale * static_cast<float>(static_cast<int8_t>(row[i]));
    const int both = static_cast<uint8_t>(row[i / 32 * 16 + i % 16]);
    return scale * static_cast<float>((i % 32 < 16 ? both & 15 : both >> 4) - 8);
  }
}

template <DType t>
void load(CacheRows rows, size_t count, size_t n, float* out) {
  for (size_t r = 0; r < count; ++r)
    for (size_t i = 0; i < n; ++i) out[r * n + i] = element<t>(rows, n, r, i);
}

size_t query_bytes(size_t n, size_t m) { return m * n * sizeof(float); }
void pack(const float* q, size_t n, size_t m, void* out) { std::memcpy(out, q, query_bytes(n, m)); }

template <DType t>
void scores(CacheRows rows, size_t count, size_t n, const void* packed, size_t m, OutputRows y, const char*) {
  const auto* q = static_cast<const float*>(packed);  // (m, n)
  for (size_t r = 0; r < count; ++r) {
    for (size_t j = 0; j < m; ++j) y.rows[j * y.ld + r] = 0;
    for (size_t i = 0; i < n; ++i) {
      const float f = element<t>(rows, n, r, i);
      for (size_t j = 0; j < m; ++j) y.rows[j * y.ld + r] += f * q[j * n + i];
    }
  }
}

template <DType t>
void sum(CacheRows rows, size_t count, size_t n, InputRows<float> p, float* y, const char*) {
  for (size_t r = 0; r < count; ++r) {
    for (size_t i = 0; i < n; ++i) {
      const float f = element<t>(rows, n, r, i);
      for (size_t j = 0; j < p.count; ++j) y[j * n + i] += p.rows[j * p.ld + r] * f;
    }
  }
}

void hadamard(float* x, size_t n) {
  const size_t size = n & (~n + 1);  // the largest power of two that divides n
  for (size_t half = 1; half < size; half *= 2) {
    for (size_t i = 0; i < n; ++i) {
      if ((i & half) != 0) continue;
      const float a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
  const float unit = 1.0f / __builtin_sqrtf(static_cast<float>(size));
  for (size_t i = 0; i < n; ++i) x[i] *= unit;
}

template <DType t>
constexpr CacheKernels kCache{
    .load = load<t>, .query_bytes = query_bytes, .pack = pack, .scores = scores<t>, .sum = sum<t>};

constexpr AttentionKernels make() {
  AttentionKernels table{};
  table.cache[static_cast<int>(DType::kF32)] = kCache<DType::kF32>;
  table.cache[static_cast<int>(DType::kBF16)] = kCache<DType::kBF16>;
  table.cache[static_cast<int>(DType::kQ8_0)] = kCache<DType::kQ8_0>;
  table.cache[static_cast<int>(DType::kQ4_0)] = kCache<DType::kQ4_0>;
  table.hadamard = hadamard;
  return table;
}

constexpr AttentionKernels kTable = make();

}  // namespace

const AttentionKernels* attention_scalar_kernels() { return &kTable; }

}  // namespace gemma4
