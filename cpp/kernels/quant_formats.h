// How each block format stores its quants, for the kernels of quant_body.h. Knows: where bytes lie and which bits of
// them are a quant. Must not know: sums, instruction sets. V is the byte vector class that quant_body.h describes;
// everything has internal linkage (see body.h).
#pragma once

#include <cstddef>

#include "kernels/blocks.h"
#include "kernels/body.h"
#include "kernels/unpack.h"

namespace gemma4 {
namespace {

inline size_t chunk_count(size_t k) { return (k + kSuperBlock - 1) / kSuperBlock; }

// How quants lie in bytes.
struct Packing {
  int step = 1;       // blocks of 32 whose quants share bytes
  size_t pieces = 1;  // of 16 bytes that hold a step
};

// What the kernels must know of a format. Which bits of shared bytes are whose may depend on the step: `of_step` moves
// them to where those of step 0 are; every lane is told four times its step.
template <class Block_, QuantForm kForm_, Packing kPacking_>
struct BlockFormat {
  using Block = Block_;
  static constexpr int kBits = kForm_.bits, kZero = kForm_.zero, kStep = kPacking_.step;
  static constexpr size_t kGroup = kForm_.group, kScales = kSuperBlock / kGroup, kPieces = kPacking_.pieces;
  static constexpr bool kMins = kForm_.mins;
  static constexpr int kMinFactor = 1;  // by which minimums are multiplied and then subtracted
  static constexpr bool kUnpacked = false;
  static constexpr size_t kElems = elements_of<Block>(), kChunkBytes = kSuperBlock / kElems * sizeof(Block);
  static constexpr bool kStored =
      kElems == kBlock && !kMins;  // vectors of whole blocks meet activations (stored_rows.h)
  static constexpr size_t kSteps = 8 / kStep;

