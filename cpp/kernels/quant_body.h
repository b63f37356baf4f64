// Block formats times int8 activations, written once over a byte vector class V. Knows: chunks of 256 elements, lanes.
// Must not know: which instruction set. Included by one source file per instruction set; everything has internal
// linkage (see body.h).
//
// Quants become unsigned bytes u = quant + T::kZero and meet the activations q in integers, exactly:
//   sum (u - zero) q = sum u q - zero sum q
// Few activations: vectors run along a row, their lanes are scaled and added by themselves, and what zero points
// subtract is added in floats (stored_rows.h, super_rows.h where there are minimums or super-blocks, unpacked_rows.h
// where quants are unpacked first); however few or many they are, each is added alike (multiply_streamed). Many
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
#include "kernels/panel.h"
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
        alignas(64) float values[kBlock];
        for (size_t i = 0; i < kBlock; i += V::kLanes) V::store(values + i, clamped(V::load(x + at + i, All{})), All{});
        const float most = V::most32(values);  // NaN if the block holds one
        const bool finite = most < __builtin_inff(), some = most >= 0x1p-100f;
        chunk.scale[b] = finite ? (some ? most / 127.0f : 0.0f) : __builtin_nanf("");
        if (finite && some) V::round32(values, 127.0f / most, q);
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
        for (int v = 0; v < kVecs; ++v) u[v] = w.quant(c, b, quad, v);
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

// J rows of x from j on, the last one repeated where they end, at chunk c.
template <int J>
GEMMA4_INLINE inline void activation_rows(InputRows<Int8Chunk> x, size_t j, size_t c, const Int8Chunk* (&rows)[J]) {
  for (size_t i = 0; i < J; ++i) rows[i] = x.rows + c + (j + i < x.count ? j + i : x.count - 1) * x.ld;
}

// Few activations: weights go from memory to the products, one row after the other. That is a single stream, which
// every processor's own prefetcher follows. So many bytes before they are needed they are asked for; of the last rows,
// those up to the end and one more, because what is behind them is another thread's.
inline constexpr size_t kAhead = 8192;
inline size_t bytes_ahead(size_t rows_left, size_t stride) {
  return rows_left < kAhead / stride ? rows_left * stride : kAhead;
}

// Which of the three ways a format has.
template <class T, class Stored, class Super, class Unpacked>
using OneOf = std::conditional_t<T::kUnpacked, Unpacked, std::conditional_t<T::kStored, Stored, Super>>;
template <class V, class T, bool kLaned>
using StreamedActivation =
    OneOf<T, StoredActivation<V, T, kLaned>, SuperActivation<V, T, kLaned>, UnpackedActivation<V, T>>;

template <class V>
GEMMA4_INLINE inline float sum_of(const typename V::F (&acc)[1]) {
  return V::sum(acc[0]);
}
template <class V>
GEMMA4_INLINE inline float sum_of(const typename V::F (&acc)[2]) {
  return V::sum(V::add(acc[0], acc[1]));
}

// y = all rows times at most J activations, clamped.
template <class V, class T, int J>
void stream_rows(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows to) {
  using X = StreamedActivation<V, T, false>;
  X few[J];
  const size_t stride = w.stride, rows = w.count, blocks = w.k / T::kElems, m = x.count, ldy = to.ld;
  float* y = to.rows;
  for (size_t first = 0; first < blocks; first += X::kBlocks) {
    const size_t n = blocks - first < X::kBlocks ? blocks - first : X::kBlocks;
    const Int8Chunk* at[J];
    activation_rows(x, 0, first * T::kElems / kSuperBlock, at);
    for (int j = 0; j < J; ++j) few[j].fill(at[j], n);
    const char* row = static_cast<const char*>(w.rows) + first * sizeof(typename T::Block);
    for (size_t r = 0; r < rows; ++r, row += stride) {
      typename V::F acc[J][X::kSums];
      for (auto& sums : acc)
        for (typename V::F& sum : sums) sum = V::set(0.0f);
      add_blocks<V, T, J>(row, bytes_ahead(rows - r, stride), few, n, acc);
      for (size_t j = 0; j < J && j < m; ++j) {
        const float sum = sum_of<V>(acc[j]);
        y[j * ldy + r] = first > 0 ? y[j * ldy + r] + sum : sum;
      }
    }
  }
  for (size_t j = 0; j < m; ++j) clamp<V>(y + j * ldy, rows, bounds.lo, bounds.hi);
}

