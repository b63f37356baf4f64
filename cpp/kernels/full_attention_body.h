// Attention in which every query sees every key, written once over the byte vector class V of quant_body.h.
// Knows: one head, lanes. Must not know: which instruction set, layers. Internal linkage (see body.h).
//
// Keys lie in the lanes, transposed, so that a tile of queries meets them by broadcasts and its scores come out in
// rows; the weighted sum of values has the dimensions in the lanes. Both products are the same loop: kVecs vectors of
// one side in registers, kTile broadcasts of the other. A tile of queries passes over one block of keys at a time.
//
// V beyond quant_body.h: kTile, kVecs  queries and vectors of a tile in f32;  largest(v)  of the lanes.
#pragma once

#include "kernels/full_attention.h"
#include "kernels/quant_body.h"

namespace gemma4 {
namespace {

inline constexpr size_t padded(size_t n, size_t to) { return (n + to - 1) / to * to; }

// 2^t for t <= 0, within 5e-5 of it; 2^-100 below. A NaN stays a NaN.
template <class V>
GEMMA4_INLINE inline typename V::F exp2_of_negative(typename V::F t) {
  t = V::max(V::set(-100.0f), t);
  const typename V::F rounded = V::add(t, V::set(kRound));
  const typename V::F f = V::sub(t, V::sub(rounded, V::set(kRound)));  // -1/2 ... 1/2
  typename V::F p = V::set(9.61812911e-3f);                            // ln(2)^4 / 4!, ...
  p = V::fma(p, f, V::set(5.55041087e-2f));
  p = V::fma(p, f, V::set(2.40226507e-1f));
  p = V::fma(p, f, V::set(6.93147181e-1f));
  p = V::fma(p, f, V::set(1.0f));
  return V::mul(p, pow2_of_rounded<V>(rounded));
}

template <class V>
inline float first_lane(typename V::F v) {
  float lanes[V::kLanes];
  V::store(lanes, v, All{});
  return lanes[0];
}

// The larger one; NaN if either is.
inline float larger(float a, float b) { return b > a || b != b ? b : a; }

// ---------------------------------------------------------------------------------------------------------------------
// In f32.

// A packed block: keys (kFullKeys / kGroup, dim, kGroup), then values (kFullKeys, width).
template <class V>
struct ExactSizes {
  static constexpr size_t kGroup = V::kVecs * V::kLanes;
  explicit ExactSizes(size_t dim_) : dim(dim_), width(padded(dim_, V::kLanes)) {}
  size_t keys() const { return kFullKeys * dim; }
  size_t floats() const { return keys() + kFullKeys * width; }

