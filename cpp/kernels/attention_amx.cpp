// The kernels of attention over quantized cache rows by AMX with int8.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but attention_amx_kernels,
// and no inline function of another header may be called (see tables.h).
//
// A tile is 16 rows of 64 bytes: the quants of a group of 16 rows, which all have one scale. The high and low bytes of
// eight queries (cache_quants512.h) are the 16 others of a product:
//   scores: tiles of rows meet queries, four elements a word; the sums of a group are scaled and added as floats;
//   sums: weights times scales meet tiles of rows, four rows a word, 64 rows at once.
#include "kernels/cache_quants512.h"
#include "kernels/tiles_amx.h"

namespace gemma4 {
namespace {

struct Tiles {
  using Registers = TileRegisters;
  template <class Rows>
  static void score_rows(const Rows& rows, const char* q, size_t m, OutputRows y);
  template <class Rows>
  static void sum_rows(const Rows& rows, InputRows<float> p, float* y);
};

// ---------------------------------------------------------------------------------------------------------------------
// Products of a tile of bytes and four of quants, in tile registers 0-3, two and two: while two are multiplied, the two
// before them are stored and vectors are at work. A store that waits for its product would hold up the processor, and
// with it the reading of the rows to come.

enum class Quants { kAreRows, kAreMet };

template <Quants side>
GEMMA4_INLINE inline void multiply_first(const char* quants, const char* bytes) {
  settle();
  _tile_loadd(4, bytes, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_loadd(5, quants, 64);
  _tile_loadd(6, quants + kTile, 64);
  if constexpr (side == Quants::kAreRows) {
    _tile_dpbssd(0, 5, 4);
    _tile_dpbssd(1, 6, 4);
  } else {
    _tile_dpbssd(0, 4, 5);
    _tile_dpbssd(1, 4, 6);
  }
}
template <Quants side>
GEMMA4_INLINE inline void multiply_second(const char* quants) {
  settle();
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(5, quants + 2 * kTile, 64);
  _tile_loadd(6, quants + 3 * kTile, 64);
  if constexpr (side == Quants::kAreRows) {
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
  alignas(64) char quants[4 * kTile];
  alignas(64) int32_t products[4 * 256];
};

// For every group: load(group, half, turn) writes half of its quants, and bytes_of(group) is what they meet, complete
// with the second half; add(group, turn) takes its products.
template <Quants side, class Load, class Bytes, class Add>
GEMMA4_INLINE inline void multiply_groups_of(size_t groups, Load load, Bytes bytes_of, Add add) {
  Turn turns[2];
  load(0, 0, turns[0]);
  load(0, 1, turns[0]);
  for (size_t group = 0; group < groups; ++group) {
    Turn &now = turns[group % 2], &other = turns[1 - group % 2];
    const bool more = group + 1 < groups;
    multiply_first<side>(now.quants, bytes_of(group));
    if (more) load(group + 1, 0, other);
    if (group > 0) {
      store_second(other.products);
      add(group - 1, other);
    }
    multiply_second<side>(now.quants);
    if (more) load(group + 1, 1, other);
    store_first(now.products);
  }
  Turn& last = turns[(groups - 1) % 2];
  store_second(last.products);
  add(groups - 1, last);
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores.

template <class Rows>
void Tiles::score_rows(const Rows& rows, const char* q, size_t m, OutputRows y) {
  alignas(64) float sums[kRows * 16] = {};  // (kRows, 16): of the high and low bytes of all queries
  alignas(64) float scales[kRows];
  multiply_groups_of<Quants::kAreRows>(
      rows.groups,
      [&](size_t group, size_t half, Turn& turn) GEMMA4_INLINE {
        for (size_t r = kRows / 2 * half; r < kRows / 2 * (half + 1); ++r)
          _mm512_store_si512(turn.quants + r * 64, rows.load(r, group));
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
  finish_scores(sums, rows.count, q, m, y);
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

template <class Rows>
void Tiles::sum_rows(const Rows& rows, InputRows<float> p, float* y) {
  const size_t n = rows.groups * kGroup, m = p.count;
  alignas(64) char bytes[2][kTile] = {};  // of two groups in turn: weights times scales
  float most[2];                          // of a group
  const Weights weights(p, rows.count);
  const auto weigh = [&](size_t group) GEMMA4_INLINE {
    const GroupScales scales(rows, group);
    most[group % 2] = scales.most;
    for (size_t j = 0; j < m; ++j) {
      const __m512 x[4] = {weights.times(scales, j, 0), weights.times(scales, j, 1), weights.times(scales, j, 2),
                           weights.times(scales, j, 3)};
      store_bytes(x, bytes[group % 2] + j * 64);
    }
  };
  multiply_groups_of<Quants::kAreMet>(
      rows.groups,
      [&](size_t group, size_t half, Turn& turn) GEMMA4_INLINE {
        interleave(rows, group, half, turn.quants);
        if (half == 1) weigh(group);
      },
      [&](size_t group) GEMMA4_INLINE { return bytes[group % 2]; },
      [&](size_t group, Turn& turn) GEMMA4_INLINE {
        for (size_t j = 0; j < m; ++j) {
          // NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): the first m scales were written
          add_products(turn.products + j * 16, weights.scale[j] * most[group % 2], y + j * n + group * kGroup);
        }
      });
}

}  // namespace

const AttentionKernels* attention_amx_kernels() {
  static const AttentionKernels table = with_products<Tiles>();
  return &table;
}

}  // namespace gemma4
