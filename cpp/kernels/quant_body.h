// Block formats times int8 activations, written once over a byte vector class V. Knows: chunks of 256 elements, lanes.
// Must not know: which instruction set, how a block stores its levels. Included by one source file per instruction set;
// everything has internal linkage (see body.h).
//
// Levels are unpacked to unsigned bytes u = level + T::kZero and multiplied with the activations q in integers,
// exactly:
//   sum (u - zero) q = sum u q - zero sum q.
// A result adds the blocks of its row in order, whatever the tile, so it has the same bits in any batch and any split.
//
// V beyond the float vectors of body.h: B (kLanes * 4 bytes), I (kLanes i32), P (partial sums), F8 (8 floats);
//   unpack(block, Const<s>)  the s-th B of a chunk, as it was: element i of the chunk in byte i - s * kBytes
//   scales(block, F8*), minimums(block)  of a chunk; zeroed blocks give zeros
//   dot<bits>(u, q, zeros<bits>(q, zero))  i32 lane l = sum over bytes 4l ... 4l + 3 of (u - zero) q
//   begin, quad<bits>, end  the same over kQuads<bits> vectors: P holds that many sums of four products
//   transpose(v[kLanes])  of a square of 32-bit lanes; spread<group, s>(p)  the scale of each lane of the s-th B
#pragma once

#include "kernels/blocks.h"
#include "kernels/body.h"
#include "kernels/codec.h"

namespace gemma4 {
namespace {

template <int kValue>
struct Const {
  static constexpr int value = kValue;
};

// f(Const<0>{}) ... f(Const<N - 1>{})
template <int N, int I = 0, class Fn>
GEMMA4_INLINE inline void unroll(Fn f) {
  if constexpr (I < N) {
    f(Const<I>{});
    unroll<N, I + 1>(f);
  }
}

// What the kernels must know of a format. kBits: of a level. kGroup: elements that share a scale.
template <class Block_, DType kType, int kBits_, int kZero_, size_t kGroup_, bool kMins_>
struct BlockFormat {
  using Block = Block_;
  static constexpr int kBits = kBits_, kZero = kZero_;
  static constexpr size_t kGroup = kGroup_, kScales = kSuperBlock / kGroup;
  static constexpr bool kMins = kMins_;
  static constexpr size_t kElems = traits(kType).block_elems, kChunkBytes = kSuperBlock / kElems * sizeof(Block);
};
template <class V>
using Q8_0 = BlockFormat<BlockQ8_0, DType::kQ8_0, 8, V::kByteZero, 32, false>;
using Q4_0 = BlockFormat<BlockQ4_0, DType::kQ4_0, 4, 8, 32, false>;
using Q4_K = BlockFormat<BlockQ4_K, DType::kQ4_K, 4, 0, 32, true>;
using Q5_K = BlockFormat<BlockQ5_K, DType::kQ5_K, 5, 0, 32, true>;
using Q6_K = BlockFormat<BlockQ6_K, DType::kQ6_K, 6, 32, 16, false>;

inline size_t chunk_count(size_t k) { return (k + kSuperBlock - 1) / kSuperBlock; }

// Where chunk c of up to R rows begins and how far apart the rows are. A last chunk that is not whole is completed with
// zeros in `buffer`: zeroed blocks have the scale 0.
template <class T, int R>
struct Chunks {
  Chunks(const char* w_, size_t stride_, size_t k_, size_t rows_ = R) : w(w_), stride(stride_), k(k_), rows(rows_) {}

  const char* w;
  size_t stride, k, rows;
  char buffer[T::kElems == kSuperBlock ? 1 : R * T::kChunkBytes];

