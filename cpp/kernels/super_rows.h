// Few rows of activations meet rows of super-blocks (Q4_K, Q5_K, Q6_K) or of blocks of 32 with minimums (Q5_0, Q5_1),
// eight of which are as one super-block. Written once over a byte vector class V.
// Knows: which scale each lane of a product takes. Must not know: which instruction set. Internal linkage (see body.h).
//
// The sixteen numbers that scale a super-block (the scales of its sixteen groups, or eight scales and eight minimums)
// become floats once; a product's lanes pick theirs among them and are added in floats, lane by lane. What the zero
// point or the minimums subtract is added there too, as one multiple of each of the sixteen.
//
// V beyond quant_body.h and stored_rows.h:
//   load_int8(p)  kLanes signed bytes as floats;  f16_pairs(p)  the two f16 at p in turn
#pragma once

#include <cstddef>

#include "kernels/blocks.h"
#include "kernels/body.h"
#include "kernels/quant_formats.h"

namespace gemma4 {
namespace {

inline constexpr size_t kNumbers = 16;                    // that scale a super-block
using Words = uint32_t __attribute__((vector_size(16)));  // as bytes

// Where the numbers lie in vectors, and which of them each lane of each product takes. All that is in this order
// follows from `place`.
template <class V, class T>
struct NumberOrder {
  using O = Order<V, T>;
  static constexpr size_t kVecs = kNumbers / V::kLanes;
  // A product takes numbers of consecutive steps. Those of Q6_K are eight apart: where a vector has eight lanes, the
  // second and the third quarter of the numbers change places, so that both are in one vector.
  static constexpr bool kSwapped = kVecs == 2 && T::kGroup < kBlock;
  static constexpr size_t quarter(size_t i) { return kSwapped && i % 3 != 0 ? 3 - i : i; }
  static constexpr size_t place(size_t number) { return 4 * quarter(number / 4) + number % 4; }

  struct Lanes {
    alignas(64) int32_t of[kSuperBlock / V::kBytes][V::kLanes];
  };
  static consteval Lanes lanes() {
    Lanes lanes{};
    for (size_t b = 0; b < 8; ++b) {
      for (size_t half = 0; half < 2; ++half) {
        const size_t number = T::kGroup == kBlock ? b : 2 * b + half, first = 4 * O::group(b, half);
        for (size_t t = 0; t < 4; ++t) lanes.of[O::vector(b, half)][first + t] = static_cast<int32_t>(place(number));
      }
    }
    return lanes;
  }
  // The number at each place, the block of 32 that it is of where two have a block, and which of two f16 multiplies it:
  // the second is that of minimums where there are some, else of all.
  struct Places {
    alignas(64) int32_t number[kNumbers], block[kNumbers], factor[kNumbers];
  };
  static consteval Places places() {
    Places of{};
    for (size_t n = 0; n < kNumbers; ++n) {
      of.number[place(n)] = static_cast<int32_t>(n);
      of.block[place(n)] = static_cast<int32_t>(n / 2);
      of.factor[place(n)] = !T::kMins || n >= 8 ? 1 : 0;
    }
    return of;
  }
};
template <class V, class T>
constexpr auto kNumberPlaces = NumberOrder<V, T>::places();
template <class V, class T>
constexpr auto kNumberLanes = NumberOrder<V, T>::lanes();

template <class V, class T>
struct Numbers {
  using N = NumberOrder<V, T>;
  typename V::F of[N::kVecs];

  // Those of vector v of the products.
  template <size_t v>
  GEMMA4_INLINE inline typename V::F pick() const {
    constexpr const auto& lanes = kNumberLanes<V, T>.of[v];
    constexpr size_t vec = lanes[0] / V::kLanes;
    static_assert(lanes[V::kLanes - 1] / V::kLanes == vec);
    return V::pick(of[vec], V::load_ints(lanes));
  }
};

// What a chunk of activations multiplies the sixteen numbers by: the scale of the activations that a number is for (or
// the sum that a minimum is for), and what of the product is added as it is (the zero point's share, or minimums).
template <class V, class T>
struct Factors {
  Numbers<V, T> scale, offset;

