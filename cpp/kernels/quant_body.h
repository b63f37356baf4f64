// Block formats times int8 activations, written once over a byte vector class V. Knows: chunks of 256 elements, lanes.
// Must not know: which instruction set. Included by one source file per instruction set; everything has internal
// linkage (see body.h).
//
// Rows of weights lie in the lanes: a chunk of kLanes rows is read in pieces of 16 bytes, transposed while it is still
// packed, so that a vector holds four elements (a quad) of every row. Levels become unsigned bytes
// u = level + T::kZero and meet the activations q in integers, exactly:
//   sum (u - zero) q = sum u q - zero sum q.
// A result adds the blocks of its row in order, by one fused multiply-add each, so it has the same bits in any batch,
// any split and either way through the weights.
//
// V beyond the float vectors of body.h: B (kLanes * 4 bytes), I (kLanes i32), P (partial sums), F8 (8 floats);
//   load_rows(p, at, stride, v)  lane 4g + t of v[i] = bytes 4i ... 4i + 3 of the 16 at p[g] + at + t * stride
//   nibbles(v), shifted<n>(v)  low halves of bytes; bytes shifted left, bits of neighbours to be masked
//   biased(v)  signed bytes as unsigned ones with zero point kByteZero; scales(block, F8*), minimums(block)  of 256
//   begin(total), quad<bits>(p, u, q), end(total, p)  sums of at most kQuads<bits> quads per lane
#pragma once

#include "kernels/blocks.h"
#include "kernels/body.h"
#include "kernels/codec.h"
#include "kernels/quant_formats.h"

