// One row of activations meets rows of Q4_0 as they are stored, written once over a byte vector class V.
// Knows: where the bytes of blocks lie in vectors. Must not know: which instruction set. Internal linkage (see body.h).
//
// Whole vectors are read, scales included: a block is 18 bytes, so a vector begins and ends anywhere in one, but four
// bytes never hold levels of two. Activations lie as the levels do, with zeros where the scales are, so nothing has to
// be moved before it is multiplied: a lane of the product is of one block, and the scale that it takes is picked from
// those of the next 2 * kLanes blocks, which fill exactly nine vectors (a period).
//
// V beyond quant_body.h:
//   pick(v, at), pick(a, b, at)  lane i = lane at[i] of v, or of a and b one after the other; higher bits are ignored
//   kRowsTogether  rows whose scales and sums fit the registers
//   nibble_mask()  bytes of 15, in a register;  both(a, b)  a & b
//   and where it has faster ways of its own, stored_scales and load_first, as those below
#pragma once

#include "kernels/blocks.h"
#include "kernels/quant_formats.h"

namespace gemma4 {
namespace {

// The rows of x from j on, the last one repeated where m ends.
template <int J>
GEMMA4_INLINE inline void activation_rows(const Int8Chunk* x, size_t ldx, size_t j, size_t m,
                                          const Int8Chunk* (&rows)[J]) {
  for (size_t i = 0; i < J; ++i) rows[i] = x + (j + i < m ? j + i : m - 1) * ldx;
}

// Rows that are read together are so many before those that are on their way meanwhile. Fetching more than kFarAhead
// bytes ahead gains nothing; of long rows only the next ones are fetched: what is behind the last is another thread's.
inline constexpr size_t kRowsAhead = 8, kFarAhead = 8192;
inline size_t rows_ahead(size_t stride, size_t together) {
  return kRowsAhead * stride < kFarAhead ? kRowsAhead : together;
}

template <class V>
struct Period {
  static constexpr size_t kBlockBytes = sizeof(BlockQ4_0), kScaleBytes = offsetof(BlockQ4_0, q);
  static constexpr size_t kVectors = 9, kBlocks = 2 * V::kLanes, kBytes = kVectors * V::kBytes;
  static_assert(kBlocks * kBlockBytes == kBytes);

  struct Lanes {
    alignas(64) int32_t block[kVectors][V::kLanes];
  };
  static consteval Lanes lanes() {
    Lanes of{};
    for (size_t v = 0; v < kVectors; ++v) {
      for (size_t l = 0; l < V::kLanes; ++l) {
        const size_t last = v * V::kBytes + 4 * l + 3;  // of four bytes this or the one two before is a level
        of.block[v][l] = static_cast<int32_t>((last % kBlockBytes >= kScaleBytes ? last : last - 2) / kBlockBytes);
      }
    }
    return of;
  }
};

// The block that each lane's levels are of.
template <class V>
constexpr auto kLaneOf = Period<V>::lanes();

// The first n bytes of a vector, then zeros; nothing behind them is read.
template <class V>
GEMMA4_INLINE inline typename V::B load_first(const char* p, size_t n) {
  if constexpr (requires { V::load_first(p, n); }) {
    return V::load_first(p, n);
  } else {
    alignas(64) char bytes[V::kBytes] = {};
    __builtin_memcpy(bytes, p, n);
    return V::load_bytes(bytes);
  }
}

// The scales of a period's blocks; unless kWhole, zeros from block `blocks` on.
template <class V, bool kWhole>
GEMMA4_INLINE inline void stored_scales(const char* p, size_t blocks, typename V::F (&out)[2]) {
  if constexpr (requires { V::template stored_scales<kWhole>(p, blocks, out); }) {
    V::template stored_scales<kWhole>(p, blocks, out);
  } else {
    alignas(64) uint16_t half[Period<V>::kBlocks];
    if constexpr (kWhole) {
      // Registers instead of sixteen bits at a time through memory, which a wider load would wait for.
      using Words = uint16_t __attribute__((vector_size(16)));
      for (size_t b = 0; b < Period<V>::kBlocks; b += 8) {
        Words w[8];
        for (size_t i = 0; i < 8; ++i) __builtin_memcpy(&w[i], p + (b + i) * sizeof(BlockQ4_0), sizeof w[i]);
        for (size_t i = 0; i < 8; i += 2) w[i] = __builtin_shufflevector(w[i], w[i + 1], 0, 8, 1, 9, 2, 10, 3, 11);
        for (size_t i = 0; i < 8; i += 4) w[i] = __builtin_shufflevector(w[i], w[i + 2], 0, 1, 8, 9, 2, 3, 10, 11);
        w[0] = __builtin_shufflevector(w[0], w[4], 0, 1, 2, 3, 8, 9, 10, 11);
        __builtin_memcpy(half + b, &w[0], sizeof w[0]);
      }
    } else {
      for (size_t b = 0; b < Period<V>::kBlocks; ++b) {
        half[b] = 0;
        if (b < blocks) __builtin_memcpy(&half[b], p + b * sizeof(BlockQ4_0), 2);
      }
    }
    for (size_t i = 0; i < 2; ++i) out[i] = V::load_f16(reinterpret_cast<const char*>(half + i * V::kLanes), All{});
  }
}

// Activations of so many blocks at most lie in the first cache together: whole chunks of them.
inline constexpr size_t kStoredBlocks = 512;

template <class V>
struct StoredActivations {
  using P = Period<V>;
  static constexpr size_t kVectors = kStoredBlocks / P::kBlocks * P::kVectors;
  static_assert(kStoredBlocks % P::kBlocks == 0);