// More activations: so many at once meet so many rows in parts of so many elements. A part of these rows is taken apart
// once, and stays in L1 with that of a few activations; sums wait in memory, lane by lane, for the next part, and so
// have the bits of those above.
inline constexpr size_t kStreamed = 8, kStreamedRows = 8, kStreamedElems = 1024;
template <class V, class T>
using StreamedPart =
    OneOf<T, StoredPart<V, T, kStreamedElems>, SuperPart<V, T, kStreamedElems>, UnpackedPart<V, T, kStreamedElems>>;

// sums = or += a part of a row times J activations.
template <class V, class T, int J, class X>
GEMMA4_INLINE inline void add_part(const StreamedPart<V, T>& w, const X* x, size_t first, size_t blocks,
                                   float (*sums)[X::kSums][V::kLanes]) {
  typename V::F acc[J][X::kSums];
  for (int j = 0; j < J; ++j)
    for (int i = 0; i < X::kSums; ++i) acc[j][i] = first > 0 ? V::load(sums[j][i], All{}) : V::set(0.0f);
  w.template add<J>(x, first, blocks, acc);
  for (int j = 0; j < J; ++j)
    for (int i = 0; i < X::kSums; ++i) V::store(sums[j][i], acc[j][i], All{});
}

// As stream_rows, for at most kStreamed activations.
template <class V, class T>
void stream_tiles(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows to) {
  using X = StreamedActivation<V, T, true>;
  constexpr size_t kPart = kStreamedElems / T::kElems;
  static_assert(X::kBlocks % kPart == 0);
  X some[kStreamed];
  StreamedPart<V, T> parts[kStreamedRows];
  alignas(64) float sums[kStreamedRows][kStreamed][X::kSums][V::kLanes];
  const size_t stride = w.stride, rows = w.count, blocks = w.k / T::kElems, m = x.count, ldy = to.ld;
  const size_t even = (m + 1) / 2 * 2;  // the last is met twice where m is odd
  float* y = to.rows;
  for (size_t first = 0; first < blocks; first += X::kBlocks) {
    const size_t n = blocks - first < X::kBlocks ? blocks - first : X::kBlocks;
    const Int8Chunk* chunks = x.rows + first * T::kElems / kSuperBlock;
    for (size_t j = 0; j < even; ++j) some[j].fill(chunks + (j < m ? j : m - 1) * x.ld, n);
    for (size_t r = 0; r < rows; r += kStreamedRows) {
      const size_t live = rows - r < kStreamedRows ? rows - r : kStreamedRows;
      const char* tile = static_cast<const char*>(w.rows) + r * stride + first * sizeof(typename T::Block);
      // The part of the row that is in the next tile's place is asked for, of the last rows' only what is there.
      const size_t left = rows - r - live, ahead = (left < live ? left : live) * stride;
      for (size_t part = 0; part < n; part += kPart) {
        const size_t part_blocks = n - part < kPart ? n - part : kPart;
        const char* at = tile + part * sizeof(typename T::Block);
        for (size_t i = 0; i < live; ++i) parts[i].read(at + i * stride, ahead, part_blocks);
        for (size_t j = 0; j < even;) {
          const auto meet = [&](auto acts) GEMMA4_INLINE {
            for (size_t i = 0; i < live; ++i)
              add_part<V, T, acts.value>(parts[i], some + j, part, part_blocks, sums[i] + j);
            j += acts.value;
          };
          constexpr int kMost = V::kStreamedTogether;
          if (even - j >= static_cast<size_t>(kMost)) {
            meet(Const<kMost>{});
          } else if (kMost > 4 && even - j >= 4) {
            meet(Const<4>{});
          } else {
            meet(Const<2>{});
          }
        }
      }
      for (size_t j = 0; j < m; ++j) {
        for (size_t i = 0; i < live; ++i) {
          typename V::F acc[X::kSums];
          for (int s = 0; s < X::kSums; ++s) acc[s] = V::load(sums[i][j][s], All{});
          const float sum = sum_of<V>(acc);
          y[j * ldy + r + i] = first > 0 ? y[j * ldy + r + i] + sum : sum;
        }
      }
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

// Activations that meet a panel before the next one is unpacked: with their sums they stay in L2.
inline constexpr size_t kBatch = 256;

// sums (rows of x, kRows) = or += the panel, whose first chunk is c, times all activations.
template <class V, class T>
void multiply_panel(const Panel<V, T>& panel, size_t chunks, InputRows<Int8Chunk> x, size_t c, float* sums) {
  constexpr size_t kRows = Panel<V, T>::kRows;
  constexpr int kMany = V::template kTileActsInt8<T::kBits>, kFew = V::kFewActsInt8;
  for (size_t j = 0; j < x.count;) {
    const size_t left = x.count - j;
    if (left <= kFew || (left > kMany && left <= 2 * kFew)) {
      const Int8Chunk* rows[kFew];
      activation_rows(x, j, c, rows);
      multiply_tile<V, T, kFew>(panel, chunks, c > 0, rows, x.ld, sums + j * kRows);
      j += kFew;
    } else {
      const Int8Chunk* rows[kMany];
      activation_rows(x, j, c, rows);
      multiply_tile<V, T, kMany>(panel, chunks, c > 0, rows, x.ld, sums + j * kRows);
      j += kMany;
    }
  }
}

// Many activations: panels of weights are unpacked once for at most kBatch of them.
template <class V, class T>
void multiply_batch(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows to) {
  using P = Panel<V, T>;
  const Clamp<V> clamped(bounds.lo, bounds.hi);
  P panel;
  alignas(64) float sums[(kBatch + 8) * P::kRows];  // (m, kRows), and what the last tile has too much
  const size_t stride = w.stride, rows = w.count, chunks = chunk_count(w.k), m = x.count, ldy = to.ld;
  float* y = to.rows;
  for (size_t r = 0; r < rows; r += P::kRows) {
    const size_t live = rows - r < P::kRows ? rows - r : P::kRows;
    const char* tile = static_cast<const char*>(w.rows) + r * stride;
    for (size_t c = 0; c < chunks; c += P::kChunks) {
      const size_t n = chunks - c < P::kChunks ? chunks - c : P::kChunks;
      const char* next = c + n < chunks    ? tile + (c + n) * T::kChunkBytes
                         : r + live < rows ? tile + live * stride
                                           : nullptr;
      panel.unpack({tile, stride, live, w.k}, c, n, next);
      multiply_panel(panel, n, x, c, sums);
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
void multiply_streamed(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows y) {
  if (x.count == 1) return stream_rows<V, T, 1>(w, x, bounds, y);
  if (x.count == 2) return stream_rows<V, T, 2>(w, x, bounds, y);
  if (x.count <= kStreamed) return stream_tiles<V, T>(w, x, bounds, y);
  // Rows that stay in L2 until all activations were there.
  constexpr size_t kInL2 = size_t{128} << 10;
  const size_t fit = kInL2 / w.stride, together = fit < 2 * kStreamedRows ? 2 * kStreamedRows : fit;
  for (size_t r = 0; r < w.count; r += together) {
    const size_t live = w.count - r < together ? w.count - r : together;
    const WeightRows some{static_cast<const char*>(w.rows) + r * w.stride, w.stride, live, w.k};
    for (size_t j = 0; j < x.count; j += kStreamed) {
      const size_t n = x.count - j < kStreamed ? x.count - j : kStreamed;
      multiply_streamed<V, T>(some, {x.rows + j * x.ld, x.ld, n}, bounds, {y.rows + j * y.ld + r, y.ld});
    }
  }
}

template <class V, class T>
void multiply_int8(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows y) {
  if (x.count <= V::kStreamActs) return multiply_streamed<V, T>(w, x, bounds, y);
  for (size_t j = 0; j < x.count; j += kBatch) {
    const size_t n = x.count - j < kBatch ? x.count - j : kBatch;
    multiply_batch<V, T>(w, {x.rows + j * x.ld, x.ld, n}, bounds, {y.rows + j * y.ld, y.ld});
  }
}

template <class V, class T>
consteval FormatKernels make_block_format() {
  return {.to_f32 = codec::to_f32<typename T::Block>,
          .rows_dot = nullptr,
          .rows_axpy = nullptr,
          .from_f32 = codec::writer<typename T::Block>(),
          .quantize = quantize<V, T>,
          .multiply_int8 = multiply_int8<V, T>,
          .multiply_streamed = multiply_streamed<V, T>};
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
