// Few rows of activations meet rows of Q4_0 or Q8_0 as they are stored, written once over a byte vector class V.
// Knows: where the bytes of blocks lie in vectors. Must not know: which instruction set. Internal linkage (see body.h).
//
// Whole vectors are read, scales included: a block is 18 or 34 bytes, so a vector begins and ends anywhere in one, but
// four bytes never hold quants of two. Activations lie as the quants do, with zeros where the scales are, so nothing
// has to be moved before it is multiplied: a lane of the product is of one block, and the scale that it takes is picked
// from those of the next 2 * kLanes blocks, which fill exactly nine or seventeen vectors (a period). What the zero
// point subtracts is added in floats, for a block at a time.
//
// V beyond quant_body.h:
//   pick(v, at), pick(a, b, at)  lane i = lane at[i] of v, or of a and b one after the other; higher bits are ignored
//   nibble_mask()  bytes of 15, in a register;  both(a, b)  a & b
//   and where it has faster ways of its own, stored_scales and load_first, as those below
#pragma once

#include "kernels/blocks.h"
#include "kernels/quant_formats.h"

namespace gemma4 {
namespace {

template <class V, class T>
struct Period {
  static constexpr size_t kBlockBytes = sizeof(typename T::Block), kScaleBytes = offsetof(typename T::Block, q);
  static constexpr size_t kVectors = kBlockBytes / 2, kBlocks = 2 * V::kLanes, kBytes = kVectors * V::kBytes;
  static_assert(kBlocks * kBlockBytes == kBytes);
  static constexpr size_t kParts = 8 / T::kBits;  // quants of a byte

  struct Lanes {
    alignas(64) int32_t block[kVectors][V::kLanes];
  };
  static consteval Lanes lanes() {
    Lanes of{};
    for (size_t v = 0; v < kVectors; ++v) {
      for (size_t l = 0; l < V::kLanes; ++l) {
        const size_t last = v * V::kBytes + 4 * l + 3;  // of four bytes this or the one two before is a quant
        of.block[v][l] = static_cast<int32_t>((last % kBlockBytes >= kScaleBytes ? last : last - 2) / kBlockBytes);
      }
    }
    return of;
  }
};

// The block that each lane's quants are of.
template <class V, class T>
constexpr auto kLaneOf = Period<V, T>::lanes();

// What the lanes of vector v take of a period's scales.
template <class V, class T, size_t v>
GEMMA4_INLINE inline typename V::F pick_scale(const typename V::F (&scales)[2]) {
  const typename V::I lanes = V::load_ints(kLaneOf<V, T>.block[v]);
  constexpr size_t kMiddle = Period<V, T>::kVectors / 2;
  if constexpr (v == kMiddle) return V::pick(scales[0], scales[1], lanes);
  return V::pick(scales[v > kMiddle], lanes);
}

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
template <class V, class T, bool kWhole>
GEMMA4_INLINE inline void stored_scales(const char* p, size_t blocks, typename V::F (&out)[2]) {
  using P = Period<V, T>;
  if constexpr (requires { V::template stored_scales<P::kBlockBytes, kWhole>(p, blocks, out); }) {
    V::template stored_scales<P::kBlockBytes, kWhole>(p, blocks, out);
  } else {
    alignas(64) uint16_t half[P::kBlocks];
    if constexpr (kWhole) {
      // Registers instead of sixteen bits at a time through memory, which a wider load would wait for.
      using Words = uint16_t __attribute__((vector_size(16)));
      for (size_t b = 0; b < P::kBlocks; b += 8) {
        Words w[8];
        for (size_t i = 0; i < 8; ++i) __builtin_memcpy(&w[i], p + (b + i) * P::kBlockBytes, sizeof w[i]);
        for (size_t i = 0; i < 8; i += 2) w[i] = __builtin_shufflevector(w[i], w[i + 1], 0, 8, 1, 9, 2, 10, 3, 11);
        for (size_t i = 0; i < 8; i += 4) w[i] = __builtin_shufflevector(w[i], w[i + 2], 0, 1, 8, 9, 2, 3, 10, 11);
        w[0] = __builtin_shufflevector(w[0], w[4], 0, 1, 2, 3, 8, 9, 10, 11);
        __builtin_memcpy(half + b, &w[0], sizeof w[0]);
      }
    } else {
      for (size_t b = 0; b < P::kBlocks; ++b) {
        half[b] = 0;
        if (b < blocks) __builtin_memcpy(&half[b], p + b * P::kBlockBytes, 2);
      }
    }
    for (size_t i = 0; i < 2; ++i) out[i] = V::load_f16(reinterpret_cast<const char*>(half + i * V::kLanes), All{});
  }
}

// A row of activations in the order of the weights. kLaned: with the scale of every lane, too, for StoredPart.
template <class V, class T, bool kLaned>
struct StoredActivation {
  using P = Period<V, T>;
  static constexpr size_t kBlocks = 512;  // lie together at most: whole chunks, and one row's stay in L1
  static constexpr size_t kVectors = kBlocks / P::kBlocks * P::kVectors;
  static constexpr int kSums = 2;  // chains of additions
  static_assert(kBlocks % P::kBlocks == 0);