  void read(const Int8Chunk& x) {
    if constexpr (T::kMins) {
      static_assert(offsetof(Int8Chunk, sum) == offsetof(Int8Chunk, scale) + sizeof(Int8Chunk::scale));
      for (size_t i = 0; i < kVecs; ++i) {
        scale.of[i] = V::load(x.scale + i * V::kLanes, All{});
        // Minimums are subtracted, scales are only factors.
        offset.of[i] = V::mul(V::set(-T::kMinFactor), V::to_float(V::load_ints(kPlaces.factor + i * V::kLanes)));
      }
    } else {
      const auto zeros = [&](size_t i) GEMMA4_INLINE { return V::to_float(V::load_ints(x.zero + i * V::kLanes)); };
      for (size_t i = 0; i < kVecs; ++i) {
        const typename V::F scales = V::load(x.scale + i / 2 * V::kLanes, All{});  // each for two numbers
        scale.of[i] = V::pick(scales, V::load_ints(kPlaces.block + i * V::kLanes));
        if constexpr (N::kSwapped) {
          offset.of[i] = V::pick(zeros(0), zeros(1), V::load_ints(kPlaces.number + i * V::kLanes));
        } else {
          offset.of[i] = zeros(i);
        }
      }
    }
  }

 private:
  using N = NumberOrder<V, T>;
  static constexpr size_t kVecs = N::kVecs;
  static constexpr const auto& kPlaces = kNumberPlaces<V, T>;
};

// The scales and minimums of a block of Q4_K or Q5_K, eight of each.
template <class Block>
GEMMA4_INLINE inline void unpack_six_bits(const char* block, int8_t (&out)[kNumbers]) {
  static_assert(offsetof(Block, scales) == 4);
  Words head;  // d and dmin, then three words of scales
  __builtin_memcpy(&head, block, sizeof head);
  const Words first = __builtin_shufflevector(head, head, 1, 1, 2, 2);
  const Words last = __builtin_shufflevector(head, head, 3, 3, 3, 3);
  const Words six = (first >> Words{0, 2, 0, 2} & Words{0x3f3f3f3f, 0x30303030, 0x3f3f3f3f, 0x30303030}) |
                    (last >> Words{0, 0, 0, 4} & Words{0, 0x0f0f0f0f, 0, 0x0f0f0f0f});
  __builtin_memcpy(out, &six, sizeof six);
}

// The scales of eight blocks, then what their minimums are multiples of.
template <class V, class T>
GEMMA4_INLINE inline Numbers<V, T> block_numbers(const char* blocks) {
  alignas(64) uint16_t half[kNumbers];
  unroll<8>([&](auto b) GEMMA4_INLINE {
    const char* at = blocks + b.value * sizeof(typename T::Block);
    __builtin_memcpy(&half[b.value], at, 2);
    __builtin_memcpy(&half[8 + b.value], at + T::kMinAt, 2);
  });
  Numbers<V, T> n;
  unroll<NumberOrder<V, T>::kVecs>([&](auto i) GEMMA4_INLINE {
    n.of[i.value] = V::load_f16(reinterpret_cast<const char*>(half + i.value * V::kLanes), All{});
  });
  return n;
}

// The sixteen numbers of a super-block as floats.
template <class V, class T>
GEMMA4_INLINE inline Numbers<V, T> super_block_numbers(const char* block) {
  using Block = typename T::Block;
  using N = NumberOrder<V, T>;
  Numbers<V, T> n;
  alignas(16) int8_t bytes[kNumbers];
  typename V::F factors;  // two f16 in turn
  if constexpr (T::kMins) {
    unpack_six_bits<Block>(block, bytes);
    factors = V::f16_pairs(block + offsetof(Block, d));
  } else {
    Words scales;
    __builtin_memcpy(&scales, block + offsetof(Block, scales), sizeof scales);
    scales = __builtin_shufflevector(scales, scales, N::quarter(0), N::quarter(1), N::quarter(2), N::quarter(3));
    __builtin_memcpy(bytes, &scales, sizeof bytes);
    factors = V::f16_pairs(block + offsetof(Block, d) - 2);  // the second is d
  }
  unroll<N::kVecs>([&](auto i) GEMMA4_INLINE {
    const typename V::F factor = V::pick(factors, V::load_ints(kNumberPlaces<V, T>.factor + i.value * V::kLanes));
    n.of[i.value] = V::mul(factor, V::load_int8(bytes + i.value * V::kLanes));
  });
  return n;
}

template <class V, class T>
GEMMA4_INLINE inline Numbers<V, T> numbers_of(const char* block) {
  if constexpr (T::kElems == kBlock) {
    return block_numbers<V, T>(block);
  } else {
    return super_block_numbers<V, T>(block);
  }
}

// A row of activations, and what it makes of the numbers of each chunk. kLaned: with the scale of every lane, too, for
// SuperPart.
template <class V, class T, bool kLaned>
struct SuperActivation {
  using O = Order<V, T>;
  static constexpr size_t kChunks = 32;  // lie together at most: their factors stay in L1
  static constexpr size_t kBlocks = kChunks * (kSuperBlock / T::kElems);
  static constexpr size_t kAlike = 2 / O::kHalves;  // vectors whose lanes are of the same blocks
  static constexpr size_t kVectors = kSuperBlock / V::kBytes / kAlike;
  static constexpr int kSums = 1;