  alignas(64) int8_t low[kVectors][V::kBytes], high[kVectors][V::kBytes];  // what the nibbles of a byte meet
  alignas(64) int32_t zero[kVectors][V::kLanes];                           // -8 * (sum of a lane's activations)
  alignas(64) float scale[kStoredBlocks];

  // The first n blocks of chunks in that order. What is behind them up to the end of a period is zero.
  template <class Order>
  void fill(const Int8Chunk* x, size_t n) {
    const size_t periods = (n + P::kBlocks - 1) / P::kBlocks, vectors = periods * P::kVectors;
    __builtin_memset(low, 0, vectors * V::kBytes);
    __builtin_memset(high, 0, vectors * V::kBytes);
    __builtin_memset(scale, 0, periods * P::kBlocks * sizeof(float));
    for (size_t first = 0; first < n; first += 8, ++x) {
      unroll<8>([&](auto block) GEMMA4_INLINE {
        constexpr size_t b = block.value;
        if (first + b >= n) return;
        const size_t at = (first + b) * P::kBlockBytes + P::kScaleBytes;
        __builtin_memcpy(&low[0][0] + at, x->q + 16 * Order::place(b, 0), 16);
        __builtin_memcpy(&high[0][0] + at, x->q + 16 * Order::place(b, 1), 16);
        scale[first + b] = x->scale[b];
      });
    }
    static constexpr int8_t kEight[4] = {8, 8, 8, 8};
    const typename V::B eight = V::repeat4(kEight);
    for (size_t v = 0; v < vectors; ++v) {
      typename V::P part = V::begin(V::set_int(0));
      part = V::template quad<4>(part, eight, V::load_bytes(low[v]));
      part = V::template quad<4>(part, eight, V::load_bytes(high[v]));
      const typename V::I sum = V::end(V::set_int(0), part);
      __builtin_memcpy(zero[v], &sum, sizeof sum);
      for (size_t l = 0; l < V::kLanes; ++l) zero[v][l] = -zero[v][l];
    }
  }
};

// R rows while they meet the activations.
template <class V, int R>
struct StoredRows {
  using P = Period<V>;

  GEMMA4_INLINE inline StoredRows(const char* w_, size_t stride_, size_t ahead_)
      : w(w_), stride(stride_), ahead(ahead_), mask(V::nibble_mask()) {
    for (int r = 0; r < R; ++r) acc[r] = V::set(0.0f);
  }