  alignas(64) int8_t q[P::kParts][kVectors][V::kBytes];  // what the quants of a byte meet
  alignas(64) float scale[kBlocks];
  alignas(64) float zero[kBlocks];  // -zero point * scale * (sum of a block's q)
  alignas(64) float lane_scale[kLaned ? kVectors : 1][V::kLanes];

  // The first n blocks of a row in that order. What is behind them up to the end of a period is zero.
  void fill(const Int8Chunk* chunk, size_t n) {
    const size_t periods = (n + P::kBlocks - 1) / P::kBlocks, padded = periods * P::kBlocks * sizeof(float);
    for (auto& part : q) __builtin_memset(part, 0, periods * P::kBytes);
    __builtin_memset(scale, 0, padded);
    __builtin_memset(zero, 0, padded);
    for (size_t first = 0; first < n; first += 8, ++chunk) {
      unroll<8>([&](auto block) GEMMA4_INLINE {
        constexpr size_t b = block.value;
        if (first + b >= n) return;
        const size_t at = (first + b) * P::kBlockBytes + P::kScaleBytes;
        unroll<2>([&](auto half) GEMMA4_INLINE {
          constexpr size_t part = P::kParts == 2 ? half.value : 0, inside = P::kParts == 2 ? 0 : 16 * half.value;
          __builtin_memcpy(&q[part][0][0] + at + inside, chunk->q + 16 * Order<V, T>::place(b, half.value), 16);
        });
        scale[first + b] = chunk->scale[b];
        zero[first + b] = -static_cast<float>(T::kZero) * chunk->sum[b];
      });
    }
    if constexpr (kLaned) {
      for (size_t i = 0; i < periods; ++i) {
        const float* scales = scale + i * P::kBlocks;
        const typename V::F of[2] = {V::load(scales, All{}), V::load(scales + V::kLanes, All{})};
        unroll<P::kVectors>([&](auto v) GEMMA4_INLINE {
          V::store(lane_scale[i * P::kVectors + v.value], pick_scale<V, T, v.value>(of), All{});
        });
      }
    }
  }
};

// acc += the i-th period of a row, which is at p, times J activations; kWhole: it has all its blocks, else `blocks` of
// them.
template <class V, class T, int J, bool kWhole, bool kLaned>
GEMMA4_INLINE inline void add_period(const char* p, size_t ahead, const StoredActivation<V, T, kLaned>* x, size_t i,
                                     size_t blocks, typename V::B mask, typename V::F (&acc)[J][2]) {
  using P = Period<V, T>;
  typename V::F stored[2], scales[J][2];
  stored_scales<V, T, kWhole>(p, blocks, stored);
  for (int j = 0; j < J; ++j) {
    for (size_t half = 0; half < 2; ++half) {
      const size_t at = i * P::kBlocks + half * V::kLanes;
      if constexpr (T::kZero != 0) acc[j][half] = V::fma(stored[half], V::load(x[j].zero + at, All{}), acc[j][half]);
      scales[j][half] = V::mul(stored[half], V::load(x[j].scale + at, All{}));
    }
  }
  const size_t bytes = blocks * P::kBlockBytes;
  unroll<P::kVectors>([&](auto vector) GEMMA4_INLINE {
    constexpr size_t v = vector.value, begin = v * V::kBytes;
    if (!kWhole && begin >= bytes) return;
    if constexpr (begin % 64 == 0) V::prefetch(p + begin + ahead);
    const bool whole = kWhole || begin + V::kBytes <= bytes;
    const typename V::B raw = whole ? V::load_bytes(p + begin) : load_first<V>(p + begin, bytes - begin);
    for (int j = 0; j < J; ++j) {
      const size_t at = i * P::kVectors + v;
      typename V::P part = V::begin(V::set_int(0));
      if constexpr (P::kParts == 2) {
        part = V::template quad<4>(part, V::both(raw, mask), V::load_bytes(x[j].q[0][at]));
        part = V::template quad<4>(part, V::both(V::template shifted<-4>(raw), mask), V::load_bytes(x[j].q[1][at]));
      } else {
        part = V::template quad<8>(part, V::biased(raw), V::load_bytes(x[j].q[0][at]));
      }
      const typename V::F product = V::to_float(V::end(V::set_int(0), part));
      acc[j][v % 2] = V::fma(product, pick_scale<V, T, v>(scales[j]), acc[j][v % 2]);
    }
  });
}

// acc += the first blocks of a row times J activations.
template <class V, class T, int J, bool kLaned>
GEMMA4_INLINE inline void add_blocks(const char* w, size_t ahead, const StoredActivation<V, T, kLaned>* x,
                                     size_t blocks, typename V::F (&acc)[J][2]) {
  using P = Period<V, T>;
  const typename V::B mask = V::nibble_mask();
  size_t i = 0;
  for (; blocks >= P::kBlocks; blocks -= P::kBlocks, w += P::kBytes)
    add_period<V, T, J, true>(w, ahead, x, i++, P::kBlocks, mask, acc);
  if (blocks > 0) add_period<V, T, J, false>(w, ahead, x, i, blocks, mask, acc);
}

// A part of a row for many activations: quants are taken apart and scales picked once for all of them. A lane then
// multiplies the same two scales as above, in the other order of picking and multiplying.
template <class V, class T, size_t kElements>
struct StoredPart {
  using P = Period<V, T>;
  static constexpr size_t kPeriods = kElements / (P::kBlocks * kBlock);
  static_assert(kPeriods * P::kBlocks * kBlock == kElements);