  size_t dim, width;
};

template <class V>
void exact_pack(const float* k, const float* v, size_t ld, size_t keys, size_t dim, void* block) {
  using Sizes = ExactSizes<V>;
  const Sizes n(dim);
  float* packed_keys = static_cast<float*>(block);
  float* packed_values = packed_keys + n.keys();
  // Keys that are not there are zeros up to the end of their group.
  __builtin_memset(packed_keys, 0, padded(keys, Sizes::kGroup) * dim * sizeof(float));
  for (size_t r = 0; r < keys; ++r) {
    float* at = packed_keys + r / Sizes::kGroup * dim * Sizes::kGroup + r % Sizes::kGroup;
    for (size_t i = 0; i < dim; ++i) at[i * Sizes::kGroup] = k[r * ld + i];
    float* row = packed_values + r * n.width;
    for (size_t i = 0; i < dim; ++i) row[i] = v[r * ld + i];
    for (size_t i = dim; i < n.width; ++i) row[i] = 0;
  }
}

// acc[j][v] += sum_i a[i * kStep + j * kNext] b[i * ldb + v * kLanes ...] for i < count
template <class V, size_t kStep, size_t kNext, int J, int N>
GEMMA4_INLINE inline void accumulate(const float* a, const float* b, size_t ldb, size_t count,
                                     typename V::F (&acc)[J][N]) {
  for (size_t i = 0; i < count; ++i) {
    typename V::F row[N];
    for (int v = 0; v < N; ++v) row[v] = V::load(b + i * ldb + v * V::kLanes, All{});
    for (int j = 0; j < J; ++j) {
      const typename V::F x = V::set(a[i * kStep + j * kNext]);
      for (int v = 0; v < N; ++v) acc[j][v] = V::fma(row[v], x, acc[j][v]);
    }
  }
}

// out (J, width) columns [0, N vectors) = shrink * out + p (J, kFullKeys) values
template <class V, int J, int N>
GEMMA4_INLINE inline void exact_sum(const float* p, const float* values, size_t width, size_t keys,
                                    const float (&shrink)[J], float* out) {
  typename V::F acc[J][N];
  for (int j = 0; j < J; ++j)
    for (int v = 0; v < N; ++v) acc[j][v] = V::mul(V::set(shrink[j]), V::load(out + j * width + v * V::kLanes, All{}));
  accumulate<V, 1, kFullKeys>(p, values, width, keys, acc);
  for (int j = 0; j < J; ++j)
    for (int v = 0; v < N; ++v) V::store(out + j * width + v * V::kLanes, acc[j][v], All{});
}

// What a query keeps from block to block.
struct Running {
  float max, sum;
};

// A tile of queries and one block.   q: (dim, kTile); out: (kTile, width)
template <class V>
void exact_tile(const ExactSizes<V>& n, const float* block, size_t keys, const float* q, Running* running, float* out) {
  constexpr int J = V::kTile, N = V::kVecs;
  constexpr size_t kGroup = ExactSizes<V>::kGroup;
  alignas(64) float p[J][kFullKeys];
  for (size_t first = 0; first < keys; first += kGroup) {
    typename V::F acc[J][N];
    for (int j = 0; j < J; ++j)
      for (int v = 0; v < N; ++v) acc[j][v] = V::set(0.0f);
    accumulate<V, J, 1>(q, block + first * n.dim, kGroup, n.dim, acc);
    for (int j = 0; j < J; ++j)
      for (int v = 0; v < N; ++v) V::store(p[j] + first + v * V::kLanes, acc[j][v], All{});
  }
  float shrink[J];
  for (int j = 0; j < J; ++j) {
    const float best = larger(running[j].max, max<V>(p[j], keys));
    shrink[j] = first_lane<V>(exp<V>(V::set(running[j].max - best)));
    running[j] = {best, running[j].sum * shrink[j] + exp_sum<V>(p[j], keys, best)};
  }
  const float* values = block + n.keys();
  size_t i = 0;
  for (; i + N * V::kLanes <= n.width; i += N * V::kLanes)
    exact_sum<V, J, N>(p[0], values + i, n.width, keys, shrink, out + i);
  for (; i < n.width; i += V::kLanes) exact_sum<V, J, 1>(p[0], values + i, n.width, keys, shrink, out + i);
}

// q = out / sum
template <class V>
inline void finish(const Running* running, const float* out, size_t width, size_t queries, size_t dim, float* q,
                   size_t ld) {
  for (size_t j = 0; j < queries; ++j) scale<V>(1.0f / running[j].sum, out + j * width, q + j * ld, dim);
}

template <class V>
void exact_attend(const void* blocks, size_t keys, size_t dim, float* q, size_t ld, size_t queries, void* scratch) {
  constexpr size_t J = V::kTile;
  static_assert(kFullQueries % J == 0);
  const ExactSizes<V> n(dim);
  float* tiles = static_cast<float*>(scratch);  // (tiles, dim, J)
  float* out = tiles + kFullQueries * dim;      // (tiles * J, width)
  Running running[kFullQueries];
  const size_t all = padded(queries, J);  // the last tile is completed with zeros
  for (size_t j = 0; j < all; ++j) {
    for (size_t i = 0; i < dim; ++i) tiles[j / J * dim * J + i * J + j % J] = j < queries ? q[j * ld + i] : 0.0f;
    running[j] = {-__builtin_inff(), 0.0f};
  }
  __builtin_memset(out, 0, all * n.width * sizeof(float));
  const float* block = static_cast<const float*>(blocks);
  for (size_t first = 0; first < keys; first += kFullKeys, block += n.floats()) {
    const size_t count = keys - first < kFullKeys ? keys - first : kFullKeys;
    for (size_t j = 0; j < all; j += J) exact_tile<V>(n, block, count, tiles + j * dim, running + j, out + j * n.width);
  }
  finish<V>(running, out, n.width, queries, dim, q, ld);
}

// ---------------------------------------------------------------------------------------------------------------------
// In int8. Levels of keys become unsigned as those of matrices do (kByteZero); those of the softmax are so by nature,
// at most 127, so that no instruction set saturates.

// A packed block: keys (kFullKeys / kKeys, quads, kKeys, 4), values (kFullKeys / 4, width, 4), both int8, and scales.
template <class V>
struct RoundedSizes {
  static constexpr size_t kKeys = V::kTileVecs * V::kLanes;
  explicit RoundedSizes(size_t dim_) : dim(dim_), quads(padded(dim_, 4) / 4), width(padded(dim_, kKeys)) {}
  size_t keys() const { return kFullKeys * quads * 4; }
  size_t values() const { return kFullKeys * width; }
  size_t bytes() const { return keys() + values() + sizeof(Scales); }