  struct Place {
    const char* at;
    size_t stride;
    const typename T::Block* row(size_t r) const { return reinterpret_cast<const typename T::Block*>(at + r * stride); }
  };
  GEMMA4_INLINE inline Place chunk(size_t c) {
    const char* at = w + c * T::kChunkBytes;
    if constexpr (T::kElems != kSuperBlock) {
      if ((c + 1) * kSuperBlock > k) {
        const size_t bytes = k % kSuperBlock / T::kElems * sizeof(typename T::Block);
        __builtin_memset(buffer, 0, sizeof(buffer));
        for (size_t r = 0; r < rows; ++r) __builtin_memcpy(buffer + r * T::kChunkBytes, at + r * stride, bytes);
        return {buffer, T::kChunkBytes};
      }
    }
    return {at, stride};
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Activations.

// The eight scales of a chunk as one factor for each scale of the weights.
template <class V, class T>
GEMMA4_INLINE inline void activation_scales(const Int8Chunk& x, typename V::F8* out) {
  if constexpr (T::kGroup == kBlock) {
    out[0] = V::load8(x.scale);
  } else {
    V::twice8(V::load8(x.scale), out);
  }
}

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
// Decode: R rows against J activations, each block read once.

template <class V, class T, int R, int J>
void int8_dot_tile(const char* w, size_t stride, size_t k, const Int8Chunk* x, size_t ldx, float* y, size_t ldy) {
  using F = typename V::F;
  using F8 = typename V::F8;
  constexpr int kSteps = kSuperBlock / V::kBytes, kHalves = T::kScales / 8;
  F acc[R][J];
  F8 mins[R][J];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < J; ++j) acc[r][j] = V::set(0.0f), mins[r][j] = V::set8(0.0f);
  Chunks<T, R> chunks(w, stride, k);
  const char* ahead = w + R * stride;
  for (size_t c = 0; c < chunk_count(k); ++c) {
    const auto place = chunks.chunk(c);
    // The rows of the next tile in the order of memory: the processor's own prefetch does not follow R short rows at
    // once (measured: 5 GB/s without, 9 with, where a plain read makes 11).
    for (size_t i = 0; i < R * T::kChunkBytes; i += 64) V::prefetch(ahead + i);
    ahead += R * T::kChunkBytes;
    alignas(64) float factor[R][J][T::kScales];
    for (int r = 0; r < R; ++r) {
      F8 scale[kHalves];
      V::scales(place.row(r), scale);
      for (int j = 0; j < J; ++j) {
        F8 other[kHalves];
        activation_scales<V, T>(x[j * ldx + c], other);
        for (int h = 0; h < kHalves; ++h) V::store8(factor[r][j] + 8 * h, V::mul8(scale[h], other[h]));
        if constexpr (T::kMins)
          mins[r][j] = V::fma8(V::minimums(place.row(r)), V::load8(x[j * ldx + c].sum), mins[r][j]);
      }
    }
    unroll<kSteps>([&](auto s) GEMMA4_INLINE {
      typename V::B q[J];
      typename V::Z zeros[J];
      for (int j = 0; j < J; ++j) {
        q[j] = V::load_bytes(x[j * ldx + c].q + s.value * V::kBytes);
        zeros[j] = V::template zeros<T::kBits>(q[j], T::kZero);
      }
      for (int r = 0; r < R; ++r) {
        const typename V::B u = V::unpack(place.row(r), s);
        for (int j = 0; j < J; ++j) {
          const F sums = V::to_float(V::template dot<T::kBits>(u, q[j], zeros[j]));
          acc[r][j] = V::fma(sums, V::template spread<T::kGroup, s.value>(factor[r][j]), acc[r][j]);
        }
      }
    });
  }
  for (int j = 0; j < J; ++j)
    for (int r = 0; r < R; ++r) {
      y[j * ldy + r] = V::sum(acc[r][j]);
      if constexpr (T::kMins) y[j * ldy + r] -= V::sum8(mins[r][j]);
    }
}

template <class V, class T, int R>
inline void int8_dot_rows(const char* w, size_t stride, size_t k, const Int8Chunk* x, size_t ldx, size_t m, float* y,
                          size_t ldy) {
  size_t j = 0;
  for (; j + V::kDotActs <= m; j += V::kDotActs)
    int8_dot_tile<V, T, R, V::kDotActs>(w, stride, k, x + j * ldx, ldx, y + j * ldy, ldy);
  for (; j < m; ++j) int8_dot_tile<V, T, R, 1>(w, stride, k, x + j * ldx, ldx, y + j * ldy, ldy);
}

template <class V, class T>
void dot_int8(const void* w, size_t stride, size_t rows, size_t k, const Int8Chunk* x, size_t ldx, size_t m, float* y,
              size_t ldy) {
  const char* p = static_cast<const char*>(w);
  size_t r = 0;
  for (; r + V::kDotRows <= rows; r += V::kDotRows)
    int8_dot_rows<V, T, V::kDotRows>(p + r * stride, stride, k, x, ldx, m, y + r, ldy);
  for (; r < rows; ++r) int8_dot_rows<V, T, 1>(p + r * stride, stride, k, x, ldx, m, y + r, ldy);
}

// ---------------------------------------------------------------------------------------------------------------------
// Prefill: a panel of weights is unpacked once, a row in each lane, and meets all activations while it is in the cache.

template <class V, class T>
struct Panel {
  static constexpr size_t kChunks = 2;           // 512 elements: the levels of 2 x 16 rows take 16 KiB
  static constexpr size_t kVecs = V::kTileVecs;  // vectors of rows
  static constexpr size_t kRows = kVecs * V::kLanes;
  static constexpr size_t kQuadsOfChunk = kSuperBlock / 4;