  template <size_t p, class V>
  static inline typename V::B of_step(typename V::B v, typename V::I) {
    return v;
  }
  // Piece p of blocks of one row, for vectors whose lanes are the quads of a block instead of rows.
  template <size_t p, class V>
  static inline typename V::B of_row(typename V::B v) {
    return v;
  }
};

// Times this, four bits are bits 4 of four bytes, among others.
inline constexpr int kFifthBits = 0x02040810;

// A number of every 32-bit lane of a vector of 16-byte groups.
template <size_t kGroups>
struct Lanes {
  alignas(64) int32_t data[4 * kGroups];
};
// Four times the quad, counted from the first of its group.
template <size_t kGroups>
consteval Lanes<kGroups> four_quads() {
  Lanes<kGroups> lanes{};
  for (size_t i = 0; i < 4 * kGroups; ++i) lanes.data[i] = static_cast<int32_t>(4 * (i % 4));
  return lanes;
}
// Four times the step, counted from the first of its vector.
template <size_t kGroups, size_t kHalves>
consteval Lanes<kGroups> four_steps() {
  Lanes<kGroups> lanes{};
  for (size_t i = 0; i < 4 * kGroups; ++i) lanes.data[i] = static_cast<int32_t>(4 * (i / 4 / kHalves));
  return lanes;
}

// Each format says where piece p of a step lies in its chunk, and how quad i of block b of a step is made of the
// transposed pieces.
template <class V>
struct Q8_0 : BlockFormat<BlockQ8_0, QuantForm{.bits = 8, .zero = V::kByteZero}, Packing{.pieces = 2}> {
  static constexpr size_t piece(size_t step, size_t p) {
    return step * sizeof(BlockQ8_0) + offsetof(BlockQ8_0, q) + 16 * p;
  }
  template <int b, int i>
  static inline typename V::B quant(const typename V::B* raw) {
    return V::biased(raw[i]);
  }
};
template <class V>
struct Q4_0 : BlockFormat<BlockQ4_0, QuantForm{.bits = 4, .zero = 8}, Packing{}> {
  static constexpr size_t piece(size_t step, size_t) { return step * sizeof(BlockQ4_0) + offsetof(BlockQ4_0, q); }
  template <int b, int i>
  static inline typename V::B quant(const typename V::B* raw) {
    return V::nibbles(V::template shifted<i / 4 * -4>(raw[i % 4]));
  }
};
template <class V>
struct Q4_1 : BlockFormat<BlockQ4_1, QuantForm{.bits = 4, .mins = true}, Packing{}> {
  static constexpr size_t kMinAt = offsetof(BlockQ4_1, m);
  static constexpr int kMinFactor = -1;
  static constexpr size_t piece(size_t step, size_t) { return step * sizeof(BlockQ4_1) + offsetof(BlockQ4_1, q); }
  template <int b, int i>
  static inline typename V::B quant(const typename V::B* raw) {
    return V::nibbles(V::template shifted<i / 4 * -4>(raw[i % 4]));
  }
};
// Quants are unsigned, and what they are above zero counts as a minimum: kMinFactor times the f16 at kMinAt.
template <class V, class Block, size_t kMinAt_, int kMinFactor_>
struct FiveBits : BlockFormat<Block, QuantForm{.bits = 5, .mins = true}, Packing{.pieces = 2}> {
  static constexpr size_t kMinAt = kMinAt_;
  static constexpr int kMinFactor = kMinFactor_;
  static constexpr size_t piece(size_t step, size_t p) {
    return step * sizeof(Block) + (p == 0 ? offsetof(Block, q) : offsetof(Block, high));
  }
  // Of the second piece only the first four bytes are bits.
  template <size_t p, class>
  static inline typename V::B of_row(typename V::B v) {
    alignas(64) static constexpr auto kFourQuads = four_quads<V::kBytes / 16>();
    if constexpr (p == 1) return V::shifted_lanes(V::first_of_four(v), V::load_ints(kFourQuads.data));
    return v;
  }
  template <int b, int i>
  static inline typename V::B quant(const typename V::B* raw) {
    return V::or_bytes(V::nibbles(V::template shifted<i / 4 * -4>(raw[i % 4])),
                       V::fifth_bits(V::shifted_lanes(raw[4], V::set_int(4 * i))));
  }
};
template <class V>
using Q5_0 = FiveBits<V, BlockQ5_0, offsetof(BlockQ5_0, d), 16>;
template <class V>
using Q5_1 = FiveBits<V, BlockQ5_1, offsetof(BlockQ5_1, m), -1>;
template <class V>
struct Q4_K : BlockFormat<BlockQ4_K, QuantForm{.bits = 4, .mins = true}, Packing{.step = 2, .pieces = 2}> {
  static constexpr size_t piece(size_t step, size_t p) { return offsetof(BlockQ4_K, q) + 32 * step + 16 * p; }
  template <int b, int i>
  static inline typename V::B quant(const typename V::B* raw) {
    return V::nibbles(V::template shifted<b * -4>(raw[i]));
  }
};
template <class V>
struct Q5_K : BlockFormat<BlockQ5_K, QuantForm{.bits = 5, .mins = true}, Packing{.step = 4, .pieces = 6}> {
  static constexpr size_t piece(size_t step, size_t p) {
    return p < 4 ? offsetof(BlockQ5_K, q) + 64 * step + 16 * p : offsetof(BlockQ5_K, high) + 16 * (p - 4);
  }
  template <size_t p, class>
  static inline typename V::B of_step(typename V::B v, typename V::I four_steps) {
    if constexpr (p >= 4) return V::shifted_lanes(v, four_steps);
    return v;
  }
  template <int b, int i>
  static inline typename V::B quant(const typename V::B* raw) {
    return V::or_bytes(V::nibbles(V::template shifted<b % 2 * -4>(raw[b / 2 * 8 + i])),
                       V::and_bytes(V::template shifted<4 - b>(raw[16 + i]), 16));
  }
};
template <class V>
struct Q6_K : BlockFormat<BlockQ6_K, QuantForm{.bits = 6, .zero = 32, .group = 16}, Packing{.step = 4, .pieces = 6}> {
  static constexpr size_t piece(size_t step, size_t p) {
    return p < 4 ? offsetof(BlockQ6_K, low) + 64 * step + 16 * p : offsetof(BlockQ6_K, high) + 32 * step + 16 * (p - 4);
  }
  template <int b, int i>
  static inline typename V::B quant(const typename V::B* raw) {
    return V::or_bytes(V::nibbles(V::template shifted<b / 2 * -4>(raw[b % 2 * 8 + i])),
                       V::and_bytes(V::template shifted<4 - 2 * b>(raw[16 + i]), 48));
  }
};

// A format whose blocks become `ChunkQuants` (unpack.h) before they meet activations.
template <class V, Unpacks Block_>
struct Unpacked {
  using Block = Block_;
  static constexpr bool kUnpacked = true, kStored = false;
  static constexpr QuantForm kForm = gemma4::kForm<Block>;
  static constexpr int kBits = kForm.bits, kZero = kBits == 8 ? V::kByteZero : kForm.zero;
  static constexpr size_t kGroup = kForm.group, kScales = kSuperBlock / kGroup;
  static constexpr bool kMins = kForm.mins;
  static constexpr size_t kElems = elements_of<Block>(), kChunkBytes = kSuperBlock / kElems * sizeof(Block);