namespace gemma4 {
namespace {

inline size_t chunk_count(size_t k) { return (k + kSuperBlock - 1) / kSuperBlock; }

// ---------------------------------------------------------------------------------------------------------------------
// Activations.

template <class V, class T>
void quantize(const float* x, size_t k, Int8Chunk* out) {
  for (size_t c = 0; c < chunk_count(k); ++c) {
    Int8Chunk& chunk = out[c];
    for (size_t b = 0; b < 8; ++b) {
      const size_t at = c * kSuperBlock + b * kBlock;
      int8_t* q = chunk.q + b * kBlock;
      if (at >= k) {
        __builtin_memset(q, 0, kBlock);
        chunk.scale[b] = 0;
      } else {
        const float most = V::most32(x + at);  // NaN if the block holds one
        const bool finite = most < __builtin_inff(), some = most >= 0x1p-100f;
        chunk.scale[b] = finite ? (some ? most / 127.0f : 0.0f) : __builtin_nanf("");
        if (finite && some) {
          V::round32(x + at, 127.0f / most, q);
        } else {
          __builtin_memset(q, 0, kBlock);
        }
      }
      const int first = V::sum16(q), second = V::sum16(q + 16);
      chunk.sum[b] = chunk.scale[b] * static_cast<float>(first + second);
      if constexpr (T::kGroup == kBlock) {
        chunk.zero[b] = -T::kZero * (first + second);
      } else {
        chunk.zero[2 * b] = -T::kZero * first;
        chunk.zero[2 * b + 1] = -T::kZero * second;
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

  GEMMA4_INLINE inline Place<V> chunk(size_t c) {
    const char* at = w + c * T::kChunkBytes;
    const bool whole = T::kElems == kSuperBlock || (c + 1) * kSuperBlock <= k;
    if (whole && rows == V::kLanes) return Place<V>(at, stride);
    const size_t bytes = whole ? T::kChunkBytes : k % kSuperBlock / T::kElems * sizeof(typename T::Block);
    __builtin_memset(buffer, 0, sizeof(buffer));
    for (size_t r = 0; r < rows; ++r) __builtin_memcpy(buffer + r * T::kChunkBytes, at + r * stride, bytes);
    return Place<V>(buffer, T::kChunkBytes);
  }
};

// Levels of one step of kLanes rows, transposed and still packed, and scales of their chunk. `read` comes first, then
// `turn` before each step.
template <class V, class T>
struct Tile {
  static constexpr bool kSuper = T::kElems == kSuperBlock;
  typename V::B raw[T::kPieces * 4];
  typename V::F scale[kSuper ? T::kScales : 1], minus_min[T::kMins ? 8 : 1];
  alignas(64) uint16_t half[kSuper ? 1 : T::kScales][V::kLanes];  // scales that are f16

  GEMMA4_INLINE inline void read(const Place<V>& place) {
    if constexpr (kSuper) {
      read_scales(place);
    } else {
      unroll<V::kLanes>([&](auto r) GEMMA4_INLINE {
        const char* row = place.row(r.value);
        for (size_t b = 0; b < T::kScales; ++b) {
          uint16_t h;
          __builtin_memcpy(&h, row + b * sizeof(typename T::Block), 2);
          __asm__(""
                  : "+r"(h));  // loads and stores are idle; GCC would insert into vectors, which is what keeps us busy
          half[b][r.value] = h;
        }
      });
    }
  }
  GEMMA4_INLINE inline void turn(const Place<V>& place, size_t step) {
    for (size_t p = 0; p < T::kPieces; ++p) {
      typename V::B v[4];
      V::load_rows(place.p, T::piece(step, p), place.stride, v);
      for (size_t i = 0; i < 4; ++i) raw[4 * p + i] = v[i];
    }
  }
  template <int b, int i>
  GEMMA4_INLINE inline typename V::B level(size_t, OfStep<b>, Const<i>, int) const {
    return T::template level<b, i>(raw);
  }
  GEMMA4_INLINE inline typename V::F scale_of(size_t, size_t b, int group, int) const {
    if constexpr (kSuper) return scale[b * (kBlock / T::kGroup) + group];
    return V::load_f16(reinterpret_cast<const char*>(half[b]), All{});
  }
  typename V::F minus_min_of(size_t, size_t b, int) const { return minus_min[b]; }

 private:
  GEMMA4_INLINE inline void read_scales(const Place<V>& place) {
    alignas(64) float values[V::kLanes][T::kScales], mins[V::kLanes][T::kMins ? 8 : 1];
    for (size_t r = 0; r < V::kLanes; ++r) {
      const auto* block = reinterpret_cast<const typename T::Block*>(place.row(r));
      typename V::F8 vec[T::kScales / 8];
      V::scales(block, vec);
      for (size_t h = 0; h < T::kScales / 8; ++h) V::store8(values[r] + 8 * h, vec[h]);
      if constexpr (T::kMins) V::store8(mins[r], V::minus8(V::minimums(block)));
    }
    turn_floats<T::kScales>(values[0], scale);
    if constexpr (T::kMins) turn_floats<8>(mins[0], minus_min);
  }
  template <size_t N>
  GEMMA4_INLINE static inline void turn_floats(const float* rows, typename V::F* out) {
    const Place<V> place(reinterpret_cast<const char*>(rows), N * sizeof(float));
    for (size_t i = 0; i < N; i += 4) {
      typename V::B v[4];
      V::load_rows(place.p, i * sizeof(float), place.stride, v);
      for (size_t l = 0; l < 4; ++l) out[i + l] = V::as_floats(v[l]);
    }
  }
};

// Some chunks of kVecs * kLanes rows as bytes, to meet many activations while they are in the first cache.
template <class V, class T>
struct Panel {
  static constexpr size_t kChunks = V::kPanelChunks, kVecs = V::kTileVecs, kRows = kVecs * V::kLanes;

  alignas(64) uint8_t levels[kChunks][kSuperBlock / 4][kVecs][V::kBytes];
  alignas(64) float scales[kChunks][T::kScales][kVecs][V::kLanes];
  alignas(64) float minus_mins[T::kMins ? kChunks : 1][T::kMins ? 8 : 1][kVecs][V::kLanes];

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
        store(source.chunk(first + c), c, v);
      }
    }
  }
  template <int i>
  GEMMA4_INLINE inline typename V::B level(size_t c, size_t b, Const<i>, int v) const {
    return V::load_bytes(levels[c][8 * b + i][v]);
  }
  typename V::F scale_of(size_t c, size_t b, int group, int v) const {
    return V::load(scales[c][b * (kBlock / T::kGroup) + group][v], All{});
  }
  typename V::F minus_min_of(size_t c, size_t b, int v) const { return V::load(minus_mins[c][b][v], All{}); }

 private:
  void store(const Place<V>& place, size_t c, size_t v) {
    Tile<V, T> tile;
    tile.read(place);
    for (size_t step = 0; step < 8 / T::kStep; ++step) {
      tile.turn(place, step);
      unroll<T::kStep>([&](auto in) GEMMA4_INLINE {
        const size_t b = step * T::kStep + in.value;
        unroll<8>([&](auto i) GEMMA4_INLINE {
          V::store_bytes(levels[c][8 * b + i.value][v], T::template level<in.value, i.value>(tile.raw));
        });
        constexpr int kGroups = kBlock / T::kGroup;
        for (int g = 0; g < kGroups; ++g) V::store(scales[c][b * kGroups + g][v], tile.scale_of(0, b, g, 0), All{});
        if constexpr (T::kMins) V::store(minus_mins[c][b][v], tile.minus_min[b], All{});
      });
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Products.

// acc += block b of chunk c of a Tile or a Panel times that of J activations.
template <class V, class T, int J, int kVecs, class Weights, class Number>
GEMMA4_INLINE inline void multiply_block(const Weights& w, size_t c, Number number, const Int8Chunk* const (&x)[J],
                                         typename V::F (&acc)[J][kVecs]) {
  constexpr int kGroups = kBlock / T::kGroup, kQuads = T::kGroup / 4;
  constexpr int kRun = V::template kQuads<T::kBits> < kQuads ? V::template kQuads<T::kBits> : kQuads;
  const size_t b = number;
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
        for (int v = 0; v < kVecs; ++v) u[v] = w.level(c, number, Const<quad>{}, v);
        for (int j = 0; j < J; ++j) {
          const typename V::B q = V::repeat4(x[j][c].q + b * kBlock + 4 * quad);
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
    for (int v = 0; v < kVecs; ++v) {
      const typename V::F minus_min = w.minus_min_of(c, b, v);
      for (int j = 0; j < J; ++j) acc[j][v] = V::fma(minus_min, V::set(x[j][c].sum[b]), acc[j][v]);
    }
  }
}

// The rows of x from j on, the last one repeated where m ends.
template <int J>
GEMMA4_INLINE inline void activation_rows(const Int8Chunk* x, size_t ldx, size_t j, size_t m,
                                          const Int8Chunk* (&rows)[J]) {
  for (size_t i = 0; i < J; ++i) rows[i] = x + (j + i < m ? j + i : m - 1) * ldx;
}

// Few activations: kLanes rows of weights go from memory to the products, J activations at once.
template <class V, class T, int J>
void stream_tile(Rows<V, T>& rows, const char* end, const Int8Chunk* x, size_t ldx, size_t m, float* y, size_t ldy) {
  const Int8Chunk* at[J];
  activation_rows(x, ldx, 0, m, at);
  typename V::F acc[J][1];
  for (int j = 0; j < J; ++j) acc[j][0] = V::set(0.0f);
  Tile<V, T> tile;
  const char* ahead = rows.w + V::kLanes * rows.stride;
  for (size_t c = 0; c < chunk_count(rows.k); ++c) {
    // The rows of the next tile in the order of memory: the processor's own prefetch does not follow so many short
    // rows at once (measured: 5 GB/s without, 9 with, where a plain read makes 11).
    if (ahead < end)
      for (size_t i = 0; i < V::kLanes * T::kChunkBytes; i += 64) V::prefetch(ahead + i);
    ahead += V::kLanes * T::kChunkBytes;
    const Place<V> place = rows.chunk(c);
    tile.read(place);
    for (size_t step = 0; step < 8 / T::kStep; ++step) {
      tile.turn(place, step);
      unroll<T::kStep>([&](auto b) GEMMA4_INLINE {
        multiply_block<V, T, J, 1>(tile, 0, OfStep<b.value>{step * T::kStep}, at, acc);
      });
    }
    for (int j = 0; j < J; ++j) ++at[j];
  }
  for (size_t j = 0; j < J && j < m; ++j) {
    if (rows.rows == V::kLanes) {
      V::store(y + j * ldy, acc[j][0], All{});
    } else {
      V::store(y + j * ldy, acc[j][0], Some{rows.rows});
    }
  }
}

template <class V, class T>
void stream(const char* w, size_t stride, size_t rows, size_t k, const Int8Chunk* x, size_t ldx, size_t m, float* y,
            size_t ldy) {
  const char* end = w + rows * stride;
  for (size_t r = 0; r < rows; r += V::kLanes) {
    const size_t live = rows - r < V::kLanes ? rows - r : V::kLanes;
    Rows<V, T> source{w + r * stride, stride, k, live, {}};
    if (m == 1) {
      stream_tile<V, T, 1>(source, end, x, ldx, m, y + r, ldy);
    } else {
      stream_tile<V, T, V::kStreamActs>(source, end, x, ldx, m, y + r, ldy);
    }
  }
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
                    float* y, size_t ldy) {
  using P = Panel<V, T>;
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
        const typename V::F sum = V::load(sums + j * P::kRows + v * V::kLanes, All{});
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
                   float* y, size_t ldy) {
  const char* w = static_cast<const char*>(weights);
  if (m <= V::kStreamActs) return stream<V, T>(w, stride, rows, k, x, ldx, m, y, ldy);
  for (size_t j = 0; j < m; j += kBatch) {
    multiply_batch<V, T>(w, stride, rows, k, x + j * ldx, ldx, m - j < kBatch ? m - j : kBatch, y + j * ldy, ldy);
  }
}

template <class V, class T>
consteval FormatKernels make_block_format() {
  return {.to_f32 = codec::to_f32<typename T::Block>,
          .rows_dot = nullptr,
          .rows_axpy = nullptr,
          .from_f32 = codec::from_f32<typename T::Block>,
          .quantize = quantize<V, T>,
          .multiply_int8 = multiply_int8<V, T>};
}

template <class V>
consteval Kernels with_block_formats(Kernels table) {
  table.format[static_cast<int>(DType::kQ8_0)] = make_block_format<V, Q8_0<V>>();
  table.format[static_cast<int>(DType::kQ4_0)] = make_block_format<V, Q4_0<V>>();
  table.format[static_cast<int>(DType::kQ4_K)] = make_block_format<V, Q4_K<V>>();
  table.format[static_cast<int>(DType::kQ5_K)] = make_block_format<V, Q5_K<V>>();
  table.format[static_cast<int>(DType::kQ6_K)] = make_block_format<V, Q6_K<V>>();
  return table;
}

}  // namespace
}  // namespace gemma4