  alignas(64) uint8_t level[kChunks][kQuadsOfChunk][kVecs][V::kBytes];  // a quad of four elements of every row
  alignas(64) float scale[kChunks][T::kScales][kVecs][V::kLanes];
  alignas(64) float minus_min[T::kMins ? kChunks : 1][T::kMins ? 8 : 1][kVecs][V::kLanes];

  // Chunks [first, first + n) of `rows` rows; the other rows become zero. Those of `next` are on their way afterwards.
  void unpack(const char* w, size_t stride, size_t k, size_t rows, size_t first, size_t n, const char* next) {
    alignas(64) static constexpr char kNothing[T::kChunkBytes] = {};
    for (size_t v = 0; v < kVecs; ++v) {
      const size_t begin = v * V::kLanes, live = rows < begin ? 0 : rows - begin < V::kLanes ? rows - begin : V::kLanes;
      if (next != nullptr) {
        for (size_t l = begin; l < begin + live; ++l)
          for (size_t i = 0; i < kChunks * T::kChunkBytes; i += 64) V::prefetch(next + l * stride + i);
      }
      Chunks<T, V::kLanes> source(w + begin * stride, stride, k, live);
      for (size_t c = 0; c < n; ++c) {
        const auto place = source.chunk(first + c);
        const typename T::Block* row[V::kLanes];
        for (size_t l = 0; l < V::kLanes; ++l)
          row[l] = l < live ? place.row(l) : reinterpret_cast<const typename T::Block*>(kNothing);
        unpack_vector(row, c, v);
      }
    }
  }