  struct Vector {
    int8_t u[P::kParts][V::kBytes];
    float scale[V::kLanes];  // of every lane
  };
  alignas(64) Vector of[kPeriods][P::kVectors];
  alignas(64) float stored[kPeriods][2][V::kLanes];

  void read(const char* w, size_t ahead, size_t blocks) {
    const typename V::B mask = V::nibble_mask();
    for (size_t i = 0; blocks > 0; ++i, w += P::kBytes) {
      const size_t n = blocks < P::kBlocks ? blocks : P::kBlocks;
      if (n == P::kBlocks) {
        read_period<true>(w, ahead, i, n, mask);
      } else {
        read_period<false>(w, ahead, i, n, mask);
      }
      blocks -= n;
    }
  }

  // acc += the part, which has so many blocks and is a row's from block `first` on, times J activations.
  template <int J, class X>
  GEMMA4_INLINE inline void add(const X* x, size_t first, size_t blocks, typename V::F (&acc)[J][2]) const {
    size_t i = 0;
    for (; blocks >= P::kBlocks; blocks -= P::kBlocks, ++i) add_one<J, true>(x, first / P::kBlocks, i, P::kBlocks, acc);
    if (blocks > 0) add_one<J, false>(x, first / P::kBlocks, i, blocks, acc);
  }

 private:
  template <bool kWhole>
  GEMMA4_INLINE inline void read_period(const char* p, size_t ahead, size_t i, size_t blocks, typename V::B mask) {
    typename V::F scales[2];
    stored_scales<V, T, kWhole>(p, blocks, scales);
    for (size_t half = 0; half < 2; ++half) V::store(stored[i][half], scales[half], All{});
    const size_t bytes = blocks * P::kBlockBytes;
    unroll<P::kVectors>([&](auto vector) GEMMA4_INLINE {
      constexpr size_t v = vector.value, begin = v * V::kBytes;
      if (!kWhole && begin >= bytes) return;
      if constexpr (begin % 64 == 0) V::prefetch(p + begin + ahead);
      const bool whole = kWhole || begin + V::kBytes <= bytes;
      const typename V::B raw = whole ? V::load_bytes(p + begin) : load_first<V>(p + begin, bytes - begin);
      Vector& to = of[i][v];
      if constexpr (P::kParts == 2) {
        V::store_bytes(to.u[0], V::both(raw, mask));
        V::store_bytes(to.u[1], V::both(V::template shifted<-4>(raw), mask));
      } else {
        V::store_bytes(to.u[0], V::biased(raw));
      }
      V::store(to.scale, pick_scale<V, T, v>(scales), All{});
    });
  }
  template <int J, bool kWhole, class X>
  GEMMA4_INLINE inline void add_one(const X* x, size_t first, size_t i, size_t blocks,
                                    typename V::F (&acc)[J][2]) const {
    if constexpr (T::kZero != 0) {
      for (size_t half = 0; half < 2; ++half) {
        const typename V::F scales = V::load(stored[i][half], All{});
        const size_t at = (first + i) * P::kBlocks + half * V::kLanes;
        for (int j = 0; j < J; ++j) acc[j][half] = V::fma(scales, V::load(x[j].zero + at, All{}), acc[j][half]);
      }
    }
    const size_t bytes = blocks * P::kBlockBytes;
    unroll<P::kVectors>([&](auto vector) GEMMA4_INLINE {
      constexpr size_t v = vector.value;
      if (!kWhole && v * V::kBytes >= bytes) return;
      const size_t at = (first + i) * P::kVectors + v;
      const Vector& from = of[i][v];
      typename V::B u[P::kParts];
      for (size_t part = 0; part < P::kParts; ++part) u[part] = V::load_bytes(from.u[part]);
      const typename V::F scale = V::load(from.scale, All{});
      for (int j = 0; j < J; ++j) {
        typename V::P sum = V::begin(V::set_int(0));
        for (size_t part = 0; part < P::kParts; ++part)
          sum = V::template quad<T::kBits>(sum, u[part], V::load_bytes(x[j].q[part][at]));
        const typename V::F both = V::mul(scale, V::load(x[j].lane_scale[at], All{}));
        acc[j][v % 2] = V::fma(V::to_float(V::end(V::set_int(0), sum)), both, acc[j][v % 2]);
      }
    });
  }
};

}  // namespace
}  // namespace gemma4
