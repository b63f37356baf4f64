// Rows of weights as panels of bytes that many activations meet, written once over a byte vector class V
// (quant_body.h). Knows: chunks of rows, transposing them. Must not know: activations, instruction sets. Internal
// linkage (see body.h).
#pragma once

#include <cstddef>

#include "kernels/blocks.h"
#include "kernels/body.h"
#include "kernels/quant_formats.h"

namespace gemma4 {
namespace {

// kLanes rows, `stride` apart.
template <class V>
struct Place {
  const char* p[V::kLanes / 4];  // every fourth
  size_t stride;

  GEMMA4_INLINE inline Place(const char* at, size_t stride_) : stride(stride_) {
    for (size_t g = 0; g < V::kLanes / 4; ++g) {
      p[g] = at + 4 * g * stride;
      __asm__("" : "+r"(p[g]));  // a register each: GCC would compute every address from the first
    }
  }
  const char* row(size_t r) const { return p[r / 4] + r % 4 * stride; }
};

// Where chunk c of up to kLanes rows begins and how far apart the rows are. Rows and elements that are not there are
// completed with zeros in `buffer`: zeroed blocks have the scale 0.
template <class V, class T>
struct Rows {
  const char* w;
  size_t stride, k, rows;
  char buffer[V::kLanes * T::kChunkBytes];

  // Chunks that lie in place, one after the other.
  size_t whole_chunks() const { return rows < V::kLanes ? 0 : k / kSuperBlock; }

  GEMMA4_INLINE inline Place<V> chunk(size_t c) {
    const char* at = w + c * T::kChunkBytes;
    if (c < whole_chunks()) return Place<V>(at, stride);
    const size_t bytes =
        (c + 1) * kSuperBlock <= k ? T::kChunkBytes : k % kSuperBlock / T::kElems * sizeof(typename T::Block);
    __builtin_memset(buffer, 0, sizeof(buffer));
    for (size_t r = 0; r < rows; ++r) __builtin_memcpy(buffer + r * T::kChunkBytes, at + r * stride, bytes);
    return Place<V>(buffer, T::kChunkBytes);
  }
};

// Keeps h out of vectors: loads and stores are idle, GCC would insert, and vectors are what keeps us busy.
GEMMA4_INLINE inline void keep_scalar(uint16_t& h) { __asm__("" : "+r"(h)); }

// The f16 at the beginning of eight blocks of kLanes rows, every lane its own row.
template <class V, size_t kApart>
GEMMA4_INLINE inline void read_halves(const Place<V>& place, typename V::F (&out)[8]) {
  if constexpr (requires { V::template halves<kApart>(place.p, place.stride, out); }) {
    V::template halves<kApart>(place.p, place.stride, out);
  } else {
    alignas(64) uint16_t half[8][V::kLanes];
    unroll<V::kLanes>([&](auto r) GEMMA4_INLINE {
      const char* row = place.row(r.value);
      for (size_t b = 0; b < 8; ++b) {
        uint16_t h;
        __builtin_memcpy(&h, row + b * kApart, 2);
        keep_scalar(h);
        half[b][r.value] = h;
      }
    });
    for (size_t b = 0; b < 8; ++b) out[b] = V::load_f16(reinterpret_cast<const char*>(half[b]), All{});
  }
}

// Scales of a chunk of kLanes rows, every lane its own row.
template <class V, class T>
struct Scales {
  typename V::F scale[T::kScales], minus_min[T::kMins ? 8 : 1];

  GEMMA4_INLINE inline void read(const Place<V>& place) {
    if constexpr (T::kElems == kBlock) {
      read_halves<V, sizeof(typename T::Block)>(place, scale);
      if constexpr (T::kMins) {
        read_halves<V, sizeof(typename T::Block)>(Place<V>(place.p[0] + T::kMinAt, place.stride), minus_min);
        for (typename V::F& m : minus_min) m = V::mul(m, V::set(-T::kMinFactor));
      }
    } else if constexpr (T::kMins) {
      read_six_bits(place);
    } else {
      read_eight_bits(place);
    }
  }
  GEMMA4_INLINE inline typename V::F scale_of(size_t b, size_t group) const {
    return scale[b * (kBlock / T::kGroup) + group];
  }
  typename V::F minus_min_of(size_t b) const { return minus_min[b]; }

 private:
  // Q4_K, Q5_K: the sixteen bytes at the head of a block, every lane its own row.
  GEMMA4_INLINE inline void read_six_bits(const Place<V>& place) {
    typename V::B head[4];
    V::load_rows(place.p, 0, place.stride, head);
    const typename V::F d = V::low_halves(head[0]), minus = V::sub(V::set(0.0f), V::high_halves(head[0]));
    const typename V::B scales[2] = {
        V::and_bytes(head[1], 63),
        V::or_bytes(V::nibbles(head[3]), V::and_bytes(V::template shifted<-2>(head[1]), 48))};
    const typename V::B mins[2] = {
        V::and_bytes(head[2], 63),
        V::or_bytes(V::nibbles(V::template shifted<-4>(head[3])), V::and_bytes(V::template shifted<-2>(head[2]), 48))};
    unroll<8>([&](auto b) GEMMA4_INLINE {
      scale[b.value] = V::mul(d, V::template unsigned_byte<b.value % 4>(scales[b.value / 4]));
      minus_min[b.value] = V::mul(minus, V::template unsigned_byte<b.value % 4>(mins[b.value / 4]));
    });
  }
  // Q6_K: the last sixteen bytes of a block hold all but two of the scales, and d.
  GEMMA4_INLINE inline void read_eight_bits(const Place<V>& place) {
    constexpr size_t kEnd = sizeof(BlockQ6_K) - 16;
    typename V::B first[4], last[4];
    V::load_rows(place.p, offsetof(BlockQ6_K, scales), place.stride, first);
    V::load_rows(place.p, kEnd, place.stride, last);
    const typename V::F d = V::high_halves(last[3]);
    scale[0] = V::mul(d, V::template signed_byte<0>(first[0]));
    scale[1] = V::mul(d, V::template signed_byte<1>(first[0]));
    unroll<14>([&](auto g) GEMMA4_INLINE {
      scale[g.value + 2] = V::mul(d, V::template signed_byte<g.value % 4>(last[g.value / 4]));
    });
  }
};

// Some chunks of kVecs * kLanes rows as bytes, to meet many activations while they are in L1.
template <class V, class T>
struct Panel {
  static constexpr size_t kChunks = V::kPanelChunks, kVecs = V::kTileVecs, kRows = kVecs * V::kLanes;

