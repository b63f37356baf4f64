// Block formats times int8 activations, written once over a byte vector class V. Knows: chunks of 256 elements, lanes.
// Must not know: which instruction set. Included by one source file per instruction set; everything has internal
// linkage (see body.h).
//
// Levels become unsigned bytes u = level + T::kZero and meet the activations q in integers, exactly:
//   sum (u - zero) q = sum u q - zero sum q
// Few activations: vectors run along a row, their lanes are scaled and added by themselves, and what zero points
// subtract is added in floats (stored_rows.h, or super_rows.h where there are minimums or super-blocks). Many
// activations: a chunk of kLanes rows is read in pieces of 16 bytes and transposed while it is still packed, so that a
// vector holds four elements (a quad) of every row; a result adds the blocks of its row in order, by one fused
// multiply-add each. Either way it has the same bits in any batch and any split, but the two ways differ in their
// roundings.
//
// V beyond the float vectors of body.h: B (kLanes * 4 bytes), I (kLanes i32), P (partial sums);
//   load_rows(p, at, stride, v)  lane 4g + t of v[i] = bytes 4i ... 4i + 3 of the 16 at p[g] + at + t * stride
//   load_groups(p, stride), load_pairs(p, stride)  groups of 16 bytes, or pairs of them, `stride` apart
//   nibbles(v)  low halves of bytes;  shifted<n>(v), shifted_lanes(v, n)  bytes shifted left by n, or right by a lane's
//     own n: bits of neighbours are to be masked
//   biased(v)  signed bytes as unsigned ones with zero point kByteZero
//   first_of_four(v)  the first lane of every four in all of them
//   fifth_bits(v)  bit j of a lane, j < 4, as 16 in its byte j; higher bits are ignored
//   low_halves(v), high_halves(v), unsigned_byte<i>(v), signed_byte<i>(v)  one f16 or byte of every lane, as floats
//   begin(total), quad<bits>(p, u, q), end(total, p)  sums of at most kQuads<bits> quads per lane
#pragma once

#include <type_traits>

#include "kernels/blocks.h"
#include "kernels/body.h"
#include "kernels/codec.h"
#include "kernels/quant_formats.h"
#include "kernels/stored_rows.h"
#include "kernels/super_rows.h"
#include "kernels/unpacked_rows.h"