  const Int8Chunk* x;
  Factors<V, T> by[kChunks];
  alignas(64) float lane_scale[kLaned ? kChunks : 1][kVectors][V::kLanes];

  // Those of the first n blocks of a row.
  void fill(const Int8Chunk* row, size_t n) {
    x = row;
    for (size_t c = 0; c < chunk_count(n * T::kElems); ++c) {
      by[c].read(x[c]);
      if constexpr (kLaned) {
        unroll<kVectors>([&](auto v) GEMMA4_INLINE {
          V::store(lane_scale[c][v.value], by[c].scale.template pick<v.value * kAlike>(), All{});
        });
      }
    }
  }
};

// acc += a super-block times chunk c of J activations, lane by lane.
template <class V, class T, int J, bool kLaned>
GEMMA4_INLINE inline void add_block(const char* block, const SuperActivation<V, T, kLaned>* a, size_t c,
                                    typename V::F (&acc)[J][1]) {
  using O = Order<V, T>;
  static_assert(!O::kJoined || V::template kQuads<T::kBits> >= 2);  // two quads in one partial sum
  const Numbers<V, T> n = numbers_of<V, T>(block);
  Numbers<V, T> scaled[J];
  for (int j = 0; j < J; ++j) {
    const Factors<V, T>& by = a[j].by[c];
    unroll<NumberOrder<V, T>::kVecs>([&](auto i) GEMMA4_INLINE {
      constexpr bool adds = !T::kMins || (i.value + 1) * V::kLanes > 8;
      scaled[j].of[i.value] = V::mul(n.of[i.value], by.scale.of[i.value]);
      if constexpr (adds) acc[j][0] = V::fma(scaled[j].of[i.value], by.offset.of[i.value], acc[j][0]);
    });
  }
  unroll<T::kSteps / O::kSteps>([&](auto round) GEMMA4_INLINE {
    constexpr size_t first = round.value * O::kSteps;
    typename V::B raw[T::kPieces * 4];
    read_packed<V, T, first>(block, raw);
    unroll<T::kStep>([&](auto b) GEMMA4_INLINE {
      constexpr size_t from = O::vector(first * T::kStep + b.value, 0);
      typename V::P part[J];
      unroll<2 / O::kHalves>([&](auto half) GEMMA4_INLINE {
        constexpr size_t v = from + half.value;
        constexpr bool begins = !O::kJoined || half.value == 0, ends = !O::kJoined || half.value == 1;
        const typename V::B u = T::template quant<b.value, 4 * half.value>(raw);
        for (int j = 0; j < J; ++j) {
          if constexpr (begins) part[j] = V::begin(V::set_int(0));
          part[j] = V::template quad<T::kBits>(part[j], u, V::load_bytes(a[j].x[c].q + v * V::kBytes));
          if constexpr (ends) {
            const typename V::I total = V::end(V::set_int(0), part[j]);
            acc[j][0] = V::fma(V::to_float(total), scaled[j].template pick<v>(), acc[j][0]);
          }
        }
      });
    });
  });
}

// f(chunk, i) for the chunks of `blocks` blocks of a row at w.
template <class V, class T, class Fn>
GEMMA4_INLINE inline void for_chunks(const char* w, size_t ahead, size_t blocks, Fn f) {
  constexpr size_t kBlocks = kSuperBlock / T::kElems;  // of a chunk
  size_t c = 0;
  for (; blocks >= kBlocks; blocks -= kBlocks, ++c, w += T::kChunkBytes) {
    for (size_t l = 0; l < T::kChunkBytes; l += 64) V::prefetch(w + ahead + l);
    f(w, c);
  }
  if (kBlocks > 1 && blocks > 0) {
    char last[T::kChunkBytes] = {};  // blocks that are not there have the scale 0
    __builtin_memcpy(last, w, blocks * sizeof(typename T::Block));
    f(static_cast<const char*>(last), c);
  }
}

// acc += the first blocks of a row times J activations.
template <class V, class T, int J, bool kLaned>
GEMMA4_INLINE inline void add_blocks(const char* w, size_t ahead, const SuperActivation<V, T, kLaned>* x, size_t blocks,
                                     typename V::F (&acc)[J][1]) {
  for_chunks<V, T>(w, ahead, blocks,
                   [&](const char* chunk, size_t c) GEMMA4_INLINE { add_block<V, T, J>(chunk, x, c, acc); });
}

// A part of a row for many activations: quants are taken apart and scales picked once for all of them. A lane then
// multiplies the same two scales as above, in the other order of picking and multiplying.
template <class V, class T, size_t kElements>
struct SuperPart {
  using O = Order<V, T>;
  using N = NumberOrder<V, T>;
  static constexpr size_t kVectors = kSuperBlock / V::kBytes, kJoin = O::kJoined ? 2 : 1;