  alignas(64) uint8_t quants[kChunks][kSuperBlock / 4][kVecs][V::kBytes];
  alignas(64) float scales[kChunks][T::kScales][kVecs][V::kLanes];
  alignas(64) float minus_mins[T::kMins ? kChunks : 1][T::kMins ? T::kScales : 1][kVecs][V::kLanes];

  // Chunks [first, first + n) of some rows; the others become zero. Those at `next` are on their way afterwards.
  void unpack(WeightRows w, size_t first, size_t n, const char* next) {
    const size_t stride = w.stride, rows = w.count;
    for (size_t v = 0; v < kVecs; ++v) {
      const size_t begin = v * V::kLanes, live = rows < begin ? 0 : rows - begin < V::kLanes ? rows - begin : V::kLanes;
      Rows<V, T> source{static_cast<const char*>(w.rows) + begin * stride, stride, w.k, live, {}};
      for (size_t c = 0; c < n; ++c) {
        if (next != nullptr) {
          for (size_t l = 0; l < live; ++l)
            for (size_t i = 0; i < T::kChunkBytes; i += 64)
              V::prefetch(next + (begin + l) * stride + c * T::kChunkBytes + i);
        }
        if constexpr (T::kUnpacked) {
          store_unpacked(source.chunk(first + c), c, v);
        } else {
          store(source.chunk(first + c), c, v);
        }
      }
    }
  }
  GEMMA4_INLINE inline typename V::B quant(size_t c, size_t b, size_t quad, int v) const {
    return V::load_bytes(quants[c][8 * b + quad][v]);
  }
  typename V::F scale_of(size_t c, size_t b, int group, int v) const {
    return V::load(scales[c][b * (kBlock / T::kGroup) + group][v], All{});
  }
  // group: of the chunk
  typename V::F minus_min_of(size_t c, size_t group, int v) const { return V::load(minus_mins[c][group][v], All{}); }

 private:
  void store_unpacked(const Place<V>& place, size_t c, size_t v) {
    ChunkQuants rows[V::kLanes];
    for (size_t r = 0; r < V::kLanes; ++r) unpack_chunk<typename T::Block>(place.row(r), kSuperBlock / kBlock, rows[r]);
    const Place<V> transposed(reinterpret_cast<const char*>(rows), sizeof(ChunkQuants));
    const auto four_at = [&](size_t at, auto sink) GEMMA4_INLINE {
      typename V::B four[4];
      V::load_rows(transposed.p, at, transposed.stride, four);
      for (size_t i = 0; i < 4; ++i) sink(i, four[i]);
    };
    for (size_t quad = 0; quad < kSuperBlock / 4; quad += 4) {
      four_at(offsetof(ChunkQuants, quant) + 4 * quad, [&](size_t i, typename V::B bytes) GEMMA4_INLINE {
        V::store_bytes(quants[c][quad + i][v], T::quant(bytes));
      });
    }
    for (size_t g = 0; g < T::kScales; g += 4) {
      four_at(offsetof(ChunkQuants, scale) + 4 * g,
              [&](size_t i, typename V::B floats) GEMMA4_INLINE { V::store_bytes(scales[c][g + i][v], floats); });
      if constexpr (T::kMins) {
        four_at(offsetof(ChunkQuants, min) + 4 * g, [&](size_t i, typename V::B floats) GEMMA4_INLINE {
          float* to = minus_mins[c][g + i][v];
          V::store_bytes(to, floats);
          V::store(to, V::sub(V::set(0.0f), V::load(to, All{})), All{});
        });
      }
    }
  }
  void store(const Place<V>& place, size_t c, size_t v) {
    constexpr int kGroups = kBlock / T::kGroup;
    Scales<V, T> of;
    of.read(place);
    for (size_t step = 0; step < T::kSteps; ++step) {
      typename V::B raw[T::kPieces * 4];  // transposed and still packed
      unroll<T::kPieces>([&](auto p) GEMMA4_INLINE {
        typename V::B four[4];
        V::load_rows(place.p, T::piece(step, p.value), place.stride, four);
        for (size_t i = 0; i < 4; ++i) {
          raw[4 * p.value + i] = T::template of_step<p.value, V>(four[i], V::set_int(static_cast<int>(4 * step)));
        }
      });
      unroll<T::kStep>([&](auto in) GEMMA4_INLINE {
        const size_t b = step * T::kStep + in.value;
        unroll<8>([&](auto i) GEMMA4_INLINE {
          V::store_bytes(quants[c][8 * b + i.value][v], T::template quant<in.value, i.value>(raw));
        });
        for (int g = 0; g < kGroups; ++g) V::store(scales[c][b * kGroups + g][v], of.scale_of(b, g), All{});
        if constexpr (T::kMins) V::store(minus_mins[c][b][v], of.minus_min_of(b), All{});
      });
    }
  }
};

}  // namespace
}  // namespace gemma4