namespace gemma4 {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Activations.

template <class V, class T>
void quantize(const float* x, size_t k, Bounds bounds, Int8Chunk* out) {
  const Clamp<V> clamped(bounds.lo, bounds.hi);
  for (size_t c = 0; c < chunk_count(k); ++c) {
    Int8Chunk& chunk = out[c];
    for (size_t b = 0; b < 8; ++b) {
      const size_t at = c * kSuperBlock + b * kBlock;
      alignas(32) int8_t q[kBlock] = {};
      if (at >= k) {
        chunk.scale[b] = 0;
      } else {
        alignas(64) float held[kBlock];
        for (size_t i = 0; i < kBlock; i += V::kLanes) V::store(held + i, clamped(V::load(x + at + i, All{})), All{});
        const float most = V::most32(held);  // NaN if the block holds one
        const bool finite = most < __builtin_inff(), some = most >= 0x1p-100f;
        chunk.scale[b] = finite ? (some ? most / 127.0f : 0.0f) : __builtin_nanf("");
        if (finite && some) V::round32(held, 127.0f / most, q);
      }
      for (size_t half = 0; half < 2; ++half)
        __builtin_memcpy(chunk.q + 16 * Order<V, T>::place(b, half), q + 16 * half, 16);
      const int first = V::sum16(q), second = V::sum16(q + 16);
      chunk.sum[b] = chunk.scale[b] * static_cast<float>(first + second);
      if constexpr (T::kGroup == kBlock) {
        chunk.zero[b] = -T::kZero * (first + second);
        chunk.zero[8 + b] = 0;
      } else {
        constexpr int kFactor = T::kMins ? 1 : T::kZero;
        chunk.zero[2 * b] = -kFactor * first;
        chunk.zero[2 * b + 1] = -kFactor * second;
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Weights.

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

// Some chunks of kVecs * kLanes rows as bytes, to meet many activations while they are in the first cache.
template <class V, class T>
struct Panel {
  static constexpr size_t kChunks = V::kPanelChunks, kVecs = V::kTileVecs, kRows = kVecs * V::kLanes;

  alignas(64) uint8_t levels[kChunks][kSuperBlock / 4][kVecs][V::kBytes];
  alignas(64) float scales[kChunks][T::kScales][kVecs][V::kLanes];
  alignas(64) float minus_mins[T::kMins ? kChunks : 1][T::kMins ? T::kScales : 1][kVecs][V::kLanes];

  // Chunks [first, first + n) of `rows` rows; the other rows become zero. Those at `next` are on their way afterwards.
  void unpack(const char* w, size_t stride, size_t k, size_t rows, size_t first, size_t n, const char* next) {
    for (size_t v = 0; v < kVecs; ++v) {
      const size_t begin = v * V::kLanes, live = rows < begin ? 0 : rows - begin < V::kLanes ? rows - begin : V::kLanes;
      Rows<V, T> source{w + begin * stride, stride, k, live, {}};
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
  GEMMA4_INLINE inline typename V::B level(size_t c, size_t b, size_t quad, int v) const {
    return V::load_bytes(levels[c][8 * b + quad][v]);
  }
  typename V::F scale_of(size_t c, size_t b, int group, int v) const {
    return V::load(scales[c][b * (kBlock / T::kGroup) + group][v], All{});
  }
  // group: of the chunk
  typename V::F minus_min_of(size_t c, size_t group, int v) const { return V::load(minus_mins[c][group][v], All{}); }

 private:
  void store_unpacked(const Place<V>& place, size_t c, size_t v) {
    ChunkLevels rows[V::kLanes];
    for (size_t r = 0; r < V::kLanes; ++r) unpack_chunk<typename T::Block>(place.row(r), kSuperBlock, rows[r]);
    const Place<V> turned(reinterpret_cast<const char*>(rows), sizeof(ChunkLevels));
    const auto four_at = [&](size_t at, auto sink) GEMMA4_INLINE {
      typename V::B four[4];
      V::load_rows(turned.p, at, turned.stride, four);
      for (size_t i = 0; i < 4; ++i) sink(i, four[i]);
    };
    for (size_t quad = 0; quad < kSuperBlock / 4; quad += 4) {
      four_at(offsetof(ChunkLevels, level) + 4 * quad, [&](size_t i, typename V::B bytes) GEMMA4_INLINE {
        V::store_bytes(levels[c][quad + i][v], T::level(bytes));
      });
    }
    for (size_t g = 0; g < T::kScales; g += 4) {
      four_at(offsetof(ChunkLevels, scale) + 4 * g,
              [&](size_t i, typename V::B floats) GEMMA4_INLINE { V::store_bytes(scales[c][g + i][v], floats); });
      if constexpr (T::kMins) {
        four_at(offsetof(ChunkLevels, min) + 4 * g, [&](size_t i, typename V::B floats) GEMMA4_INLINE {
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
          V::store_bytes(levels[c][8 * b + i.value][v], T::template level<in.value, i.value>(raw));
        });
        for (int g = 0; g < kGroups; ++g) V::store(scales[c][b * kGroups + g][v], of.scale_of(b, g), All{});
        if constexpr (T::kMins) V::store(minus_mins[c][b][v], of.minus_min_of(b), All{});
      });
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Products.

// acc += block b of chunk c of the panel times that of J activations.
template <class V, class T, int J, int kVecs>
GEMMA4_INLINE inline void multiply_block(const Panel<V, T>& w, size_t c, size_t b, const Int8Chunk* const (&x)[J],
                                         typename V::F (&acc)[J][kVecs]) {
  constexpr int kGroups = kBlock / T::kGroup, kQuads = T::kGroup / 4;
  constexpr int kRun = V::template kQuads<T::kBits> < kQuads ? V::template kQuads<T::kBits> : kQuads;
  const size_t halves[2] = {16 * Order<V, T>::place(b, 0), 16 * Order<V, T>::place(b, 1)};
  unroll<kGroups>([&](auto g) GEMMA4_INLINE {
    typename V::I total[J][kVecs];
    unroll<kQuads / kRun>([&](auto run) GEMMA4_INLINE {
      const auto start = [&](int j, int v) GEMMA4_INLINE {
        if constexpr (run.value > 0) return total[j][v];
        return V::set_int(T::kZero ? x[j][c].zero[b * kGroups + g.value] : 0);
      };
      typename V::P part[J][kVecs];
      for (int j = 0; j < J; ++j)
        for (int v = 0; v < kVecs; ++v) part[j][v] = V::begin(start(j, v));
      unroll<kRun>([&](auto i) GEMMA4_INLINE {
        constexpr int quad = g.value * kQuads + run.value * kRun + i.value;
        typename V::B u[kVecs];
        for (int v = 0; v < kVecs; ++v) u[v] = w.level(c, b, quad, v);
        for (int j = 0; j < J; ++j) {
          const typename V::B q = V::repeat4(x[j][c].q + halves[quad / 4] + 4 * (quad % 4));
          for (int v = 0; v < kVecs; ++v) part[j][v] = V::template quad<T::kBits>(part[j][v], u[v], q);
        }
      });
      for (int j = 0; j < J; ++j)
        for (int v = 0; v < kVecs; ++v) total[j][v] = V::end(start(j, v), part[j][v]);
    });
    for (int v = 0; v < kVecs; ++v) {
      const typename V::F scale = w.scale_of(c, b, g.value, v);
      for (int j = 0; j < J; ++j) {
        const typename V::F both = V::mul(scale, V::set(x[j][c].scale[b]));
        acc[j][v] = V::fma(V::to_float(total[j][v]), both, acc[j][v]);
      }
    }
  });
  if constexpr (T::kMins) {
    unroll<kGroups>([&](auto g) GEMMA4_INLINE {
      for (int v = 0; v < kVecs; ++v) {
        const typename V::F minus_min = w.minus_min_of(c, b * kGroups + g.value, v);
        for (int j = 0; j < J; ++j) {
          const Int8Chunk& q = x[j][c];
          float sum = q.sum[b];
          if constexpr (kGroups > 1) sum = q.scale[b] * static_cast<float>(-q.zero[b * kGroups + g.value]);
          acc[j][v] = V::fma(minus_min, V::set(sum), acc[j][v]);
        }
      }
    });
  }
}

// The rows of x from j on, the last one repeated where m ends.
template <int J>
GEMMA4_INLINE inline void activation_rows(const Int8Chunk* x, size_t ldx, size_t j, size_t m,
                                          const Int8Chunk* (&rows)[J]) {
  for (size_t i = 0; i < J; ++i) rows[i] = x + (j + i < m ? j + i : m - 1) * ldx;
}

// Few activations: weights go from memory to the products, one row after the other. That is a single stream, which
// every processor's own prefetcher follows. So many bytes before they are needed they are asked for; of the last rows,
// those up to the end and one more, because what is behind them is another thread's.
inline constexpr size_t kAhead = 8192;
inline size_t bytes_ahead(size_t rows_left, size_t stride) {
  return rows_left < kAhead / stride ? rows_left * stride : kAhead;
}

// y (m, ldy) = all rows times m <= J activations, clamped.   w: (rows, k), rows `stride` bytes apart; x: (m, ldx)
template <class V, class T, int J>
void stream_rows(const char* w, size_t stride, size_t rows, size_t k, const Int8Chunk* x, size_t ldx, size_t m,
                 Bounds bounds, float* y, size_t ldy) {
  constexpr bool kStored = T::kElems == kBlock && !T::kMins;
  using Packed = std::conditional_t<kStored, StoredActivations<V, T, J>, SuperActivations<V, T, J>>;
  using Few = std::conditional_t<T::kUnpacked, UnpackedActivations<V, T, J>, Packed>;
  Few few;
  const size_t blocks = k / T::kElems;
  for (size_t first = 0; first < blocks; first += Few::kBlocks) {
    const size_t n = blocks - first < Few::kBlocks ? blocks - first : Few::kBlocks;
    const Int8Chunk* at[J];
    activation_rows(x + first * T::kElems / kSuperBlock, ldx, 0, m, at);
    few.fill(at, n);
    const char* row = w + first * sizeof(typename T::Block);
    for (size_t r = 0; r < rows; ++r, row += stride) {
      float sums[J];
      multiply_row(row, bytes_ahead(rows - r, stride), few, n, sums);
      for (size_t j = 0; j < J && j < m; ++j) y[j * ldy + r] = first > 0 ? y[j * ldy + r] + sums[j] : sums[j];
    }
  }
  for (size_t j = 0; j < m; ++j) clamp<V>(y + j * ldy, rows, bounds.lo, bounds.hi);
}

// sums (J, kRows) = or += `chunks` chunks of the panel times J activations; the next ones are on their way afterwards.
template <class V, class T, int J>
void multiply_tile(const Panel<V, T>& p, size_t chunks, bool accumulate, const Int8Chunk* const (&x)[J], size_t ldx,
                   float* sums) {
  constexpr int kVecs = V::kTileVecs;
  typename V::F acc[J][kVecs];
  for (int j = 0; j < J; ++j)
    for (int v = 0; v < kVecs; ++v)
      acc[j][v] = accumulate ? V::load(sums + (j * kVecs + v) * V::kLanes, All{}) : V::set(0.0f);
  const size_t ahead = J * ldx * sizeof(Int8Chunk);
  for (size_t c = 0; c < chunks; ++c) {
    for (size_t b = 0; b < 8; ++b) {
      for (int j = 0; j < J; ++j)
        V::prefetch_near(reinterpret_cast<const char*>(x[j] + c) + ahead + b * (sizeof(Int8Chunk) / 8));
      multiply_block<V, T, J, kVecs>(p, c, b, x, acc);
    }
  }
  for (int j = 0; j < J; ++j)
    for (int v = 0; v < kVecs; ++v) V::store(sums + (j * kVecs + v) * V::kLanes, acc[j][v], All{});
}

// Activations that meet a panel before the next one is unpacked: with their sums they stay in the second cache.
inline constexpr size_t kBatch = 256;

// sums (m, kRows) = or += the panel times m activations.
template <class V, class T>
void multiply_panel(const Panel<V, T>& panel, size_t chunks, bool accumulate, const Int8Chunk* x, size_t ldx, size_t m,
                    float* sums) {
  constexpr size_t kRows = Panel<V, T>::kRows;
  constexpr int kMany = V::template kTileActsInt8<T::kBits>, kFew = V::kFewActsInt8;
  for (size_t j = 0; j < m;) {
    const size_t left = m - j;
    if (left <= kFew || (left > kMany && left <= 2 * kFew)) {
      const Int8Chunk* rows[kFew];
      activation_rows(x, ldx, j, m, rows);
      multiply_tile<V, T, kFew>(panel, chunks, accumulate, rows, ldx, sums + j * kRows);
      j += kFew;
    } else {
      const Int8Chunk* rows[kMany];
      activation_rows(x, ldx, j, m, rows);
      multiply_tile<V, T, kMany>(panel, chunks, accumulate, rows, ldx, sums + j * kRows);
      j += kMany;
    }
  }
}

// Many activations: panels of weights are unpacked once for at most kBatch of them.
template <class V, class T>
void multiply_batch(const char* w, size_t stride, size_t rows, size_t k, const Int8Chunk* x, size_t ldx, size_t m,
                    Bounds bounds, float* y, size_t ldy) {
  using P = Panel<V, T>;
  const Clamp<V> clamped(bounds.lo, bounds.hi);
  P panel;
  alignas(64) float sums[(kBatch + 8) * P::kRows];  // (m, kRows), and what the last tile has too much
  const size_t chunks = chunk_count(k);
  for (size_t r = 0; r < rows; r += P::kRows) {
    const size_t live = rows - r < P::kRows ? rows - r : P::kRows;
    const char* tile = w + r * stride;
    for (size_t c = 0; c < chunks; c += P::kChunks) {
      const size_t n = chunks - c < P::kChunks ? chunks - c : P::kChunks;
      const char* next = c + n < chunks    ? tile + (c + n) * T::kChunkBytes
                         : r + live < rows ? tile + live * stride
                                           : nullptr;
      panel.unpack(tile, stride, k, live, c, n, next);
      multiply_panel(panel, n, c > 0, x + c, ldx, m, sums);
    }
    for (size_t j = 0; j < m; ++j) {
      for (size_t v = 0; v * V::kLanes < live; ++v) {
        const typename V::F sum = clamped(V::load(sums + j * P::kRows + v * V::kLanes, All{}));
        if (live - v * V::kLanes >= V::kLanes) {
          V::store(y + j * ldy + r + v * V::kLanes, sum, All{});
        } else {
          V::store(y + j * ldy + r + v * V::kLanes, sum, Some{live - v * V::kLanes});
        }
      }
    }
  }
}

template <class V, class T>
void multiply_int8(const void* weights, size_t stride, size_t rows, size_t k, const Int8Chunk* x, size_t ldx, size_t m,
                   Bounds bounds, float* y, size_t ldy) {
  const char* w = static_cast<const char*>(weights);
  if (m == 1) return stream_rows<V, T, 1>(w, stride, rows, k, x, ldx, m, bounds, y, ldy);
  if (m == 2) return stream_rows<V, T, 2>(w, stride, rows, k, x, ldx, m, bounds, y, ldy);
  if (m <= V::kStreamActs) return stream_rows<V, T, V::kStreamActs>(w, stride, rows, k, x, ldx, m, bounds, y, ldy);
  for (size_t j = 0; j < m; j += kBatch) {
    const size_t n = m - j < kBatch ? m - j : kBatch;
    multiply_batch<V, T>(w, stride, rows, k, x + j * ldx, ldx, n, bounds, y + j * ldy, ldy);
  }
}

template <class V, class T>
consteval FormatKernels make_block_format() {
  return {.to_f32 = codec::to_f32<typename T::Block>,
          .rows_dot = nullptr,
          .rows_axpy = nullptr,
          .from_f32 = codec::writer<typename T::Block>(),
          .quantize = quantize<V, T>,
          .multiply_int8 = multiply_int8<V, T>};
}

template <class V, class... Formats>
consteval Kernels with_formats(Kernels table) {
  ((table.format[static_cast<int>(Formats::Block::kType)] = make_block_format<V, Formats>()), ...);
  return table;
}

template <class V, class... Blocks>
consteval Kernels with_unpacked(Kernels table) {
  return with_formats<V, Unpacked<V, Blocks>...>(table);
}

template <class V>
consteval Kernels with_block_formats(Kernels table) {
  table = with_formats<V, Q8_0<V>, Q4_0<V>, Q4_1<V>, Q5_0<V>, Q5_1<V>, Q4_K<V>, Q5_K<V>, Q6_K<V>>(table);
  return with_unpacked<V, BlockIQ4_NL, BlockMXFP4, BlockQ2_K, BlockQ3_K, BlockIQ4_XS, BlockIQ2_XXS, BlockIQ2_XS,
                       BlockIQ2_S, BlockIQ3_XXS, BlockIQ3_S>(table);
}

}  // namespace
}  // namespace gemma4
