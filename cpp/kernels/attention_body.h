// The kernels of attention over cache rows, written once over the vector class V of body.h. Knows: rows of a cache,
// lanes. Must not know: which instruction set, positions, softmax. Internal linkage (see body.h).
//
// The queries that share a key are multiplied with it together, so a row is read and converted once for up to eight of
// them. Every result has one accumulator that takes the rows and elements in order, whatever the tile: the same bits
// however queries and rows are split between calls.
//
// V beyond body.h:
//   load_i8(p)  kLanes int8 as floats;  load_i4(p, low, high)  kLanes bytes of nibbles - 8 as two vectors
//   butterfly<h>(v)  lane i and i + h (h a power of two, bit h of i clear) become their sum and their difference
//   kScores  results that fit the registers at once;  kSumRows  rows added at once
#pragma once

#include "kernels/attention.h"
#include "kernels/body.h"

namespace gemma4 {
namespace {

// How two vectors, elements i... and i + 16... of a block of 32, become floats.

struct F32Rows {
  static constexpr size_t kBlockBytes = 128;
  static constexpr bool kScaled = false;
  template <class V>
  GEMMA4_INLINE static inline void load(const char* p, size_t i, typename V::F, typename V::F& a, typename V::F& b) {
    a = V::load(reinterpret_cast<const float*>(p) + i, All{});
    b = V::load(reinterpret_cast<const float*>(p) + i + 16, All{});
  }
};

struct BF16Rows {
  static constexpr size_t kBlockBytes = 64;
  static constexpr bool kScaled = false;
  template <class V>
  GEMMA4_INLINE static inline void load(const char* p, size_t i, typename V::F, typename V::F& a, typename V::F& b) {
    a = V::load_bf16(p + 2 * i, All{});
    b = V::load_bf16(p + 2 * (i + 16), All{});
  }
};

struct Q8Rows {
  static constexpr size_t kBlockBytes = 32;
  static constexpr bool kScaled = true;
  template <class V>
  GEMMA4_INLINE static inline void load(const char* p, size_t i, typename V::F scale, typename V::F& a,
                                        typename V::F& b) {
    a = V::mul(scale, V::load_i8(p + i));
    b = V::mul(scale, V::load_i8(p + i + 16));
  }
};

struct Q4Rows {
  static constexpr size_t kBlockBytes = 16;
  static constexpr bool kScaled = true;
  template <class V>
  GEMMA4_INLINE static inline void load(const char* p, size_t i, typename V::F scale, typename V::F& a,
                                        typename V::F& b) {
    V::load_i4(p + i, a, b);
    a = V::mul(scale, a);
    b = V::mul(scale, b);
  }
};

// Bytes between what is read and what is asked for.
inline constexpr size_t kAhead = 8192;

// R rows of n elements, a group of 64 at a time.
template <class V, class T, int R>
struct RowTile {
  RowTile(CacheRows rows, size_t n) : stride(n / kCacheBlock * T::kBlockBytes), groups((n + 63) / 64), at(rows) {}

  // f(i, a, b) for every i = 0, kLanes, ... of the first halves of the blocks: a[r] are the elements i... of row r,
  // b[r] the elements i + 16...
  template <class Fn>
  GEMMA4_INLINE inline void for_each(size_t n, Fn f) const {
    typename V::F scale[R], a[R], b[R];
    for (int r = 0; r < R; ++r) scale[r] = V::set(1.0f);
    for (size_t block = 0; block < n / kCacheBlock; ++block) {
      if constexpr (T::kScaled) {
        if (block % 2 == 0)
          for (int r = 0; r < R; ++r) scale[r] = scale_of(at.scales[r * groups + block / 2]);
      }
      const char* p = at.levels + block * T::kBlockBytes;
      // The processor's own prefetch ends at every page and does not follow R rows at once.
      if (block * T::kBlockBytes % 64 == 0)
        for (int r = 0; r < R; ++r) __builtin_prefetch(p + r * stride + kAhead);
      for (size_t i = 0; i < 16; i += V::kLanes) {
        for (int r = 0; r < R; ++r) T::template load<V>(p + r * stride, i, scale[r], a[r], b[r]);
        f(block * kCacheBlock + i, a, b);
      }
    }
  }

  size_t stride, groups;
  CacheRows at;