  // Of a block: of each key, of each value as a share of the largest (of 127), of a level of the weights.
  struct alignas(64) Scales {
    float key[kFullKeys], value[kFullKeys], weight;
  };
  size_t dim, quads, width;
};

// A row in int8 with one scale: 32 elements at a time, completed with zeros, go to sink(first, levels).
template <class V>
struct RoundedRow {
  template <class Sink>
  GEMMA4_INLINE inline RoundedRow(const float* x, size_t dim, Sink sink) {
    float tail[kBlock] = {}, most = 0;
    const size_t whole = dim / kBlock * kBlock;
    for (size_t i = whole; i < dim; ++i) tail[i - whole] = x[i];
    for (size_t i = 0; i < dim; i += kBlock) most = larger(most, V::most32(i < whole ? x + i : tail));
    const bool finite = most < __builtin_inff(), some = most >= 0x1p-100f;
    scale = finite ? (some ? most / 127.0f : 0.0f) : __builtin_nanf("");
    alignas(32) int8_t levels[kBlock] = {};
    for (size_t i = 0; i < dim; i += kBlock) {
      if (finite && some) V::round32(i < whole ? x + i : tail, 127.0f / most, levels);
      sum += V::sum16(levels) + V::sum16(levels + 16);
      sink(i, levels);
    }
  }
  float scale;
  int sum = 0;
};

// Four bytes of every row to `to`, `step` apart, for the quads [first / 4, quads) of 32 elements.
inline void store_quads(const int8_t* levels, size_t first, size_t quads, int zero, uint8_t* to, size_t step) {
  const size_t left = quads - first / 4, count = left < kBlock / 4 ? left : kBlock / 4;
  uint8_t biased[kBlock];
  for (size_t i = 0; i < kBlock; ++i) biased[i] = static_cast<uint8_t>(levels[i] + zero);
  for (size_t i = 0; i < count; ++i) __builtin_memcpy(to + (first / 4 + i) * step, biased + 4 * i, 4);
}

template <class V>
void rounded_pack(const float* k, const float* v, size_t ld, size_t keys, size_t dim, void* block) {
  using Sizes = RoundedSizes<V>;
  constexpr size_t kKeys = Sizes::kKeys;
  const Sizes n(dim);
  __builtin_memset(block, 0, n.bytes());  // keys that are not there, and dimensions
  auto* packed_keys = static_cast<uint8_t*>(block);
  auto* packed_values = packed_keys + n.keys();
  auto& scales = *reinterpret_cast<typename Sizes::Scales*>(packed_values + n.values());
  for (size_t r = 0; r < keys; ++r) {
    uint8_t* at = packed_keys + (r / kKeys * n.quads * kKeys + r % kKeys) * 4;
    scales.key[r] = RoundedRow<V>(k + r * ld, dim, [&](size_t i, const int8_t* levels) {
                      store_quads(levels, i, n.quads, V::kByteZero, at, kKeys * 4);
                    }).scale;
    at = packed_values + r / 4 * n.width * 4 + r % 4;
    scales.value[r] = RoundedRow<V>(v + r * ld, dim, [&](size_t first, const int8_t* levels) {
                        for (size_t i = first; i < dim && i < first + kBlock; ++i)
                          at[4 * i] = static_cast<uint8_t>(levels[i - first]);
                      }).scale;
  }
  float most = 0;
  for (size_t r = 0; r < keys; ++r) most = larger(most, scales.value[r]);
  scales.weight = most / 127.0f;
  for (size_t r = 0; r < keys; ++r) scales.value[r] *= most > 0 ? 127.0f / most : 0.0f;
}

// total[j][v] += the products of a quad: of one side kTileVecs vectors at `vectors`, of the other J broadcasts, kNext
// bytes apart.
template <class V, bool kRowsUnsigned, size_t kNext, int J>
GEMMA4_INLINE inline void add_quad(const int8_t* rows, const uint8_t* vectors,
                                   typename V::I (&total)[J][V::kTileVecs]) {
  typename V::B vec[V::kTileVecs];
  for (int v = 0; v < V::kTileVecs; ++v) vec[v] = V::load_bytes(vectors + v * V::kBytes);
  for (int j = 0; j < J; ++j) {
    const typename V::B row = V::repeat4(rows + j * kNext);
    for (int v = 0; v < V::kTileVecs; ++v) {
      const typename V::P start = V::begin(total[j][v]);
      if constexpr (kRowsUnsigned) {
        total[j][v] = V::end(total[j][v], V::template quad<7>(start, row, vec[v]));
      } else {
        total[j][v] = V::end(total[j][v], V::template quad<8>(start, vec[v], row));
      }
    }
  }
}

// The same for `count` quads; of each row they are kStep bytes apart, of the vectors `step`.
template <class V, bool kRowsUnsigned, size_t kStep, size_t kNext, int J>
GEMMA4_INLINE inline void add_quads(const int8_t* rows, const uint8_t* vectors, size_t step, size_t count,
                                    typename V::I (&total)[J][V::kTileVecs]) {
  size_t i = 0;
  // Unrolled by hand: GCC copies every sum in every turn of the loop, which would cost more than the products.
  for (; i + 8 <= count; i += 8) {
    unroll<8>([&](auto n) GEMMA4_INLINE {
      add_quad<V, kRowsUnsigned, kNext>(rows + (i + n.value) * kStep, vectors + (i + n.value) * step, total);
    });
  }
  for (; i < count; ++i) add_quad<V, kRowsUnsigned, kNext>(rows + i * kStep, vectors + i * step, total);
}

// A tile of queries, rounded: quads (quads, J, 4), and for each its scale times log2(e) and the zero point's part.
template <class V>
struct RoundedQueries {
  static constexpr int kTile = V::template kTileActsInt8<8>;
  const int8_t* quads;
  const float* scale;
  const int32_t* zero;
};

// p[j] = scores of `keys` keys without the query's scale, -inf up to a multiple of kBlock.
template <class V, int J>
inline void rounded_scores(const RoundedSizes<V>& n, const uint8_t* block, const float* key_scale, size_t keys,
                           const RoundedQueries<V>& q, float (&p)[J][kFullKeys]) {
  constexpr int N = V::kTileVecs;
  constexpr size_t kKeys = RoundedSizes<V>::kKeys;
  for (size_t first = 0; first < keys; first += kKeys) {
    typename V::I total[J][N];
    for (int j = 0; j < J; ++j)
      for (int v = 0; v < N; ++v) total[j][v] = V::set_int(q.zero[j]);
    add_quads<V, false, J * 4, 4>(q.quads, block + first * n.quads * 4, kKeys * 4, n.quads, total);
    for (int v = 0; v < N; ++v) {
      const typename V::F scale = V::load(key_scale + first + v * V::kLanes, All{});
      for (int j = 0; j < J; ++j)
        V::store(p[j] + first + v * V::kLanes, V::mul(V::to_float(total[j][v]), scale), All{});
    }
  }
  for (int j = 0; j < J; ++j)
    for (size_t r = keys; r < padded(keys, kBlock); ++r) p[j][r] = -__builtin_inff();
}

// The largest of n floats, a multiple of kBlock. A NaN may be passed over: it comes back in the sum of the weights.
template <class V>
inline float largest(const float* p, size_t n) {
  typename V::F best = V::load(p, All{});
  for (size_t i = V::kLanes; i < n; i += V::kLanes) best = V::max(V::load(p + i, All{}), best);
  return V::largest(best);
}

// levels = 2^(scale * p - best), each times the share of its value, as int8; returns the sum of the weights themselves.
template <class V>
inline float round_weights(const float* share, size_t n, float scale, float best, const float* p, int8_t* levels) {
  const typename V::F factor = V::set(scale), shift = V::set(-best);
  typename V::F sum = V::set(0.0f);
  for (size_t i = 0; i < n; i += kBlock) {
    alignas(64) float scaled[kBlock];
    for (size_t e = 0; e < kBlock; e += V::kLanes) {
      const typename V::F weight = exp2_of_negative<V>(V::fma(V::load(p + i + e, All{}), factor, shift));
      sum = V::add(sum, weight);
      V::store(scaled + e, V::mul(weight, V::load(share + i + e, All{})), All{});
    }
    V::round32(scaled, 1.0f, levels + i);
  }
  return V::sum(sum);
}

// A tile of queries and one block; maxima are in powers of two.   out: (J, width)
template <class V>
void rounded_tile(const RoundedSizes<V>& n, const uint8_t* block, size_t keys, const RoundedQueries<V>& q,
                  Running* running, float* out) {
  constexpr int J = RoundedQueries<V>::kTile, N = V::kTileVecs;
  constexpr size_t kLanes = (J + V::kLanes - 1) / V::kLanes * V::kLanes;
  const uint8_t* values = block + n.keys();
  const auto& scales = *reinterpret_cast<const typename RoundedSizes<V>::Scales*>(values + n.values());
  const size_t whole = padded(keys, kBlock);
  alignas(64) float p[J][kFullKeys], best[kLanes] = {}, shrink[kLanes] = {}, share[kLanes] = {};
  alignas(64) int8_t levels[J][kFullKeys];
  rounded_scores<V>(n, block, scales.key, keys, q, p);
  for (int j = 0; j < J; ++j) {
    best[j] = q.scale[j] * largest<V>(p[j], whole);
    const float most = larger(running[j].max, best[j]);
    shrink[j] = running[j].max - most;
    share[j] = best[j] - most;
    running[j].max = most;
  }
  for (size_t j = 0; j < kLanes; j += V::kLanes) {
    V::store(shrink + j, exp2_of_negative<V>(V::load(shrink + j, All{})), All{});
    V::store(share + j, exp2_of_negative<V>(V::load(share + j, All{})), All{});
  }
  for (int j = 0; j < J; ++j) {
    const float sum = round_weights<V>(scales.value, whole, q.scale[j], best[j], p[j], levels[j]);
    running[j].sum = running[j].sum * shrink[j] + share[j] * sum;
  }
  for (size_t d = 0; d < n.width; d += N * V::kLanes) {
    typename V::I total[J][N];
    for (int j = 0; j < J; ++j)
      for (int v = 0; v < N; ++v) total[j][v] = V::set_int(0);
    add_quads<V, true, 4, kFullKeys>(levels[0], values + d * 4, n.width * 4, whole / 4, total);
    for (int j = 0; j < J; ++j) {
      const typename V::F scale = V::set(share[j] * scales.weight), kept = V::set(shrink[j]);
      for (int v = 0; v < N; ++v) {
        float* at = out + j * n.width + d + v * V::kLanes;
        V::store(at, V::fma(V::to_float(total[j][v]), scale, V::mul(kept, V::load(at, All{}))), All{});
      }
    }
  }
}

template <class V>
void rounded_attend(const void* blocks, size_t keys, size_t dim, float* q, size_t ld, size_t queries, void* scratch) {
  constexpr size_t J = RoundedQueries<V>::kTile;
  static_assert(kFullQueries % J == 0);
  constexpr float kLog2E = 1.44269504f;
  const RoundedSizes<V> n(dim);
  float* out = static_cast<float*>(scratch);                               // (tiles * J, width)
  auto* tiles = reinterpret_cast<uint8_t*>(out + kFullQueries * n.width);  // (tiles, quads, J, 4)
  Running running[kFullQueries];
  float scale[kFullQueries] = {};
  int32_t zero[kFullQueries] = {};
  const size_t all = padded(queries, J);  // the last tile is completed with zeros
  __builtin_memset(tiles, 0, all * n.quads * 4);
  __builtin_memset(out, 0, all * n.width * sizeof(float));
  for (size_t j = 0; j < all; ++j) running[j] = {-__builtin_inff(), 0.0f};
  for (size_t j = 0; j < queries; ++j) {
    uint8_t* at = tiles + (j / J * n.quads * J + j % J) * 4;
    const RoundedRow<V> row(q + j * ld, dim,
                            [&](size_t i, const int8_t* levels) { store_quads(levels, i, n.quads, 0, at, J * 4); });
    // Any scale fits a row of zeros; one above zero keeps absent keys at -inf.
    scale[j] = (row.scale == 0 ? 1.0f : row.scale) * kLog2E;
    zero[j] = -V::kByteZero * row.sum;
  }
  const auto* block = static_cast<const uint8_t*>(blocks);
  for (size_t first = 0; first < keys; first += kFullKeys, block += n.bytes()) {
    const size_t count = keys - first < kFullKeys ? keys - first : kFullKeys;
    for (size_t j = 0; j < all; j += J) {
      const auto* quads = reinterpret_cast<const int8_t*>(tiles + j * n.quads * 4);
      rounded_tile<V>(n, block, count, {quads, scale + j, zero + j}, running + j, out + j * n.width);
    }
  }
  finish<V>(running, out, n.width, queries, dim, q, ld);
}

template <class V>
consteval FullAttentionKernels make_full_attention() {
  return {
      .exact = {
          .block_bytes = [](size_t dim) { return ExactSizes<V>(dim).floats() * sizeof(float); },
          .scratch_bytes = [](size_t dim) { return kFullQueries * (dim + ExactSizes<V>(dim).width) * sizeof(float); },
          .pack = exact_pack<V>,
          .attend = exact_attend<V>},
      .rounded = {.block_bytes = [](size_t dim) { return RoundedSizes<V>(dim).bytes(); },
                  .scratch_bytes =
                      [](size_t dim) {
                        const RoundedSizes<V> n(dim);
                        return kFullQueries * (n.width * sizeof(float) + n.quads * 4);
                      },
                  .pack = rounded_pack<V>,
                  .attend = rounded_attend<V>},
  };
}

}  // namespace
}  // namespace gemma4
