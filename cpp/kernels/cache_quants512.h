// Attention over quantized cache rows in integers, with AVX-512: what is the same for every instruction that
// multiplies. Knows: quants, scales, the rounding of what they meet. Must not know: the products. Internal linkage (see
// body.h).
//
// Quants are multiplied as they are, 64 rows and eight queries at a time, so converting and scaling them, which is what
// other instruction sets are busy with, falls away. What they meet is rounded to 16 bits, 256 * high + low: queries, or
// weights times scales. Sums of products are exact integers, so only that rounding (to 1 / 65,024 of the largest) is
// lost.
#pragma once

#include "kernels/attention.h"
#include "kernels/transpose512.h"
#include "kernels/vec512.h"

namespace gemma4 {
namespace {

constexpr size_t kRows = 64;    // that pass together
constexpr size_t kQueries = 8;  // that pass together
constexpr size_t kGroup = kCacheGroup;
static_assert(kGroup == 64 && kRows == 64, "a group is a line of a tile, and so are the weights of all rows");

// The quants of a group of one row.
struct Q8Quants {
  static constexpr size_t kBytes = 64;
  GEMMA4_INLINE static inline __m512i load(const char* p) { return _mm512_loadu_si512(p); }
};
struct Q4Quants {
  static constexpr size_t kBytes = 32;
  GEMMA4_INLINE static inline __m512i load(const char* p) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i halves = _mm512_inserti64x4(_mm512_castsi256_si512(both), _mm256_srli_epi16(both, 4), 1);
    const __m512i quants = _mm512_sub_epi8(_mm512_and_si512(halves, _mm512_set1_epi8(15)), _mm512_set1_epi8(8));
    return _mm512_shuffle_i64x2(quants, quants, 0xd8);  // elements 32 ... 47 lie before 16 ... 31
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// 16 bits.

constexpr float kLargest = 127 * 256;

// The larger magnitude, where infinities and NaN are larger than all floats.
GEMMA4_INLINE inline __m512i larger_magnitude(__m512i most, __m512 f) {
  return _mm512_max_epi32(most, _mm512_castps_si512(Vec512::abs(f)));
}
GEMMA4_INLINE inline float magnitude(__m512i most) {
  const int bits = _mm512_reduce_max_epi32(most);
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}

// What floats of at most that magnitude are multiplied with to become ones of at most `to`; 0 where that would overflow
// or one of them is not finite.
inline float inverse(float magnitude, float to) {
  return magnitude < __builtin_inff() && magnitude >= 0x1p-100f ? to / magnitude : 0.0f;
}
// The way back: NaN where one was not finite.
inline float scale_of(float magnitude, float to) {
  return magnitude < __builtin_inff() ? magnitude >= 0x1p-100f ? magnitude / to : 0.0f : __builtin_nanf("");
}

// 32 floats of at most kLargest: word 8l + 4v + t is of lane 4l + t of the v-th vector.
GEMMA4_INLINE inline __m512i words_of(__m512 first, __m512 second) {
  return _mm512_packs_epi32(_mm512_cvtps_epi32(first), _mm512_cvtps_epi32(second));
}

// 64 floats of at most kLargest as high bytes, and low ones half a tile further on; byte 16l + 4v + t is of lane 4l + t
// of f[v].
GEMMA4_INLINE inline void store_bytes(const __m512 (&f)[4], char* out) {
  __m512i high[2], low[2];
  for (size_t i = 0; i < 2; ++i) {
    const __m512i x = words_of(f[2 * i], f[2 * i + 1]);
    high[i] = _mm512_srai_epi16(_mm512_add_epi16(x, _mm512_set1_epi16(128)), 8);
    low[i] = _mm512_sub_epi16(x, _mm512_slli_epi16(high[i], 8));
  }
  _mm512_store_si512(out, _mm512_packs_epi16(high[0], high[1]));
  _mm512_store_si512(out + kTile / 2, _mm512_packs_epi16(low[0], low[1]));
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows.

// kRows rows, or `count` rows that are completed with zeros, and where those begin that are read after them (or null).
template <class T, bool kWhole>
struct Source {
  size_t count, groups;
  const char* quants;
  const uint16_t* scales;
  const char* next;

  GEMMA4_INLINE inline bool has(size_t r) const { return kWhole || r < count; }
  GEMMA4_INLINE inline __m512i load(size_t r, size_t group) const {
    const size_t ahead = (group * kRows + r) * T::kBytes;  // in the order of memory
    if (next != nullptr && ahead % 64 == 0) __builtin_prefetch(next + ahead, 0, 2);
    return has(r) ? T::load(quants + (r * groups + group) * T::kBytes) : _mm512_setzero_si512();
  }
  GEMMA4_INLINE inline void scales_of(size_t group, float* out) const {
    for (size_t r = 0; r < kRows; ++r) {
      const uint32_t bits = has(r) ? static_cast<uint32_t>(scales[r * groups + group]) << 16 : 0;
      __builtin_memcpy(out + r, &bits, sizeof bits);
    }
  }
};

// f(source) for the rows from `first` on.
template <class T, class Fn>
inline void with_source(CacheRows rows, size_t first, size_t all, size_t n, const char* next, Fn f) {
  const size_t groups = n / kGroup, row = groups * T::kBytes, count = all - first;
  const char* quants = rows.quants + first * row;
  const uint16_t* scales = rows.scales + first * groups;
  if (next != nullptr) next += first * row;
  if (count >= kRows) {
    f(Source<T, true>{kRows, groups, quants, scales, next});
  } else {
    f(Source<T, false>{count, groups, quants, scales, nullptr});
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores.

// Eight queries: a line of their scales, then a transposed tile for each group.
inline size_t packed_bytes(size_t n) { return 64 + n / kGroup * kTile; }

// Elements 16v ... 16v + 15 of a group, in the order that store_bytes turns into that of the group.
GEMMA4_INLINE inline __m512 spread(const float* group, size_t v) {
  const __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 32, 33, 34, 35, 48, 49, 50, 51);
  return _mm512_i32gather_ps(at, group + 4 * v, 4);
}

// q: (m, n), m at most kQueries
inline void pack_queries(const float* q, size_t n, size_t m, char* out) {
  alignas(64) char bytes[kTile] = {};
  float scales[16] = {}, inverses[kQueries] = {};
  for (size_t j = 0; j < m; ++j) {
    __m512i most = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 16) most = larger_magnitude(most, _mm512_loadu_ps(q + j * n + i));
    scales[j] = scale_of(magnitude(most), kLargest);
    inverses[j] = inverse(magnitude(most), kLargest);
  }
  __builtin_memcpy(out, scales, sizeof scales);
  out += 64;
  for (size_t group = 0; group < n / kGroup; ++group, out += kTile) {
    for (size_t j = 0; j < m; ++j) {
      __m512 x[4];
      for (size_t v = 0; v < 4; ++v)
        x[v] = _mm512_mul_ps(spread(q + j * n + group * kGroup, v), _mm512_set1_ps(inverses[j]));
      store_bytes(x, bytes + j * 64);
    }
    for_columns(bytes, [&](size_t c, __m512i v) GEMMA4_INLINE { _mm512_store_si512(out + c * 64, v); });
  }
}

// y[j][r] for `count` rows and m queries as packed, from (kRows, 16) sums of the high and low bytes of all queries.
inline void finish_scores(const float* sums, size_t count, const char* q, size_t m, OutputRows y) {
  const auto* scale = reinterpret_cast<const float*>(q);
  for (size_t first = 0; first < count; first += 16) {
    const size_t live = count - first < 16 ? count - first : 16;
    __m512 of[16];
    for_columns(reinterpret_cast<const char*>(sums + first * 16),
                [&](size_t c, __m512i v) GEMMA4_INLINE { of[c] = _mm512_castsi512_ps(v); });
    for (size_t j = 0; j < m; ++j) {
      const __m512 both = _mm512_fmadd_ps(of[j], _mm512_set1_ps(256.0f), of[j + kQueries]);
      Vec512::store(y.rows + j * y.ld + first, _mm512_mul_ps(both, _mm512_set1_ps(scale[j])), Some{live});
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Weighted sums.

// The scales of a group of kRows rows as shares of the largest.
struct GroupScales {
  alignas(64) float share[kRows];
  float most;

  template <class Rows>
  GEMMA4_INLINE inline GroupScales(const Rows& rows, size_t group) {
    rows.scales_of(group, share);
    __m512i largest = _mm512_setzero_si512();
    for (size_t r = 0; r < kRows; r += 16) largest = larger_magnitude(largest, _mm512_load_ps(share + r));
    most = scale_of(magnitude(largest), 1.0f);
    const __m512 factor = _mm512_set1_ps(inverse(magnitude(largest), 1.0f));
    for (size_t r = 0; r < kRows; r += 16) _mm512_store_ps(share + r, _mm512_mul_ps(_mm512_load_ps(share + r), factor));
  }
};

// The weights of kRows rows as shares of kLargest, and what the largest of a query is of it.
struct Weights {
  alignas(64) float share[kQueries][kRows];
  float scale[kQueries];

  // p: queries' weights of `count` rows
  Weights(InputRows<float> p, size_t count) {
    for (size_t j = 0; j < p.count; ++j) {
      __m512 w[kRows / 16];
      __m512i largest = _mm512_setzero_si512();
      for (size_t i = 0; i < kRows / 16; ++i) {
        const size_t live = count < 16 * i ? 0 : count - 16 * i < 16 ? count - 16 * i : 16;
        w[i] = Vec512::load(p.rows + j * p.ld + 16 * i, Some{live});
        largest = larger_magnitude(largest, w[i]);
      }
      scale[j] = scale_of(magnitude(largest), kLargest);
      const __m512 factor = _mm512_set1_ps(inverse(magnitude(largest), kLargest));
      for (size_t i = 0; i < kRows / 16; ++i) _mm512_store_ps(share[j] + 16 * i, _mm512_mul_ps(w[i], factor));
    }
  }
  // Those of query j for rows 16v ... 16v + 15, times the scales of a group.
  GEMMA4_INLINE inline __m512 times(const GroupScales& scales, size_t j, size_t v) const {
    return _mm512_mul_ps(_mm512_load_ps(scales.share + 16 * v), _mm512_load_ps(share[j] + 16 * v));
  }
};

// ---------------------------------------------------------------------------------------------------------------------

const CacheKernels& plain(DType t) { return attention_avx512_kernels()->cache[static_cast<int>(t)]; }

// f(first of the queries, how many) for all m of them.
template <class Fn>
inline void for_each_eight(size_t m, Fn f) {
  for (size_t j = 0; j < m; j += kQueries) f(j, m - j < kQueries ? m - j : kQueries);
}

// The kernels of a cache whose quants are T, by an instruction set's products:
//   Products::Registers  what they need while a call lasts
//   Products::score_rows(source, q, m, y)  y[j][r] for the rows of a source and m queries as packed
//   Products::sum_rows(source, p, y)  y_j += sum_r p[j][r] row r for the queries of p, at most kQueries
// Rows that do not end with a whole group are left to AVX-512.
template <class Products, class T, DType t>
struct Cache {
  static size_t query_bytes(size_t n, size_t m) {
    if (n % kGroup != 0) return plain(t).query_bytes(n, m);
    return (m + kQueries - 1) / kQueries * packed_bytes(n);
  }
  static void pack(const float* q, size_t n, size_t m, void* out) {
    if (n % kGroup != 0) return plain(t).pack(q, n, m, out);
    for_each_eight(m, [&](size_t j, size_t some) {
      pack_queries(q + j * n, n, some, static_cast<char*>(out) + j / kQueries * packed_bytes(n));
    });
  }
  static void scores(CacheRows rows, size_t count, size_t n, const void* q, size_t m, OutputRows y, const char* next) {
    if (n % kGroup != 0) return plain(t).scores(rows, count, n, q, m, y, next);
    [[maybe_unused]] const typename Products::Registers registers;
    for (size_t r = 0; r < count; r += kRows) {
      for_each_eight(m, [&](size_t j, size_t some) {
        const char* queries = static_cast<const char*>(q) + j / kQueries * packed_bytes(n);
        with_source<T>(rows, r, count, n, j == 0 ? next : nullptr, [&](const auto& source) {
          Products::score_rows(source, queries, some, {y.rows + j * y.ld + r, y.ld});
        });
      });
    }
  }
  static void sum(CacheRows rows, size_t count, size_t n, InputRows<float> p, float* y, const char* next) {
    if (n % kGroup != 0) return plain(t).sum(rows, count, n, p, y, next);
    [[maybe_unused]] const typename Products::Registers registers;
    for (size_t r = 0; r < count; r += kRows) {
      for_each_eight(p.count, [&](size_t j, size_t some) {
        with_source<T>(rows, r, count, n, j == 0 ? next : nullptr, [&](const auto& source) {
          Products::sum_rows(source, {p.rows + j * p.ld + r, p.ld, some}, y + j * n);
        });
      });
    }
  }
};

template <class Products, class T, DType t>
void use(AttentionKernels& table) {
  CacheKernels& of = table.cache[static_cast<int>(t)];
  of.query_bytes = Cache<Products, T, t>::query_bytes;
  of.pack = Cache<Products, T, t>::pack;
  of.scores = Cache<Products, T, t>::scores;
  of.sum = Cache<Products, T, t>::sum;
}

// The table of AVX-512 with these products of quantized caches.
template <class Products>
AttentionKernels with_products() {
  AttentionKernels table = *attention_avx512_kernels();
  use<Products, Q8Quants, DType::kQ8_0>(table);
  use<Products, Q4Quants, DType::kQ4_0>(table);
  return table;
}

}  // namespace
}  // namespace gemma4