 private:
  void unpack_vector(const typename T::Block* const* row, size_t c, size_t v) {
    unroll<kSuperBlock / V::kBytes>([&](auto s) GEMMA4_INLINE {
      typename V::B u[V::kLanes];
      for (size_t l = 0; l < V::kLanes; ++l) u[l] = V::unpack(row[l], s);
      V::transpose(u);
      for (size_t i = 0; i < V::kLanes; ++i) V::store_bytes(level[c][s.value * V::kLanes + i][v], u[i]);
    });
    for (size_t l = 0; l < V::kLanes; ++l) {
      typename V::F8 vec[T::kScales / 8];
      float values[T::kScales];
      V::scales(row[l], vec);
      for (size_t h = 0; h < T::kScales / 8; ++h) V::store8(values + 8 * h, vec[h]);
      for (size_t g = 0; g < T::kScales; ++g) scale[c][g][v][l] = values[g];
      if constexpr (T::kMins) {
        V::store8(values, V::minimums(row[l]));
        for (size_t b = 0; b < 8; ++b) minus_min[c][b][v][l] = -values[b];
      }
    }
  }
};

// acc += one block of 32 of the panel times J activations.
template <class V, class T, int J>
GEMMA4_INLINE inline void multiply_block(const Panel<V, T>& p, size_t c, size_t b, const Int8Chunk* x, size_t ldx,
                                         typename V::F (&acc)[J][V::kTileVecs]) {
  constexpr int kVecs = V::kTileVecs, kGroups = kBlock / T::kGroup, kQuads = T::kGroup / 4;
  constexpr int kRun = V::template kQuads<T::kBits> < kQuads ? V::template kQuads<T::kBits> : kQuads;
  for (int g = 0; g < kGroups; ++g) {
    const size_t group = b * kGroups + g;
    typename V::I total[J][kVecs];
    for (int j = 0; j < J; ++j)
      for (int v = 0; v < kVecs; ++v) total[j][v] = V::set_int(T::kZero ? x[j * ldx].zero[group] : 0);
    unroll<kQuads / kRun>([&](auto run) GEMMA4_INLINE {
      typename V::P part[J][kVecs];
      for (int j = 0; j < J; ++j)
        for (int v = 0; v < kVecs; ++v) part[j][v] = V::begin(total[j][v]);
      unroll<kRun>([&](auto i) GEMMA4_INLINE {
        const size_t quad = group * kQuads + run.value * kRun + i.value;
        typename V::B u[kVecs];
        for (int v = 0; v < kVecs; ++v) u[v] = V::load_bytes(p.level[c][quad][v]);
        for (int j = 0; j < J; ++j) {
          const typename V::B q = V::repeat4(x[j * ldx].q + 4 * quad);
          for (int v = 0; v < kVecs; ++v) part[j][v] = V::template quad<T::kBits>(part[j][v], u[v], q);
        }
      });
      for (int j = 0; j < J; ++j)
        for (int v = 0; v < kVecs; ++v) total[j][v] = V::end(total[j][v], part[j][v]);
    });
    for (int v = 0; v < kVecs; ++v) {
      const typename V::F scale = V::load(p.scale[c][group][v], All{});
      for (int j = 0; j < J; ++j) {
        acc[j][v] = V::fma(V::to_float(total[j][v]), V::mul(scale, V::set(x[j * ldx].scale[b])), acc[j][v]);
      }
    }
  }
  if constexpr (T::kMins) {
    for (int v = 0; v < kVecs; ++v) {
      const typename V::F minus_min = V::load(p.minus_min[c][b][v], All{});
      for (int j = 0; j < J; ++j) acc[j][v] = V::fma(minus_min, V::set(x[j * ldx].sum[b]), acc[j][v]);
    }
  }
}

// y (J, rows) = or += panel times J activations.
template <class V, class T, int J>
void multiply_tile(const Panel<V, T>& p, size_t chunks, bool accumulate, const Int8Chunk* x, size_t ldx, float* y,
                   size_t ldy, size_t rows) {
  constexpr int kVecs = V::kTileVecs;
  typename V::F acc[J][kVecs];
  auto each_vec = [&](auto f) GEMMA4_INLINE {
    for (int v = 0; v < kVecs; ++v) {
      const size_t at = v * V::kLanes;
      if (rows >= at + V::kLanes) {
        for (int j = 0; j < J; ++j) f(j, v, y + j * ldy + at, All{});
      } else if (rows > at) {
        for (int j = 0; j < J; ++j) f(j, v, y + j * ldy + at, Some{rows - at});
      }
    }
  };
  for (int j = 0; j < J; ++j)
    for (int v = 0; v < kVecs; ++v) acc[j][v] = V::set(0.0f);
  if (accumulate) each_vec([&](int j, int v, float* at, auto lanes) GEMMA4_INLINE { acc[j][v] = V::load(at, lanes); });
  for (size_t c = 0; c < chunks; ++c)
    for (size_t b = 0; b < 8; ++b) multiply_block<V, T, J>(p, c, b, x + c, ldx, acc);
  each_vec([&](int j, int v, float* at, auto lanes) GEMMA4_INLINE { V::store(at, acc[j][v], lanes); });
}

template <class V, class T>
void multiply_int8(const void* w, size_t stride, size_t rows, size_t k, const Int8Chunk* x, size_t ldx, size_t m,
                   float* y, size_t ldy) {
  using P = Panel<V, T>;
  P panel;
  const size_t chunks = chunk_count(k);
  for (size_t r = 0; r < rows; r += P::kRows) {
    const size_t live = rows - r < P::kRows ? rows - r : P::kRows;
    for (size_t c = 0; c < chunks; c += P::kChunks) {
      const size_t n = chunks - c < P::kChunks ? chunks - c : P::kChunks;
      const char* tile = static_cast<const char*>(w) + r * stride;
      const char* next = c + n < chunks    ? tile + (c + n) * T::kChunkBytes
                         : r + live < rows ? tile + live * stride
                                           : nullptr;
      panel.unpack(tile, stride, k, live, c, n, next);
      size_t j = 0;
      for (; j + V::kTileActsInt8 <= m; j += V::kTileActsInt8)
        multiply_tile<V, T, V::kTileActsInt8>(panel, n, c > 0, x + j * ldx + c, ldx, y + j * ldy + r, ldy, live);
      for (; j + 2 <= m; j += 2)
        multiply_tile<V, T, 2>(panel, n, c > 0, x + j * ldx + c, ldx, y + j * ldy + r, ldy, live);
      if (j < m) multiply_tile<V, T, 1>(panel, n, c > 0, x + j * ldx + c, ldx, y + j * ldy + r, ldy, live);
    }
  }
}

template <class V, class T>
consteval FormatKernels make_block_format() {
  return {.to_f32 = codec::to_f32<typename T::Block>,
          .rows_dot = nullptr,
          .rows_axpy = nullptr,
          .from_f32 = codec::from_f32<typename T::Block>,
          .quantize = quantize<V, T>,
          .dot_int8 = dot_int8<V, T>,
          .multiply_int8 = multiply_int8<V, T>};
}

template <class V>
consteval Kernels with_block_formats(Kernels table) {
  table.format[static_cast<int>(DType::kQ8_0)] = make_block_format<V, Q8_0<V>>();
  table.format[static_cast<int>(DType::kQ4_0)] = make_block_format<V, Q4_0>();
  table.format[static_cast<int>(DType::kQ4_K)] = make_block_format<V, Q4_K>();
  table.format[static_cast<int>(DType::kQ5_K)] = make_block_format<V, Q5_K>();
  table.format[static_cast<int>(DType::kQ6_K)] = make_block_format<V, Q6_K>();
  return table;
}

}  // namespace
}  // namespace gemma4