  // Quants as they are multiplied.
  static inline typename V::B quant(typename V::B v) {
    if constexpr (kBits == 8) return V::biased(v);
    return v;
  }
};

// How vectors of 16-byte groups cover a chunk of one row: a group is half a block, and the groups of a vector are those
// whose quants lie under the same bits of their bytes, in consecutive steps. Activations are stored in this order.
template <class V, class T>
struct Order {
  static constexpr size_t kGroups = V::kBytes / 16;
  static constexpr size_t kSteps = kGroups < T::kSteps ? kGroups : T::kSteps;  // of a vector
  static constexpr size_t kHalves = kGroups / kSteps;                          // of a block, side by side
  static_assert(kHalves <= 2);
  // Whether both halves of a block are added before they leave a vector.
  static constexpr bool kJoined = kHalves == 1 && T::kGroup == kBlock;

  // Which group of which vector holds a half of block b.
  static constexpr size_t vector(size_t b, size_t half) {
    const size_t block = b / T::kStep / kSteps * T::kStep + b % T::kStep;
    return kHalves == 1 ? 2 * block + half : block;
  }
  static constexpr size_t group(size_t b, size_t half) {
    const size_t step = b / T::kStep % kSteps;
    return kHalves == 1 ? step : 2 * step + half;
  }
  // Where the half is among the activations, in groups.
  static constexpr size_t place(size_t b, size_t half) { return vector(b, half) * kGroups + group(b, half); }
};

// Quants that were unpacked lie in the order of the row.
template <class V, class T>
requires T::kUnpacked struct Order<V, T> {
  static constexpr size_t place(size_t b, size_t half) { return 2 * b + half; }
};

// A chunk of one row, still packed: the pieces of as many steps as a vector has, from step `first` on.
template <class V, class T, size_t first>
GEMMA4_INLINE inline void read_packed(const char* chunk, typename V::B (&raw)[T::kPieces * 4]) {
  using O = Order<V, T>;
  alignas(64) static constexpr auto kFourSteps = four_steps<O::kGroups, O::kHalves>();
  unroll<T::kPieces / O::kHalves>([&](auto n) GEMMA4_INLINE {
    constexpr size_t p = n.value * O::kHalves, apart = O::kSteps > 1 ? T::piece(1, p) - T::piece(0, p) : 0;
    typename V::I step = V::set_int(4 * first);
    if constexpr (O::kSteps > 1) step = V::load_ints(kFourSteps.data);
    const char* at = chunk + T::piece(first, p);
    typename V::B v;
    if constexpr (O::kHalves == 2) {
      v = V::load_pairs(at, apart);
    } else {
      v = V::load_groups(at, apart);
    }
    raw[4 * p] = T::template of_row<p, V>(T::template of_step<p, V>(v, step));  // every fourth is used
  });
}

}  // namespace
}  // namespace gemma4
