// The kernels of attention over cache rows, written once over the vector class V of body.h. Knows: rows of a cache,
// lanes. Must not know: which instruction set, positions, softmax. Internal linkage (see body.h).
//
// The queries that share a key are multiplied with it together, so a row is read and converted once for up to eight of
// them. Every result takes the rows and elements in the same order, whatever the tile: the same bits however queries
// and rows are split between calls.
//
// V beyond body.h:
//   load_bf16_pairs(p, low, high)  kLanes pairs of bf16 as two vectors
//   load_i8(p)  kLanes int8 as floats;  load_i4(p, low, high)  kLanes bytes of nibbles - 8 as two vectors
//   keep(v)  puts v into a register, where a compiler would load it again for each use
//   swap<h>(v)  lanes i and i + h (h a power of two, bit h of i clear) change places
//   merge<h>(a, b)  a in the lanes whose bit h is clear, b in the others
//   kScores  scores that fit the registers at once;  kSums  queries whose sums do, two vectors of each
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
    V::load_bf16_pairs(p + 4 * i, a, b);
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

// Rows of n elements in format T.
template <class V, class T>
struct Rows {
  using F = typename V::F;
  Rows(CacheRows rows, size_t n)
      : quants(rows.quants),
        scales(rows.scales),
        blocks(n / kCacheBlock),
        stride(blocks * T::kBlockBytes),
        groups((n + kCacheGroup - 1) / kCacheGroup) {}

  // What the elements of a block of row r are multiplied with.
  GEMMA4_INLINE inline F scale(size_t r, size_t block) const {
    if constexpr (T::kScaled) {
      const uint32_t bits = static_cast<uint32_t>(scales[r * groups + block / 2]) << 16;
      float f;
      __builtin_memcpy(&f, &bits, 4);
      return V::set(f);
    } else {
      return V::set(1.0f);
    }
  }
  GEMMA4_INLINE inline void load(size_t r, size_t block, size_t i, F scale, F& a, F& b) const {
    T::template load<V>(quants + r * stride + block * T::kBlockBytes, i, scale, a, b);
  }
  // Brings a block of row r into L2, with its cache line.
  GEMMA4_INLINE inline void fetch(size_t r, size_t block) const {
    if (block * T::kBlockBytes % 64 == 0) __builtin_prefetch(quants + r * stride + block * T::kBlockBytes, 0, 2);
  }

  const char* quants;
  const uint16_t* scales;
  size_t blocks, stride, groups;  // of a row: blocks of elements, bytes, scales
};

template <int J>
struct Queries {
  static constexpr int kCount = J;
};

// f(j, Queries<J>) for all j < m: Most queries at a time, then half of them, and so on.
template <int Most, class Fn>
inline void for_each_queries(size_t m, Fn f, size_t j = 0) {
  for (; j + Most <= m; j += Most) f(j, Queries<Most>{});
  if constexpr (Most > 1) for_each_queries<Most / 2>(m, f, j);
}