  // The period whose first vector is `first`; kWhole: it has all its blocks, else `blocks` of them.
  template <bool kWhole>
  GEMMA4_INLINE inline void add(const StoredActivations<V>& x, size_t first, size_t blocks) {
    const char* p = w + first * V::kBytes;
    typename V::F scales[R][2];
    for (int r = 0; r < R; ++r) {
      stored_scales<V, kWhole>(p + r * stride, blocks, scales[r]);
      const float* of = x.scale + first / P::kVectors * P::kBlocks;
      for (size_t i = 0; i < 2; ++i) scales[r][i] = V::mul(scales[r][i], V::load(of + i * V::kLanes, All{}));
    }
    const size_t bytes = blocks * P::kBlockBytes;
    unroll<P::kVectors>([&](auto vector) GEMMA4_INLINE {
      constexpr size_t v = vector.value, begin = v * V::kBytes;
      if (kWhole || begin + V::kBytes <= bytes) {
        add_vector<v>(x, first + v, scales, [](const char* at) GEMMA4_INLINE { return V::load_bytes(at); });
      } else if (begin < bytes) {
        add_vector<v>(x, first + v, scales,
                      [&](const char* at) GEMMA4_INLINE { return load_first<V>(at, bytes - begin); });
      }
    });
  }

  typename V::F acc[R];

 private:
  template <size_t v, class Load>
  GEMMA4_INLINE inline void add_vector(const StoredActivations<V>& x, size_t i, const typename V::F (&scales)[R][2],
                                       Load load) {
    const typename V::B low = V::load_bytes(x.low[i]), high = V::load_bytes(x.high[i]);
    const typename V::I zero = V::load_ints(x.zero[i]), lanes = V::load_ints(kLaneOf<V>.block[v]);
    for (int r = 0; r < R; ++r) {
      const char* at = w + r * stride + i * V::kBytes;
      if constexpr (v * V::kBytes % 64 == 0) V::prefetch(at + ahead);
      const typename V::B raw = load(at);
      typename V::P part = V::begin(zero);
      part = V::template quad<4>(part, V::both(raw, mask), low);
      part = V::template quad<4>(part, V::both(V::template shifted<-4>(raw), mask), high);
      const typename V::F product = V::to_float(V::end(zero, part));
      typename V::F scale;
      if constexpr (v == P::kVectors / 2) {
        scale = V::pick(scales[r][0], scales[r][1], lanes);
      } else {
        scale = V::pick(scales[r][v > P::kVectors / 2], lanes);
      }
      acc[r] = V::fma(product, scale, acc[r]);
    }
  }

  const char* w;
  size_t stride, ahead;
  typename V::B mask;
};

// y[r] = or += R rows times the activations of `blocks` blocks, in the order of the vectors for any R.
template <class V, int R>
void multiply_stored(const char* w, size_t stride, size_t ahead, const StoredActivations<V>& x, size_t blocks,
                     bool accumulate, float* y) {
  using P = Period<V>;
  StoredRows<V, R> rows(w, stride, ahead);
  size_t first = 0;
  for (; blocks >= P::kBlocks; blocks -= P::kBlocks, first += P::kVectors)
    rows.template add<true>(x, first, P::kBlocks);
  if (blocks > 0) rows.template add<false>(x, first, blocks);
  for (int r = 0; r < R; ++r) y[r] = accumulate ? y[r] + V::sum(rows.acc[r]) : V::sum(rows.acc[r]);
}

// y[r] = row r times x, for all rows.   w: (rows, k), rows `stride` bytes apart; x: in that order
template <class V, class Order>
void stream_stored(const char* w, size_t stride, size_t rows, size_t k, const Int8Chunk* x, float* y) {
  StoredActivations<V> activations;
  const size_t blocks = k / kBlock, ahead = rows_ahead(stride, V::kRowsTogether) * stride;
  for (size_t first = 0; first < blocks; first += kStoredBlocks) {
    const size_t n = blocks - first < kStoredBlocks ? blocks - first : kStoredBlocks;
    activations.template fill<Order>(x + first / 8, n);
    const char* at = w + first * sizeof(BlockQ4_0);
    size_t r = 0;
    for (; r + V::kRowsTogether <= rows; r += V::kRowsTogether)
      multiply_stored<V, V::kRowsTogether>(at + r * stride, stride, ahead, activations, n, first > 0, y + r);
    for (; r < rows; ++r) multiply_stored<V, 1>(at + r * stride, stride, ahead, activations, n, first > 0, y + r);
  }
}

}  // namespace
}  // namespace gemma4
