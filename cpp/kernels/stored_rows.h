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

// J rows of activations in the order of the weights.
template <class V, class T, int J>
struct StoredActivations {
  using P = Period<V, T>;
  static constexpr size_t kBlocks = 512;  // lie together at most: whole chunks, and one row's stay in L1
  static constexpr size_t kVectors = kBlocks / P::kBlocks * P::kVectors;
  static_assert(kBlocks % P::kBlocks == 0);

  alignas(64) int8_t q[J][P::kParts][kVectors][V::kBytes];  // what the quants of a byte meet
  alignas(64) float scale[J][kBlocks];
  alignas(64) float zero[J][kBlocks];  // -zero point * scale * (sum of a block's q)

  // The first n blocks of rows in that order. What is behind them up to the end of a period is zero.
  void fill(const Int8Chunk* const (&x)[J], size_t n) {
    const size_t periods = (n + P::kBlocks - 1) / P::kBlocks, padded = periods * P::kBlocks * sizeof(float);
    for (int j = 0; j < J; ++j) {
      for (auto& part : q[j]) __builtin_memset(part, 0, periods * P::kBytes);
      __builtin_memset(scale[j], 0, padded);
      __builtin_memset(zero[j], 0, padded);
      const Int8Chunk* chunk = x[j];
      for (size_t first = 0; first < n; first += 8, ++chunk) {
        unroll<8>([&](auto block) GEMMA4_INLINE {
          constexpr size_t b = block.value;
          if (first + b >= n) return;
          const size_t at = (first + b) * P::kBlockBytes + P::kScaleBytes;
          unroll<2>([&](auto half) GEMMA4_INLINE {
            constexpr size_t part = P::kParts == 2 ? half.value : 0, inside = P::kParts == 2 ? 0 : 16 * half.value;
            __builtin_memcpy(&q[j][part][0][0] + at + inside, chunk->q + 16 * Order<V, T>::place(b, half.value), 16);
          });
          scale[j][first + b] = chunk->scale[b];
          zero[j][first + b] = -static_cast<float>(T::kZero) * chunk->sum[b];
        });
      }
    }
  }
};

// A row while it meets J activations.
template <class V, class T, int J>
struct StoredRow {
  using P = Period<V, T>;

  GEMMA4_INLINE inline StoredRow() : mask(V::nibble_mask()) {
    for (int j = 0; j < J; ++j)
      for (typename V::F& a : acc[j]) a = V::set(0.0f);
  }

  // The period at p, which is the i-th; kWhole: it has all its blocks, else `blocks` of them.
  template <bool kWhole>
  GEMMA4_INLINE inline void add(const char* p, size_t ahead, const StoredActivations<V, T, J>& x, size_t i,
                                size_t blocks) {
    typename V::F stored[2], scales[J][2];
    stored_scales<V, T, kWhole>(p, blocks, stored);
    for (int j = 0; j < J; ++j) {
      for (size_t half = 0; half < 2; ++half) {
        const size_t at = i * P::kBlocks + half * V::kLanes;
        if constexpr (T::kZero != 0) acc[j][half] = V::fma(stored[half], V::load(x.zero[j] + at, All{}), acc[j][half]);
        scales[j][half] = V::mul(stored[half], V::load(x.scale[j] + at, All{}));
      }
    }
    const size_t bytes = blocks * P::kBlockBytes;
    unroll<P::kVectors>([&](auto vector) GEMMA4_INLINE {
      constexpr size_t v = vector.value, begin = v * V::kBytes;
      if (!kWhole && begin >= bytes) return;
      if constexpr (begin % 64 == 0) V::prefetch(p + begin + ahead);
      const bool whole = kWhole || begin + V::kBytes <= bytes;
      const typename V::B raw = whole ? V::load_bytes(p + begin) : load_first<V>(p + begin, bytes - begin);
      const typename V::I lanes = V::load_ints(kLaneOf<V, T>.block[v]);
      for (int j = 0; j < J; ++j) {
        const size_t at = i * P::kVectors + v;
        typename V::P part = V::begin(V::set_int(0));
        if constexpr (P::kParts == 2) {
          part = V::template quad<4>(part, V::both(raw, mask), V::load_bytes(x.q[j][0][at]));
          part = V::template quad<4>(part, V::both(V::template shifted<-4>(raw), mask), V::load_bytes(x.q[j][1][at]));
        } else {
          part = V::template quad<8>(part, V::biased(raw), V::load_bytes(x.q[j][0][at]));
        }
        const typename V::F product = V::to_float(V::end(V::set_int(0), part));
        typename V::F scale;
        if constexpr (v == P::kVectors / 2) {
          scale = V::pick(scales[j][0], scales[j][1], lanes);
        } else {
          scale = V::pick(scales[j][v > P::kVectors / 2], lanes);
        }
        acc[j][v % 2] = V::fma(product, scale, acc[j][v % 2]);
      }
    });
  }
  GEMMA4_INLINE inline float sum(int j) const { return V::sum(V::add(acc[j][0], acc[j][1])); }

 private:
  typename V::B mask;
  typename V::F acc[J][2];  // two chains of additions
};

// sums[j] = a row times the activations of `blocks` blocks.
template <class V, class T, int J>
void multiply_row(const char* w, size_t ahead, const StoredActivations<V, T, J>& x, size_t blocks, float (&sums)[J]) {
  using P = Period<V, T>;
  StoredRow<V, T, J> row;
  size_t i = 0;
  for (; blocks >= P::kBlocks; blocks -= P::kBlocks, w += P::kBytes)
    row.template add<true>(w, ahead, x, i++, P::kBlocks);
  if (blocks > 0) row.template add<false>(w, ahead, x, i, blocks);
  for (int j = 0; j < J; ++j) sums[j] = row.sum(j);
}

}  // namespace
}  // namespace gemma4