template <class V, class T>
void cache_load(CacheRows source, size_t count, size_t n, float* out) {
  const Rows<V, T> rows(source, n);
  typename V::F a, b;
  for (size_t r = 0; r < count; ++r, out += n) {
    for (size_t block = 0; block < rows.blocks; ++block) {
      const typename V::F scale = rows.scale(r, block);
      for (size_t i = 0; i < 16; i += V::kLanes) {
        rows.load(r, block, i, scale, a, b);
        V::store(out + block * kCacheBlock + i, a, All{});
        V::store(out + block * kCacheBlock + i + 16, b, All{});
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores: y[j][r] = q_j . row r.

// Lane i becomes the sum of v[i], for the first N lanes. Always the lanes half of all apart are added first, then those
// a quarter apart, and so on: the same bits for any N.
template <class V, int N, int h = V::kLanes / 2>
GEMMA4_INLINE inline typename V::F lane_sums(typename V::F* v) {
  if constexpr (h == 0) {
    return v[0];
  } else {
    if constexpr (h < N) {
      for (int k = 0; k < h; ++k)
        v[k] = V::add(V::template merge<h>(v[k], v[k + h]), V::template swap<h>(V::template merge<h>(v[k + h], v[k])));
    } else {
      for (int k = 0; k < N; ++k) v[k] = V::add(v[k], V::template swap<h>(v[k]));
    }
    return lane_sums<V, N, h / 2>(v);
  }
}

// R rows from `first` on and J of m queries as packed.
template <class V, class T, int R, int J>
void score_tile(const Rows<V, T>& rows, const Rows<V, T>& next, size_t first, const float* q, size_t m, OutputRows to) {
  using F = typename V::F;
  const size_t blocks = rows.blocks, ldy = to.ld;
  float* y = to.rows;
  constexpr int kAll = R * J, kLanes = V::kLanes, kAtOnce = kAll < kLanes ? kAll : kLanes;
  F acc[kAll], scale[R], a[R], b[R];
  for (int k = 0; k < kAll; ++k) acc[k] = V::set(0.0f);
  for (int r = 0; r < R; ++r) scale[r] = V::set(1.0f);
  for (size_t block = 0; block < blocks; ++block) {
    for (int r = 0; r < R; ++r) {
      next.fetch(first + r, block);
      if (block % 2 == 0) scale[r] = rows.scale(first + r, block);
    }
    for (size_t i = 0; i < 16; i += V::kLanes) {
      for (int r = 0; r < R; ++r) rows.load(first + r, block, i, scale[r], a[r], b[r]);
      const float* x = q + block * kCacheBlock * m + i;
      for (int j = 0; j < J; ++j, x += kCacheBlock) {
        F low = V::load(x, All{}), high = V::load(x + 16, All{});
        V::keep(low), V::keep(high);
        for (int r = 0; r < R; ++r) acc[j * R + r] = V::fma(a[r], low, acc[j * R + r]);
        for (int r = 0; r < R; ++r) acc[j * R + r] = V::fma(b[r], high, acc[j * R + r]);
      }
    }
  }
  float sums[kAll < kLanes ? kLanes : kAll];
  for (int k = 0; k < kAll; k += kAtOnce) V::store(sums + k, lane_sums<V, kAtOnce>(acc + k), All{});
  for (int j = 0; j < J; ++j) __builtin_memcpy(y + j * ldy + first, sums + j * R, R * sizeof(float));
}

// Blocks of all queries side by side: (n / kCacheBlock, m, kCacheBlock) f32.
inline size_t query_bytes(size_t n, size_t m) { return m * n * sizeof(float); }
inline void pack_queries(const float* q, size_t n, size_t m, void* out) {
  char* to = static_cast<char*>(out);
  constexpr size_t kBytes = kCacheBlock * sizeof(float);
  for (size_t i = 0; i < n; i += kCacheBlock)
    for (size_t j = 0; j < m; ++j, to += kBytes) __builtin_memcpy(to, q + j * n + i, kBytes);
}

template <class V, class T>
void cache_scores(CacheRows source, size_t count, size_t n, const void* packed, size_t m, OutputRows y,
                  const char* ahead) {
  const Rows<V, T> rows(source, n), next({ahead, nullptr}, n);
  const auto* q = static_cast<const float*>(packed);
  for_each_queries<8>(m, [&](size_t j, auto queries) {
    constexpr int J = queries.kCount, R = V::kScores / J < 8 ? V::kScores / J : 8;
    const float* own = q + j * kCacheBlock;
    const OutputRows to{y.rows + j * y.ld, y.ld};
    size_t r = 0;
    for (; r + R <= count; r += R) score_tile<V, T, R, J>(rows, next, r, own, m, to);
    for (; r < count; ++r) score_tile<V, T, 1, J>(rows, next, r, own, m, to);
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Weighted sums: y[j] += sum_r p[j][r] row r.

// So many rows are added to two vectors of each query's sums before these are stored.
inline constexpr size_t kSumRows = 16;

// Rows first... last - 1 and J queries.
template <class V, class T, int J>
void sum_tile(const Rows<V, T>& rows, const Rows<V, T>& next, size_t first, size_t last, const float* p, size_t ldp,
              float* y) {
  using F = typename V::F;
  const size_t blocks = rows.blocks, n = blocks * kCacheBlock;
  float weights[kSumRows][J];  // side by side: one address register serves the loop below
  for (size_t r = first; r < last; ++r)
    for (int j = 0; j < J; ++j) weights[r - first][j] = p[j * ldp + r];
  for (size_t block = 0; block < blocks; ++block) {
    for (size_t i = 0; i < 16; i += V::kLanes) {
      float* at = y + block * kCacheBlock + i;
      F low[J], high[J], a, b;
      for (int j = 0; j < J; ++j) low[j] = V::load(at + j * n, All{}), high[j] = V::load(at + j * n + 16, All{});
      for (size_t r = first; r < last; ++r) {
        if (i == 0) next.fetch(r, block);
        rows.load(r, block, i, rows.scale(r, block), a, b);
        for (int j = 0; j < J; ++j) {
          const F weight = V::set(weights[r - first][j]);
          low[j] = V::fma(weight, a, low[j]);
          high[j] = V::fma(weight, b, high[j]);
        }
      }
      for (int j = 0; j < J; ++j) {
        V::store(at + j * n, low[j], All{});
        V::store(at + j * n + 16, high[j], All{});
      }
    }
  }
}

template <class V, class T>
void cache_sum(CacheRows source, size_t count, size_t n, InputRows<float> p, float* y, const char* ahead) {
  const Rows<V, T> rows(source, n), next({ahead, nullptr}, n);
  for (size_t r = 0; r < count; r += kSumRows) {
    const size_t last = r + kSumRows < count ? r + kSumRows : count;
    for_each_queries<V::kSums>(p.count, [&](size_t j, auto queries) {
      sum_tile<V, T, queries.kCount>(rows, next, r, last, p.rows + j * p.ld, p.ld, y + j * n);
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------

template <class V, int h = 1>
GEMMA4_INLINE inline typename V::F butterflies(typename V::F v) {
  if constexpr (h < static_cast<int>(V::kLanes)) {
    const typename V::F other = V::template swap<h>(v);
    return butterflies<V, 2 * h>(V::template merge<h>(V::add(other, v), V::sub(other, v)));
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
  return {.load = cache_load<V, T>,
          .query_bytes = query_bytes,
          .pack = pack_queries,
          .scores = cache_scores<V, T>,
          .sum = cache_sum<V, T>};
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