 private:
  GEMMA4_INLINE static inline typename V::F scale_of(uint16_t bf16) {
    const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return V::set(f);
  }
};

template <class T>
inline CacheRows skip(CacheRows rows, size_t count, size_t n) {
  return {rows.levels + count * (n / kCacheBlock * T::kBlockBytes),
          T::kScaled ? rows.scales + count * ((n + 63) / 64) : nullptr};
}

template <class V, class T>
void cache_load(CacheRows rows, size_t count, size_t n, float* out) {
  for (size_t r = 0; r < count; ++r, out += n) {
    RowTile<V, T, 1>(skip<T>(rows, r, n), n)
        .for_each(n, [&](size_t i, typename V::F(&a)[1], typename V::F(&b)[1]) GEMMA4_INLINE {
          V::store(out + i, a[0], All{});
          V::store(out + i + 16, b[0], All{});
        });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores: y[j][r] = q_j . row r.

template <class V, class T, int R, int J>
void score_tile(CacheRows rows, size_t n, const float* q, float* y, size_t ldy) {
  typename V::F acc[R][J];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < J; ++j) acc[r][j] = V::set(0.0f);
  RowTile<V, T, R>(rows, n).for_each(n, [&](size_t i, typename V::F(&a)[R], typename V::F(&b)[R]) GEMMA4_INLINE {
    for (int j = 0; j < J; ++j) {
      const typename V::F x = V::load(q + j * n + i, All{});
      for (int r = 0; r < R; ++r) acc[r][j] = V::fma(a[r], x, acc[r][j]);
    }
    for (int j = 0; j < J; ++j) {
      const typename V::F x = V::load(q + j * n + i + 16, All{});
      for (int r = 0; r < R; ++r) acc[r][j] = V::fma(b[r], x, acc[r][j]);
    }
  });
  for (int j = 0; j < J; ++j)
    for (int r = 0; r < R; ++r) y[j * ldy + r] = V::sum(acc[r][j]);
}

// J queries against all rows.
template <class V, class T, int J>
inline void score_rows(CacheRows rows, size_t count, size_t n, const float* q, float* y, size_t ldy) {
  constexpr int kRows = V::kScores / J < 8 ? V::kScores / J : 8;
  size_t r = 0;
  for (; r + kRows <= count; r += kRows) score_tile<V, T, kRows, J>(skip<T>(rows, r, n), n, q, y + r, ldy);
  for (; r < count; ++r) score_tile<V, T, 1, J>(skip<T>(rows, r, n), n, q, y + r, ldy);
}

template <class V, class T>
void cache_scores(CacheRows rows, size_t count, size_t n, const float* q, size_t m, float* y, size_t ldy) {
  size_t j = 0;
  for (; j + 8 <= m; j += 8) score_rows<V, T, 8>(rows, count, n, q + j * n, y + j * ldy, ldy);
  for (; j + 4 <= m; j += 4) score_rows<V, T, 4>(rows, count, n, q + j * n, y + j * ldy, ldy);
  for (; j < m; ++j) score_rows<V, T, 1>(rows, count, n, q + j * n, y + j * ldy, ldy);
}

// ---------------------------------------------------------------------------------------------------------------------
// Weighted sums: y[j] += sum_r p[j][r] row r.

template <class V, class T, int R>
void sum_tile(CacheRows rows, size_t n, const float* p, size_t ldp, size_t m, float* y) {
  RowTile<V, T, R>(rows, n).for_each(n, [&](size_t i, typename V::F(&a)[R], typename V::F(&b)[R]) GEMMA4_INLINE {
    for (size_t j = 0; j < m; ++j) {
      float* at = y + j * n + i;
      typename V::F first = V::load(at, All{}), second = V::load(at + 16, All{});
      for (int r = 0; r < R; ++r) {
        const typename V::F weight = V::set(p[j * ldp + r]);
        first = V::fma(weight, a[r], first);
        second = V::fma(weight, b[r], second);
      }
      V::store(at, first, All{});
      V::store(at + 16, second, All{});
    }
  });
}

template <class V, class T>
void cache_sum(CacheRows rows, size_t count, size_t n, const float* p, size_t ldp, size_t m, float* y) {
  size_t r = 0;
  for (; r + V::kSumRows <= count; r += V::kSumRows)
    sum_tile<V, T, V::kSumRows>(skip<T>(rows, r, n), n, p + r, ldp, m, y);
  for (; r < count; ++r) sum_tile<V, T, 1>(skip<T>(rows, r, n), n, p + r, ldp, m, y);
}

// ---------------------------------------------------------------------------------------------------------------------

template <class V, int h = 1>
GEMMA4_INLINE inline typename V::F butterflies(typename V::F v) {
  if constexpr (h < static_cast<int>(V::kLanes)) {
    return butterflies<V, 2 * h>(V::template butterfly<h>(v));
  } else {
    return v;
  }
}

template <class V>
void hadamard(float* x, size_t n) {
  const size_t size = n & (~n + 1);  // the largest power of two that divides n
  for (size_t i = 0; i < n; i += V::kLanes) V::store(x + i, butterflies<V>(V::load(x + i, All{})), All{});
  for (size_t half = V::kLanes; half < size; half *= 2) {
    for (size_t base = 0; base < n; base += 2 * half) {
      for (size_t i = base; i < base + half; i += V::kLanes) {
        const typename V::F a = V::load(x + i, All{}), b = V::load(x + i + half, All{});
        V::store(x + i, V::add(a, b), All{});
        V::store(x + i + half, V::sub(a, b), All{});
      }
    }
  }
  const typename V::F unit = V::set(1.0f / __builtin_sqrtf(static_cast<float>(size)));
  for (size_t i = 0; i < n; i += V::kLanes) V::store(x + i, V::mul(unit, V::load(x + i, All{})), All{});
}

template <class V, class T>
consteval CacheKernels make_cache() {
  return {.load = cache_load<V, T>, .scores = cache_scores<V, T>, .sum = cache_sum<V, T>};
}

template <class V>
consteval AttentionKernels make_attention() {
  AttentionKernels table{};
  table.cache[static_cast<int>(DType::kF32)] = make_cache<V, F32Rows>();
  table.cache[static_cast<int>(DType::kBF16)] = make_cache<V, BF16Rows>();
  table.cache[static_cast<int>(DType::kQ8_0)] = make_cache<V, Q8Rows>();
  table.cache[static_cast<int>(DType::kQ4_0)] = make_cache<V, Q4Rows>();
  table.hadamard = hadamard<V>;
  return table;
}

}  // namespace
}  // namespace gemma4