  struct Chunk {
    int8_t u[kVectors][V::kBytes];
    float scale[kVectors / kJoin][V::kLanes];  // of every lane
    float number[N::kVecs][V::kLanes];
  };
  alignas(64) Chunk of[kElements / kSuperBlock];

  void read(const char* w, size_t ahead, size_t blocks) {
    for_chunks<V, T>(w, ahead, blocks, [&](const char* chunk, size_t c) GEMMA4_INLINE { read_chunk(chunk, of[c]); });
  }

  // acc += the part, which has so many blocks and is a row's from block `first` on, times J activations.
  template <int J, class X>
  GEMMA4_INLINE inline void add(const X* x, size_t first, size_t blocks, typename V::F (&acc)[J][1]) const {
    const size_t chunks = chunk_count(blocks * T::kElems), at = first * T::kElems / kSuperBlock;
    for (size_t c = 0; c < chunks; ++c) add_chunk<J>(of[c], x, at + c, acc);
  }

 private:
  static GEMMA4_INLINE inline void read_chunk(const char* chunk, Chunk& to) {
    const Numbers<V, T> n = numbers_of<V, T>(chunk);
    unroll<N::kVecs>([&](auto i) GEMMA4_INLINE { V::store(to.number[i.value], n.of[i.value], All{}); });
    unroll<T::kSteps / O::kSteps>([&](auto round) GEMMA4_INLINE {
      constexpr size_t first = round.value * O::kSteps;
      typename V::B raw[T::kPieces * 4];
      read_packed<V, T, first>(chunk, raw);
      unroll<T::kStep>([&](auto b) GEMMA4_INLINE {
        unroll<2 / O::kHalves>([&](auto half) GEMMA4_INLINE {
          constexpr size_t v = O::vector(first * T::kStep + b.value, 0) + half.value;
          V::store_bytes(to.u[v], T::template quant<b.value, 4 * half.value>(raw));
        });
      });
    });
    unroll<kVectors / kJoin>(
        [&](auto p) GEMMA4_INLINE { V::store(to.scale[p.value], n.template pick<p.value * kJoin>(), All{}); });
  }
  template <int J, class X>
  static GEMMA4_INLINE inline void add_chunk(const Chunk& w, const X* x, size_t c, typename V::F (&acc)[J][1]) {
    unroll<N::kVecs>([&](auto i) GEMMA4_INLINE {
      if constexpr (!T::kMins || (i.value + 1) * V::kLanes > 8) {
        const typename V::F numbers = V::load(w.number[i.value], All{});
        for (int j = 0; j < J; ++j) {
          const typename V::F scaled = V::mul(numbers, x[j].by[c].scale.of[i.value]);
          acc[j][0] = V::fma(scaled, x[j].by[c].offset.of[i.value], acc[j][0]);
        }
      }
    });
    unroll<kVectors / kJoin>([&](auto product) GEMMA4_INLINE {
      constexpr size_t p = product.value, first = p * kJoin;
      typename V::B u[kJoin];
      for (size_t i = 0; i < kJoin; ++i) u[i] = V::load_bytes(w.u[first + i]);
      const typename V::F scale = V::load(w.scale[p], All{});
      for (int j = 0; j < J; ++j) {
        const int8_t* q = x[j].x[c].q + first * V::kBytes;
        typename V::P sum = V::begin(V::set_int(0));
        for (size_t i = 0; i < kJoin; ++i)
          sum = V::template quad<T::kBits>(sum, u[i], V::load_bytes(q + i * V::kBytes));
        const typename V::F both = V::mul(scale, V::load(x[j].lane_scale[c][first / X::kAlike], All{}));
        acc[j][0] = V::fma(V::to_float(V::end(V::set_int(0), sum)), both, acc[j][0]);
      }
    });
  }
};

}  // namespace
}  // namespace gemma4
