// Few rows of activations meet rows of formats that are unpacked first (unpack.h), written once over a byte vector
// class V. Knows: chunks of quants, lanes. Must not know: which instruction set. Internal linkage (see body.h).
//
// Some chunks are unpacked before the first of them is multiplied: vectors are read back that were stored in parts,
// which has to wait until the parts are in the cache. As in super_rows.h, a product's lanes pick their scales and are
// added in floats, and what the zero point or minimums subtract is added there as one multiple of each scale or
// minimum.
#pragma once

#include "kernels/blocks.h"
#include "kernels/quant_formats.h"

namespace gemma4 {
namespace {

// The scale that each lane of each product takes, and the block of 32 that each scale is of.
template <class V, class T>
struct UnpackedLanes {
  static constexpr size_t kLanes = V::kLanes, kVectors = kSuperBlock / V::kBytes;
  static constexpr size_t kScaleVecs = T::kScales < kLanes ? 1 : T::kScales / kLanes;

  struct Lanes {
    alignas(64) int32_t scale[kVectors][kLanes];
    alignas(64) int32_t block[kScaleVecs][kLanes];
  };
  static consteval Lanes lanes() {
    Lanes of{};
    for (size_t v = 0; v < kVectors; ++v)
      for (size_t l = 0; l < kLanes; ++l) of.scale[v][l] = static_cast<int32_t>((v * V::kBytes + 4 * l) / T::kGroup);
    for (size_t i = 0; i < kScaleVecs; ++i)
      for (size_t l = 0; l < kLanes; ++l) of.block[i][l] = static_cast<int32_t>((i * kLanes + l) * T::kGroup / kBlock);
    return of;
  }
  // The vector of scales that all lanes of product v take theirs from.
  static constexpr size_t vec(size_t v) { return v * V::kBytes / T::kGroup / kLanes; }
};
template <class V, class T>
constexpr auto kUnpackedLanes = UnpackedLanes<V, T>::lanes();

// The activations' scale that vector i of the weights' scales is multiplied by.
template <class V, class T>
GEMMA4_INLINE inline typename V::F scales_met(const Int8Chunk& x, size_t i) {
  if constexpr (T::kGroup < kBlock) {
    const typename V::F scales = V::load(x.scale + i / 2 * V::kLanes, All{});  // each for two
    return V::pick(scales, V::load_ints(kUnpackedLanes<V, T>.block[i]));
  } else if constexpr (T::kScales < V::kLanes) {
    return V::load(x.scale, Some{T::kScales});
  } else {
    return V::load(x.scale + i * V::kLanes, All{});
  }
}

// A row of activations.
template <class V, class T>
struct UnpackedActivation {
  static constexpr size_t kBlocks = 64 * (kSuperBlock / T::kElems);  // lie together at most: in L1
  static constexpr int kSums = 2;                                    // chains of additions

  const Int8Chunk* x;

  void fill(const Int8Chunk* row, size_t) { x = row; }
};

// acc[j] += a chunk of weights times chunk c of J activations, lane by lane.
template <class V, class T, int J>
GEMMA4_INLINE inline void add_quants(const ChunkQuants& w, const UnpackedActivation<V, T>* a, size_t c,
                                     typename V::F (&acc)[J][2]) {
  using L = UnpackedLanes<V, T>;
  typename V::F scaled[J][L::kScaleVecs];
  for (size_t i = 0; i < L::kScaleVecs; ++i) {
    const typename V::F scale = V::load(w.scale + i * V::kLanes, All{});
    for (int j = 0; j < J; ++j) {
      const Int8Chunk& x = a[j].x[c];
      const typename V::F met = scales_met<V, T>(x, i);
      scaled[j][i] = V::mul(scale, met);
      if constexpr (T::kZero != 0 || T::kMins) {
        const typename V::F zero = V::to_float(V::load_ints(x.zero + i * V::kLanes));
        const typename V::F by = T::kMins ? V::mul(V::load(w.min + i * V::kLanes, All{}), met) : scaled[j][i];
        acc[j][0] = V::fma(by, zero, acc[j][0]);
      }
    }
  }
  unroll<L::kVectors>([&](auto vector) GEMMA4_INLINE {
    constexpr size_t v = vector.value;
    const typename V::B u = T::quant(V::load_bytes(w.quant + v * V::kBytes));
    const typename V::I lanes = V::load_ints(kUnpackedLanes<V, T>.scale[v]);
    for (int j = 0; j < J; ++j) {
      const typename V::B q = V::load_bytes(a[j].x[c].q + v * V::kBytes);
      const typename V::P part = V::template quad<T::kBits>(V::begin(V::set_int(0)), u, q);
      const typename V::F product = V::to_float(V::end(V::set_int(0), part));
      acc[j][v % 2] = V::fma(product, V::pick(scaled[j][L::vec(v)], lanes), acc[j][v % 2]);
    }
  });
}

// Makes scales zero that a vector has and the format has not.
template <class T, size_t kLanes>
inline void clear_spare_scales(ChunkQuants& w) {
  for (size_t g = T::kScales; g < kLanes; ++g) w.scale[g] = 0;
}

// So many chunks are unpacked together.
inline constexpr size_t kTogether = 8;

// The chunks at w, which have so many elements; what is not there has the scale 0.
template <class V, class T>
GEMMA4_INLINE inline void unpack_chunks(const char* w, size_t ahead, size_t elements, ChunkQuants* out) {
  for (size_t at = 0; at < elements; at += kSuperBlock, w += T::kChunkBytes, ++out) {
    const size_t left = elements - at;
    if (left < kSuperBlock) __builtin_memset(out, 0, sizeof *out);
    clear_spare_scales<T, V::kLanes>(*out);
    unpack_chunk<typename T::Block>(w, (left < kSuperBlock ? left : kSuperBlock) / kBlock, *out);
    for (size_t l = 0; l < T::kChunkBytes; l += 64) V::prefetch(w + ahead + l);
  }
}

// acc += the first blocks of a row times J activations.
template <class V, class T, int J>
GEMMA4_INLINE inline void add_blocks(const char* w, size_t ahead, const UnpackedActivation<V, T>* x, size_t blocks,
                                     typename V::F (&acc)[J][2]) {
  ChunkQuants quants[kTogether];
  size_t c = 0;
  for (size_t elements = blocks * T::kElems, n; elements > 0; elements -= n, w += kTogether * T::kChunkBytes) {
    n = elements < kTogether * kSuperBlock ? elements : kTogether * kSuperBlock;
    unpack_chunks<V, T>(w, ahead, n, quants);
    for (size_t i = 0; i < chunk_count(n); ++i) add_quants<V, T, J>(quants[i], x, c++, acc);
  }
}

// A part of a row for many activations.
template <class V, class T, size_t kElements>
struct UnpackedPart {
  ChunkQuants of[kElements / kSuperBlock];

  void read(const char* w, size_t ahead, size_t blocks) { unpack_chunks<V, T>(w, ahead, blocks * T::kElems, of); }

  // acc += the part, which has so many blocks and is a row's from block `first` on, times J activations.
  template <int J, class X>
  GEMMA4_INLINE inline void add(const X* x, size_t first, size_t blocks, typename V::F (&acc)[J][2]) const {
    const size_t chunks = chunk_count(blocks * T::kElems), at = first * T::kElems / kSuperBlock;
    for (size_t c = 0; c < chunks; ++c) add_quants<V, T, J>(of[c], x, at + c, acc);
  }
};

}  // namespace
}  // namespace gemma4
