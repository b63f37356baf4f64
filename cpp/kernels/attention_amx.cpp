// The kernels of attention over quantized cache rows by AMX with int8.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but attention_amx_kernels,
// and no inline function of another header may be called (see tables.h).
//
// A tile is 16 rows of 64 bytes: the levels of a group of 16 rows, which all have one scale. They are multiplied as
// they are, so converting them, which is what other instruction sets are busy with, falls away. What they meet is
// rounded to 16 bits, 256 * high + low, and the high and low bytes of eight queries are the 16 others of a product:
//   scores: tiles of rows meet queries, four elements a word; the sums of a group are scaled and added as floats;
//   sums: weights times scales meet tiles of rows, four rows a word, 64 rows at once.
// Both sums are exact integers, so only that rounding (to 1 / 65,024 of the largest) is lost.
#include "kernels/attention.h"
#include "kernels/tiles_amx.h"
#include "kernels/vec512.h"

namespace gemma4 {
namespace {

constexpr size_t kRows = 64;    // that pass together
constexpr size_t kQueries = 8;  // that pass together
constexpr size_t kGroup = kCacheGroup;
static_assert(kGroup == 64 && kRows == 64, "a group is a line of a tile, and so are the weights of all rows");

// The levels of a group of one row.
struct Q8Levels {
  static constexpr size_t kBytes = 64;
  GEMMA4_INLINE static inline __m512i load(const char* p) { return _mm512_loadu_si512(p); }
};
struct Q4Levels {
  static constexpr size_t kBytes = 32;
  GEMMA4_INLINE static inline __m512i load(const char* p) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i halves = _mm512_inserti64x4(_mm512_castsi256_si512(both), _mm256_srli_epi16(both, 4), 1);
    const __m512i levels = _mm512_sub_epi8(_mm512_and_si512(halves, _mm512_set1_epi8(15)), _mm512_set1_epi8(8));
    return _mm512_shuffle_i64x2(levels, levels, 0xd8);  // elements 32 ... 47 lie before 16 ... 31
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// 16 bits as two bytes.

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

// 64 floats of at most kLargest as high bytes, and low ones half a tile further on; byte 16l + 4v + t is of lane 4l + t
// of f[v].
GEMMA4_INLINE inline void store_bytes(const __m512 (&f)[4], char* out) {
  __m512i x[2], high[2], low[2];
  for (size_t i = 0; i < 2; ++i) {
    x[i] = _mm512_packs_epi32(_mm512_cvtps_epi32(f[2 * i]), _mm512_cvtps_epi32(f[2 * i + 1]));
    high[i] = _mm512_srai_epi16(_mm512_add_epi16(x[i], _mm512_set1_epi16(128)), 8);
    low[i] = _mm512_sub_epi16(x[i], _mm512_slli_epi16(high[i], 8));
  }
  _mm512_store_si512(out, _mm512_packs_epi16(high[0], high[1]));
  _mm512_store_si512(out + kTile / 2, _mm512_packs_epi16(low[0], low[1]));
}

// ---------------------------------------------------------------------------------------------------------------------
// Products of a tile of bytes and four of levels, in tile registers 0-3, two and two: while two are multiplied, the two
// before them are stored and vectors are at work. A store that waits for its product would hold up the processor, and
// with it the reading of the rows to come.

enum class Levels { kAreRows, kAreMet };

template <Levels side>
GEMMA4_INLINE inline void multiply_first(const char* levels, const char* bytes) {
  settle();
  _tile_loadd(4, bytes, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_loadd(5, levels, 64);
  _tile_loadd(6, levels + kTile, 64);
  if constexpr (side == Levels::kAreRows) {
    _tile_dpbssd(0, 5, 4);
    _tile_dpbssd(1, 6, 4);
  } else {
    _tile_dpbssd(0, 4, 5);
    _tile_dpbssd(1, 4, 6);
  }
}
template <Levels side>
GEMMA4_INLINE inline void multiply_second(const char* levels) {
  settle();
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(5, levels + 2 * kTile, 64);
  _tile_loadd(6, levels + 3 * kTile, 64);
  if constexpr (side == Levels::kAreRows) {
    _tile_dpbssd(2, 5, 4);
    _tile_dpbssd(3, 6, 4);
  } else {
    _tile_dpbssd(2, 4, 5);
    _tile_dpbssd(3, 4, 6);
  }
}
// products: (4, 16, 16)
GEMMA4_INLINE inline void store_first(int32_t* products) {
  _tile_stored(0, products, 64);
  _tile_stored(1, products + 256, 64);
  settle();
}
GEMMA4_INLINE inline void store_second(int32_t* products) {
  _tile_stored(2, products + 512, 64);
  _tile_stored(3, products + 768, 64);
  settle();
}

// Buffers of a group while it is multiplied, two in turn.
struct Turn {
  alignas(64) char levels[4 * kTile];
  alignas(64) int32_t products[4 * 256];
};

// For every group: load(group, half, turn) writes half of its levels, and bytes_of(group) is what they meet, complete
// with the second half; add(group, turn) takes its products.
template <Levels side, class Load, class Bytes, class Add>
GEMMA4_INLINE inline void multiply_groups_of(size_t groups, Load load, Bytes bytes_of, Add add) {
  Turn turns[2];
  load(0, 0, turns[0]);
  load(0, 1, turns[0]);
  for (size_t group = 0; group < groups; ++group) {
    Turn &now = turns[group % 2], &other = turns[1 - group % 2];
    const bool more = group + 1 < groups;
    multiply_first<side>(now.levels, bytes_of(group));
    if (more) load(group + 1, 0, other);
    if (group > 0) {
      store_second(other.products);
      add(group - 1, other);
    }
    multiply_second<side>(now.levels);
    if (more) load(group + 1, 1, other);
    store_first(now.products);
  }
  Turn& last = turns[(groups - 1) % 2];
  store_second(last.products);
  add(groups - 1, last);
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows.

// kRows rows, or `count` rows that are completed with zeros, and where those begin that are read after them (or null).
template <class T, bool kWhole>
struct Source {
  size_t count, groups;
  const char* levels;
  const uint16_t* scales;
  const char* next;

  GEMMA4_INLINE inline bool has(size_t r) const { return kWhole || r < count; }
  GEMMA4_INLINE inline __m512i load(size_t r, size_t group) const {
    const size_t ahead = (group * kRows + r) * T::kBytes;  // in the order of memory
    if (next != nullptr && ahead % 64 == 0) __builtin_prefetch(next + ahead, 0, 2);
    return has(r) ? T::load(levels + (r * groups + group) * T::kBytes) : _mm512_setzero_si512();
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
  const char* levels = rows.levels + first * row;
  const uint16_t* scales = rows.scales + first * groups;
  if (next != nullptr) next += first * row;
  if (count >= kRows) {
    f(Source<T, true>{kRows, groups, levels, scales, next});
  } else {
    f(Source<T, false>{count, groups, levels, scales, nullptr});
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores.

// Eight queries: a line of their scales, then a turned tile for each group.
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

// y[j * ldy + r] for the rows of a source and m queries as packed.
template <class Rows>
void score_rows(const Rows& rows, const char* q, size_t m, float* y, size_t ldy) {
  alignas(64) float sums[kRows * 16] = {};  // (kRows, 16): of the high and low bytes of all queries
  alignas(64) float scales[kRows];
  multiply_groups_of<Levels::kAreRows>(
      rows.groups,
      [&](size_t group, size_t half, Turn& turn) GEMMA4_INLINE {
        for (size_t r = kRows / 2 * half; r < kRows / 2 * (half + 1); ++r)
          _mm512_store_si512(turn.levels + r * 64, rows.load(r, group));
      },
      [&](size_t group) GEMMA4_INLINE { return q + 64 + group * kTile; },
      [&](size_t group, Turn& turn) GEMMA4_INLINE {
        rows.scales_of(group, scales);
        for (size_t r = 0; r < kRows; ++r) {
          const __m512 product = _mm512_cvtepi32_ps(_mm512_load_si512(turn.products + r * 16));
          float* sum = sums + r * 16;
          _mm512_store_ps(sum, _mm512_fmadd_ps(product, _mm512_set1_ps(scales[r]), _mm512_load_ps(sum)));
        }
      });
  const auto* scale = reinterpret_cast<const float*>(q);
  for (size_t first = 0; first < rows.count; first += 16) {
    const size_t live = rows.count - first < 16 ? rows.count - first : 16;
    __m512 of[16];
    for_columns(reinterpret_cast<const char*>(sums + first * 16),
                [&](size_t c, __m512i v) GEMMA4_INLINE { of[c] = _mm512_castsi512_ps(v); });
    for (size_t j = 0; j < m; ++j) {
      const __m512 both = _mm512_fmadd_ps(of[j], _mm512_set1_ps(256.0f), of[j + kQueries]);
      Vec512::store(y + j * ldy + first, _mm512_mul_ps(both, _mm512_set1_ps(scale[j])), Some{live});
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Weighted sums.

// Half of the four tiles of a group: word 4l + t of a line of tile i is element 16l + 4i + t of four rows. The lines
// are in the order of store_bytes: line 4l + v has rows 16v + 4l ...
template <class Rows>
GEMMA4_INLINE inline void interleave(const Rows& rows, size_t group, size_t half, char* tiles) {
  for (size_t four = 8 * half; four < 8 * half + 8; ++four) {
    __m512i row[4];
    for (size_t t = 0; t < 4; ++t) row[t] = rows.load(4 * four + t, group);
    const __m512i a = _mm512_unpacklo_epi8(row[0], row[1]), b = _mm512_unpacklo_epi8(row[2], row[3]);
    const __m512i c = _mm512_unpackhi_epi8(row[0], row[1]), d = _mm512_unpackhi_epi8(row[2], row[3]);
    char* line = tiles + (four % 4 * 4 + four / 4) * 64;
    _mm512_store_si512(line, _mm512_unpacklo_epi16(a, b));
    _mm512_store_si512(line + kTile, _mm512_unpackhi_epi16(a, b));
    _mm512_store_si512(line + 2 * kTile, _mm512_unpacklo_epi16(c, d));
    _mm512_store_si512(line + 3 * kTile, _mm512_unpackhi_epi16(c, d));
  }
}

// y (64) += a query's products, whose high bytes' are a line of every tile, times `scale`.
GEMMA4_INLINE inline void add_products(const int32_t* products, float scale, float* y) {
  __m512i v[4];
  for (size_t i = 0; i < 4; ++i) {
    const __m512i high = _mm512_load_si512(products + i * 256);
    v[i] = _mm512_add_epi32(_mm512_slli_epi32(high, 8), _mm512_load_si512(products + i * 256 + kQueries * 16));
  }
  const __m512i a = _mm512_shuffle_i64x2(v[0], v[1], 0x44), b = _mm512_shuffle_i64x2(v[2], v[3], 0x44);
  const __m512i c = _mm512_shuffle_i64x2(v[0], v[1], 0xee), d = _mm512_shuffle_i64x2(v[2], v[3], 0xee);
  const __m512i lanes[4] = {_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd),
                            _mm512_shuffle_i64x2(c, d, 0x88), _mm512_shuffle_i64x2(c, d, 0xdd)};
  for (size_t l = 0; l < 4; ++l) {
    float* at = y + 16 * l;
    _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(lanes[l]), _mm512_set1_ps(scale), _mm512_loadu_ps(at)));
  }
}

// y_j += sum_r p[j * ldp + r] row r for m queries, at most kQueries.
template <class Rows>
void sum_rows(const Rows& rows, const float* p, size_t ldp, size_t m, float* y) {
  const size_t n = rows.groups * kGroup;
  alignas(64) float weights[kQueries][kRows];  // as shares of kLargest
  alignas(64) char bytes[2][kTile] = {};       // of two groups in turn: weights times scales
  float scale[kQueries], most[2];              // of a query, of a group
  for (size_t j = 0; j < m; ++j) {
    __m512 w[kRows / 16];
    __m512i largest = _mm512_setzero_si512();
    for (size_t i = 0; i < kRows / 16; ++i) {
      const size_t live = rows.count < 16 * i ? 0 : rows.count - 16 * i < 16 ? rows.count - 16 * i : 16;
      w[i] = Vec512::load(p + j * ldp + 16 * i, Some{live});
      largest = larger_magnitude(largest, w[i]);
    }
    scale[j] = scale_of(magnitude(largest), kLargest);
    const __m512 factor = _mm512_set1_ps(inverse(magnitude(largest), kLargest));
    for (size_t i = 0; i < kRows / 16; ++i) _mm512_store_ps(weights[j] + 16 * i, _mm512_mul_ps(w[i], factor));
  }
  const auto weigh = [&](size_t group) GEMMA4_INLINE {
    alignas(64) float scales[kRows];
    rows.scales_of(group, scales);
    __m512i largest = _mm512_setzero_si512();
    for (size_t r = 0; r < kRows; r += 16) largest = larger_magnitude(largest, _mm512_load_ps(scales + r));
    most[group % 2] = scale_of(magnitude(largest), 1.0f);
    const __m512 factor = _mm512_set1_ps(inverse(magnitude(largest), 1.0f));
    for (size_t j = 0; j < m; ++j) {
      __m512 x[4];
      for (size_t v = 0; v < 4; ++v) {
        const __m512 share = _mm512_mul_ps(_mm512_load_ps(scales + 16 * v), factor);
        x[v] = _mm512_mul_ps(share, _mm512_load_ps(weights[j] + 16 * v));
      }
      store_bytes(x, bytes[group % 2] + j * 64);
    }
  };
  multiply_groups_of<Levels::kAreMet>(
      rows.groups,
      [&](size_t group, size_t half, Turn& turn) GEMMA4_INLINE {
        interleave(rows, group, half, turn.levels);
        if (half == 1) weigh(group);
      },
      [&](size_t group) GEMMA4_INLINE { return bytes[group % 2]; },
      [&](size_t group, Turn& turn) GEMMA4_INLINE {
        for (size_t j = 0; j < m; ++j)
          add_products(turn.products + j * 16, scale[j] * most[group % 2], y + j * n + group * kGroup);
      });
}

// ---------------------------------------------------------------------------------------------------------------------

const CacheKernels& plain(DType t) { return attention_avx512_kernels()->cache[static_cast<int>(t)]; }

// f(first of the queries, how many) for all m of them.
template <class Fn>
inline void for_each_eight(size_t m, Fn f) {
  for (size_t j = 0; j < m; j += kQueries) f(j, m - j < kQueries ? m - j : kQueries);
}

// Rows that do not end with a whole group are left to AVX-512.
template <class T, DType t>
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
  static void scores(CacheRows rows, size_t count, size_t n, const void* q, size_t m, float* y, size_t ldy,
                     const char* next) {
    if (n % kGroup != 0) return plain(t).scores(rows, count, n, q, m, y, ldy, next);
    const TileRegisters registers;
    for (size_t r = 0; r < count; r += kRows) {
      for_each_eight(m, [&](size_t j, size_t some) {
        const char* queries = static_cast<const char*>(q) + j / kQueries * packed_bytes(n);
        with_source<T>(rows, r, count, n, j == 0 ? next : nullptr,
                       [&](const auto& source) { score_rows(source, queries, some, y + j * ldy + r, ldy); });
      });
    }
  }
  static void sum(CacheRows rows, size_t count, size_t n, const float* p, size_t ldp, size_t m, float* y,
                  const char* next) {
    if (n % kGroup != 0) return plain(t).sum(rows, count, n, p, ldp, m, y, next);
    const TileRegisters registers;
    for (size_t r = 0; r < count; r += kRows) {
      for_each_eight(m, [&](size_t j, size_t some) {
        with_source<T>(rows, r, count, n, j == 0 ? next : nullptr,
                       [&](const auto& source) { sum_rows(source, p + j * ldp + r, ldp, some, y + j * n); });
      });
    }
  }
};

template <class T, DType t>
void use(AttentionKernels& table) {
  CacheKernels& of = table.cache[static_cast<int>(t)];
  of.query_bytes = Cache<T, t>::query_bytes;
  of.pack = Cache<T, t>::pack;
  of.scores = Cache<T, t>::scores;
  of.sum = Cache<T, t>::sum;
}

}  // namespace

const AttentionKernels* attention_amx_kernels() {
  static const AttentionKernels table = [] {
    AttentionKernels all = *attention_avx512_kernels();
    use<Q8Levels, DType::kQ8_0>(all);
    use<Q4Levels, DType::kQ4_0>(all);
    return all;
  }();
  return &table;
}

}  // namespace gemma4
