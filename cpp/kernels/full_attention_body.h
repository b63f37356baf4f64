// Attention in which every query sees every key, written once over the byte vector class V of quant_body.h.
// Knows: one head, lanes. Must not know: which instruction set, layers. Internal linkage (see body.h).
//
// Keys lie in the lanes, transposed, so that a tile of queries meets them by broadcasts and its scores come out in
// rows; the weighted sum of values has the dimensions in the lanes. Both products are the same loop: kVecs vectors of
// one side in registers, kTile broadcasts of the other. A tile of queries passes over one block of keys at a time.
//
// V beyond quant_body.h: kTile, kVecs  queries and vectors of a tile in f32;  kRoundedTile  queries of one in int8, a
// divisor of kTile;  largest(v)  of the lanes;  and where it multiplies bf16, add_pairs(acc, a, b)  acc + both products
// of every word;  to_pairs(p, n, out)  n floats, two a word, the last one with a zero where n is odd.
#pragma once

#include <type_traits>

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
  size_t bytes() const { return (keys() + kFullKeys * width) * sizeof(float); }
  size_t scratch() const { return kFullQueries * (dim + width) * sizeof(float); }

  size_t dim, width;
};

// How queries meet keys: in f32, a word is an element.
template <class V>
struct FloatProducts {
  static constexpr size_t kElements = 1;
  static inline void words(const float* row, size_t dim, float* out) {
    __builtin_memcpy(out, row, dim * sizeof(float));
  }
  static inline typename V::F add(typename V::F acc, typename V::F a, typename V::F b) { return V::fma(a, b, acc); }
};

// Or in bf16, where V adds the products of pairs: a word is two elements.
template <class V>
struct PairProducts {
  static constexpr size_t kElements = 2;
  static inline void words(const float* row, size_t dim, float* out) { V::to_pairs(row, dim, out); }
  static inline typename V::F add(typename V::F acc, typename V::F a, typename V::F b) {
    return V::add_pairs(acc, a, b);
  }
};

// Column r % kColumns of table r / kColumns, (words, kColumns) each, = row r of x; what is not there up to the last
// table's end is zero.
template <class Products, size_t kColumns>
inline void transpose(const float* x, size_t ld, size_t rows, size_t dim, float* tables) {
  constexpr size_t kPiece = 64;  // words of a row at once
  const size_t words = padded(dim, Products::kElements) / Products::kElements;
  __builtin_memset(tables, 0, padded(rows, kColumns) * words * sizeof(float));
  for (size_t r = 0; r < rows; ++r) {
    float* to = tables + r / kColumns * words * kColumns + r % kColumns;
    for (size_t first = 0; first < words; first += kPiece) {
      float piece[kPiece];
      const size_t n = words - first < kPiece ? words - first : kPiece, at = first * Products::kElements;
      const size_t left = dim - at, most = kPiece * Products::kElements;
      Products::words(x + r * ld + at, left < most ? left : most, piece);
      for (size_t i = 0; i < n; ++i) to[(first + i) * kColumns] = piece[i];
    }
  }
}

template <class V>
void exact_pack(const float* k, const float* v, size_t ld, size_t keys, size_t dim, void* block) {
  const ExactSizes<V> n(dim);
  float* values = static_cast<float*>(block) + n.keys();
  transpose<FloatProducts<V>, ExactSizes<V>::kGroup>(k, ld, keys, dim, static_cast<float*>(block));
  for (size_t r = 0; r < keys; ++r) {
    float* row = values + r * n.width;
    for (size_t i = 0; i < dim; ++i) row[i] = v[r * ld + i];
    for (size_t i = dim; i < n.width; ++i) row[i] = 0;
  }
}

// acc[j][v] += sum_i a[i * kStep + j * kNext] b[i * ldb + v * kLanes ...] for i < count
template <class V, class Products, size_t kStep, size_t kNext, int J, int N>
GEMMA4_INLINE inline void accumulate(const float* a, const float* b, size_t ldb, size_t count,
                                     typename V::F (&acc)[J][N]) {
  for (size_t i = 0; i < count; ++i) {
    typename V::F row[N];
    for (int v = 0; v < N; ++v) row[v] = V::load(b + i * ldb + v * V::kLanes, All{});
    for (int j = 0; j < J; ++j) {
      const typename V::F x = V::set(a[i * kStep + j * kNext]);
      for (int v = 0; v < N; ++v) acc[j][v] = Products::add(acc[j][v], row[v], x);
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
  accumulate<V, FloatProducts<V>, 1, kFullKeys>(p, values, width, keys, acc);
  for (int j = 0; j < J; ++j)
    for (int v = 0; v < N; ++v) V::store(out + j * width + v * V::kLanes, acc[j][v], All{});
}

// What a query keeps from block to block.
struct Running {
  float max, sum;
};

// p = the scores of a tile of queries with `keys` keys; what follows up to the end of a group is not one.
//   keys: packed; q: (words, kTile)
template <class V, class Products, int J>
inline void tile_scores(const float* packed, size_t keys, size_t words, const float* q, float (&p)[J][kFullKeys]) {
  constexpr int N = V::kVecs;
  constexpr size_t kGroup = ExactSizes<V>::kGroup;
  for (size_t first = 0; first < keys; first += kGroup) {
    typename V::F acc[J][N];
    for (int j = 0; j < J; ++j)
      for (int v = 0; v < N; ++v) acc[j][v] = V::set(0.0f);
    accumulate<V, Products, J, 1>(q, packed + first * words, kGroup, words, acc);
    for (int j = 0; j < J; ++j)
      for (int v = 0; v < N; ++v) V::store(p[j] + first + v * V::kLanes, acc[j][v], All{});
  }
}

// A tile of queries and one block.   q: (words, kTile); out: (kTile, width)
template <class V>
void exact_tile(const ExactSizes<V>& n, const float* block, size_t keys, const float* q, Running* running, float* out) {
  constexpr int J = V::kTile, N = V::kVecs;
  alignas(64) float p[J][kFullKeys];
  tile_scores<V, FloatProducts<V>>(block, keys, n.dim, q, p);
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

// A block of queries against all blocks of keys, by kPass, which is exact_tile or rounded_tile.
template <class V, class Products, auto kPass, class Sizes>
GEMMA4_INLINE inline void attend(const Sizes& n, const void* blocks, size_t keys, float* q, size_t ld, size_t queries,
                                 void* scratch) {
  constexpr size_t J = V::kTile;
  static_assert(kFullQueries % J == 0);
  const size_t words = padded(n.dim, Products::kElements) / Products::kElements;
  const size_t all = padded(queries, J);       // the last tile is completed with zeros
  auto* tiles = static_cast<float*>(scratch);  // (tiles, words, J)
  float* out = tiles + kFullQueries * words;   // (tiles * J, width)
  transpose<Products, J>(q, ld, queries, n.dim, tiles);
  Running running[kFullQueries];
  for (size_t j = 0; j < all; ++j) running[j] = {-__builtin_inff(), 0.0f};
  __builtin_memset(out, 0, all * n.width * sizeof(float));
  const auto* block = static_cast<const char*>(blocks);
  for (size_t first = 0; first < keys; first += kFullKeys, block += n.bytes()) {
    const size_t count = keys - first < kFullKeys ? keys - first : kFullKeys;
    for (size_t j = 0; j < all; j += J)
      kPass(n, reinterpret_cast<const float*>(block), count, tiles + j * words, running + j, out + j * n.width);
  }
  for (size_t j = 0; j < queries; ++j) scale<V>(1.0f / running[j].sum, out + j * n.width, q + j * ld, n.dim);
}

template <class V>
void exact_attend(const void* blocks, size_t keys, size_t dim, float* q, size_t ld, size_t queries, void* scratch) {
  attend<V, FloatProducts<V>, exact_tile<V>>(ExactSizes<V>(dim), blocks, keys, q, ld, queries, scratch);
}

// ---------------------------------------------------------------------------------------------------------------------
// The weighted sum of values in int8. Scores stay in f32, or in bf16 where that is fast: a softmax would make a large
// error of what int8 leaves of them. Its weights are unsigned by nature, at most 127 of their quants, so that no
// instruction set saturates.

template <class V>
constexpr bool kMultipliesPairs = requires(typename V::F f) {
  V::add_pairs(f, f, f);
};
template <class V>
using Scores = std::conditional_t<kMultipliesPairs<V>, PairProducts<V>, FloatProducts<V>>;

// A packed block: keys as above, values (kFullKeys / 4, width, 4) in int8, and scales.
template <class V>
struct RoundedSizes {
  explicit RoundedSizes(size_t dim_) : dim(dim_), width(padded(dim_, V::kTileVecs * V::kLanes)) {}
  size_t words() const { return padded(dim, Scores<V>::kElements) / Scores<V>::kElements; }
  size_t keys() const { return kFullKeys * words() * sizeof(float); }
  size_t values() const { return kFullKeys * width; }
  size_t bytes() const { return keys() + values() + sizeof(Scales); }
  size_t scratch() const { return kFullQueries * (words() + width) * sizeof(float); }

  // Of a block: of each value as a share of the largest (of 127), and of a quant of the weights.
  struct alignas(64) Scales {
    float value[kFullKeys], weight;
  };
  size_t dim, width;
};

// A row in int8: 32 elements at a time, completed with zeros, go to sink(first, quants). Returns its scale, NaN for a
// row that is not finite.
template <class V, class Sink>
GEMMA4_INLINE inline float round_row(const float* x, size_t dim, Sink sink) {
  float tail[kBlock] = {}, most = 0;
  const size_t whole = dim / kBlock * kBlock;
  for (size_t i = whole; i < dim; ++i) tail[i - whole] = x[i];
  for (size_t i = 0; i < dim; i += kBlock) most = larger(most, V::most32(i < whole ? x + i : tail));
  const bool finite = most < __builtin_inff(), some = most >= 0x1p-100f;
  alignas(32) int8_t quants[kBlock] = {};
  for (size_t i = 0; i < dim; i += kBlock) {
    if (finite && some) V::round32(i < whole ? x + i : tail, 127.0f / most, quants);
    sink(i, quants);
  }
  return finite ? (some ? most / 127.0f : 0.0f) : __builtin_nanf("");
}

template <class V>
void rounded_pack(const float* k, const float* v, size_t ld, size_t keys, size_t dim, void* block) {
  const RoundedSizes<V> n(dim);
  transpose<Scores<V>, ExactSizes<V>::kGroup>(k, ld, keys, dim, static_cast<float*>(block));
  auto* values = static_cast<int8_t*>(block) + n.keys();
  auto& scales = *reinterpret_cast<typename RoundedSizes<V>::Scales*>(values + n.values());
  __builtin_memset(values, 0, n.values() + sizeof(scales));  // keys and dimensions that are not there
  float most = 0;
  for (size_t r = 0; r < keys; ++r) {
    int8_t* at = values + r / 4 * n.width * 4 + r % 4;
    scales.value[r] = round_row<V>(v + r * ld, dim, [&](size_t first, const int8_t* quants) {
      for (size_t i = first; i < dim && i < first + kBlock; ++i) at[4 * i] = quants[i - first];
    });
    most = larger(most, scales.value[r]);
  }
  scales.weight = most / 127.0f;
  for (size_t r = 0; r < keys; ++r) scales.value[r] *= most > 0 ? 127.0f / most : 0.0f;
}

// total[j][v] += weights times values for four keys.   weights: (J, kFullKeys); values: kTileVecs vectors
template <class V, int J>
GEMMA4_INLINE inline void add_quad(const int8_t* weights, const int8_t* values,
                                   typename V::I (&total)[J][V::kTileVecs]) {
  typename V::B vec[V::kTileVecs];
  for (int v = 0; v < V::kTileVecs; ++v) vec[v] = V::load_bytes(values + v * V::kBytes);
  for (int j = 0; j < J; ++j) {
    const typename V::B row = V::repeat4(weights + j * kFullKeys);
    for (int v = 0; v < V::kTileVecs; ++v)
      total[j][v] = V::end(total[j][v], V::template quad<7>(V::begin(total[j][v]), row, vec[v]));
  }
}

// The largest of n floats, a multiple of kBlock. A NaN may be passed over: it comes back in the sum of the weights.
template <class V>
inline float largest(const float* p, size_t n) {
  constexpr size_t kVecs = kBlock / V::kLanes;  // each of its own, so that none waits for the others
  typename V::F best[kVecs];
  for (size_t v = 0; v < kVecs; ++v) best[v] = V::load(p + v * V::kLanes, All{});
  for (size_t i = kBlock; i < n; i += kBlock)
    for (size_t v = 0; v < kVecs; ++v) best[v] = V::max(V::load(p + i + v * V::kLanes, All{}), best[v]);
  for (size_t v = 1; v < kVecs; ++v) best[0] = V::max(best[v], best[0]);
  return V::largest(best[0]);
}

inline constexpr float kLog2E = 1.44269504f;

// quants = exp(p - best), each times the share of its value, as int8; returns the sum of the weights themselves.
template <class V>
inline float round_weights(const float* share, size_t n, float best, const float* p, int8_t* quants) {
  const typename V::F factor = V::set(kLog2E), shift = V::set(-best * kLog2E);
  typename V::F sum = V::set(0.0f);
  for (size_t i = 0; i < n; i += kBlock) {
    alignas(64) float scaled[kBlock];
    for (size_t e = 0; e < kBlock; e += V::kLanes) {
      const typename V::F weight = exp2_of_negative<V>(V::fma(V::load(p + i + e, All{}), factor, shift));
      sum = V::add(sum, weight);
      V::store(scaled + e, V::mul(weight, V::load(share + i + e, All{})), All{});
    }
    V::round32(scaled, 1.0f, quants + i);
  }
  return V::sum(sum);
}

// out (J, width) = shrink * out + weights (J, kFullKeys) values, of `keys` keys, a multiple of kBlock
template <class V, int J>
inline void rounded_sum(const int8_t* weights, const int8_t* values, size_t width, size_t keys, const float* shrink,
                        const float* scale, float* out) {
  constexpr int N = V::kTileVecs;
  for (size_t d = 0; d < width; d += N * V::kLanes) {
    typename V::I total[J][N];
    for (int j = 0; j < J; ++j)
      for (int v = 0; v < N; ++v) total[j][v] = V::set_int(0);
    // Unrolled by hand: GCC copies every sum in every turn of the loop, which would cost more than the products.
    for (size_t r = 0; r < keys; r += kBlock) {
      unroll<kBlock / 4>([&](auto quad) GEMMA4_INLINE {
        const size_t first = r + 4 * quad.value;
        add_quad<V>(weights + first, values + first * width + 4 * d, total);
      });
    }
    for (int j = 0; j < J; ++j) {
      for (int v = 0; v < N; ++v) {
        float* at = out + j * width + d + v * V::kLanes;
        const typename V::F kept = V::mul(V::set(shrink[j]), V::load(at, All{}));
        V::store(at, V::fma(V::to_float(total[j][v]), V::set(scale[j]), kept), All{});
      }
    }
  }
}

// A tile of queries and one block.   q: (words, kTile); out: (kTile, width)
template <class V>
void rounded_tile(const RoundedSizes<V>& n, const float* block, size_t keys, const float* q, Running* running,
                  float* out) {
  constexpr int J = V::kTile, kSums = V::kRoundedTile;
  static_assert(J % kSums == 0);
  constexpr size_t kAll = padded(J, V::kLanes);
  const auto* values = reinterpret_cast<const int8_t*>(block) + n.keys();
  const auto& scales = *reinterpret_cast<const typename RoundedSizes<V>::Scales*>(values + n.values());
  const size_t whole = padded(keys, kBlock);
  alignas(64) float p[J][kFullKeys], best[J], shrink[kAll] = {}, scale[kAll] = {};
  alignas(64) int8_t quants[J][kFullKeys];
  tile_scores<V, Scores<V>>(block, keys, n.words(), q, p);
  for (int j = 0; j < J; ++j) {
    for (size_t r = keys; r < whole; ++r) p[j][r] = -__builtin_inff();
    best[j] = largest<V>(p[j], whole);
    const float most = larger(running[j].max, best[j]);
    shrink[j] = (running[j].max - most) * kLog2E;
    scale[j] = (best[j] - most) * kLog2E;
    running[j].max = most;
  }
  for (size_t j = 0; j < kAll; j += V::kLanes) {
    V::store(shrink + j, exp2_of_negative<V>(V::load(shrink + j, All{})), All{});
    V::store(scale + j, exp2_of_negative<V>(V::load(scale + j, All{})), All{});
  }
  for (int j = 0; j < J; ++j) {
    const float sum = round_weights<V>(scales.value, whole, best[j], p[j], quants[j]);
    running[j].sum = running[j].sum * shrink[j] + sum * scale[j];
    scale[j] *= scales.weight;
  }
  for (int j = 0; j < J; j += kSums)
    rounded_sum<V, kSums>(quants[j], values, n.width, whole, shrink + j, scale + j, out + j * n.width);
}

template <class V>
void rounded_attend(const void* blocks, size_t keys, size_t dim, float* q, size_t ld, size_t queries, void* scratch) {
  attend<V, Scores<V>, rounded_tile<V>>(RoundedSizes<V>(dim), blocks, keys, q, ld, queries, scratch);
}

template <class V>
consteval FullAttentionKernels make_full_attention() {
  return {
      .exact = {.block_bytes = [](size_t dim) { return ExactSizes<V>(dim).bytes(); },
                .scratch_bytes = [](size_t dim) { return ExactSizes<V>(dim).scratch(); },
                .pack = exact_pack<V>,
                .attend = exact_attend<V>},
      .rounded = {.block_bytes = [](size_t dim) { return RoundedSizes<V>(dim).bytes(); },
                  .scratch_bytes = [](size_t dim) { return RoundedSizes<V>(dim).scratch(); },
                  .pack = rounded_pack<V>,
                  .attend = rounded_attend<V>},
  };
}

}  // namespace
}  // namespace gemma4
