#include "kernels/codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/unpack.h"

namespace gemma4::codec {
namespace {

template <class Block>
constexpr size_t kGroup = kForm<Block>.group;
template <>
constexpr size_t kGroup<BlockQ6_K> = 16;

void read(const BlockQ8_0& b, ChunkQuants& out) {
  std::memcpy(out.quant, b.q, sizeof(b.q));
  out.scale[0] = f16_to_f32(b.d);
  out.min[0] = 0;
}

void read(const BlockQ4_0& b, ChunkQuants& out) {
  for (size_t i = 0; i < 16; ++i) {
    out.quant[i] = static_cast<int8_t>((b.q[i] & 15) - 8);
    out.quant[i + 16] = static_cast<int8_t>((b.q[i] >> 4) - 8);
  }
  out.scale[0] = f16_to_f32(b.d);
  out.min[0] = 0;
}

// A quant of Q5_0 or Q5_1.
template <class Block>
int five_bits(const Block& b, size_t i) {
  return ((b.q[i % 16] >> (i / 16 * 4)) & 15) | ((b.high[i / 8] >> (i % 8)) & 1) << 4;
}

void read(const BlockQ4_1& b, ChunkQuants& out) {
  for (size_t i = 0; i < 16; ++i) {
    out.quant[i] = static_cast<int8_t>(b.q[i] & 15);
    out.quant[i + 16] = static_cast<int8_t>(b.q[i] >> 4);
  }
  out.scale[0] = f16_to_f32(b.d);
  out.min[0] = -f16_to_f32(b.m);
}

void read(const BlockQ5_0& b, ChunkQuants& out) {
  for (size_t i = 0; i < kBlock; ++i) out.quant[i] = static_cast<int8_t>(five_bits(b, i) - 16);
  out.scale[0] = f16_to_f32(b.d);
  out.min[0] = 0;
}

void read(const BlockQ5_1& b, ChunkQuants& out) {
  for (size_t i = 0; i < kBlock; ++i) out.quant[i] = static_cast<int8_t>(five_bits(b, i));
  out.scale[0] = f16_to_f32(b.d);
  out.min[0] = -f16_to_f32(b.m);
}

template <class Block>
void read_scales(const Block& b, ChunkQuants& out) {
  const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
  const uint8_t* s = b.scales;
  for (size_t i = 0; i < 4; ++i) {
    out.scale[i] = d * static_cast<float>(s[i] & 63);
    out.min[i] = dmin * static_cast<float>(s[i + 4] & 63);
    out.scale[i + 4] = d * static_cast<float>((s[i + 8] & 15) | (s[i] >> 6) << 4);
    out.min[i + 4] = dmin * static_cast<float>((s[i + 8] >> 4) | (s[i + 4] >> 6) << 4);
  }
}

void read(const BlockQ4_K& b, ChunkQuants& out) {
  read_scales(b, out);
  for (size_t i = 0; i < 256; ++i) {
    const size_t block = i / 32;
    out.quant[i] = static_cast<int8_t>((b.q[block / 2 * 32 + i % 32] >> (block % 2 * 4)) & 15);
  }
}

void read(const BlockQ5_K& b, ChunkQuants& out) {
  read_scales(b, out);
  for (size_t i = 0; i < 256; ++i) {
    const size_t block = i / 32;
    const int low = (b.q[block / 2 * 32 + i % 32] >> (block % 2 * 4)) & 15;
    out.quant[i] = static_cast<int8_t>(low | ((b.high[i % 32] >> block) & 1) << 4);
  }
}

void read(const BlockQ6_K& b, ChunkQuants& out) {
  const float d = f16_to_f32(b.d);
  for (size_t g = 0; g < 16; ++g) out.scale[g] = d * static_cast<float>(b.scales[g]);
  std::ranges::fill(out.min, 0.0f);
  for (size_t i = 0; i < 256; ++i) {
    const size_t half = i / 128, block = i / 32 % 4;
    const int low = (b.low[half * 64 + block % 2 * 32 + i % 32] >> (block / 2 * 4)) & 15;
    const int high = (b.high[half * 32 + i % 32] >> (block * 2)) & 3;
    out.quant[i] = static_cast<int8_t>((low | high << 4) - 32);
  }
}

template <Unpacks Block>
void read(const Block& b, ChunkQuants& out) {
  constexpr size_t kElems = elements_of<Block>();
  unpack_chunk<Block>(reinterpret_cast<const char*>(&b), kElems / kBlock, out);
  if constexpr (!kForm<Block>.mins) std::ranges::fill(out.min, 0.0f);
  if constexpr (kForm<Block>.zero != 0) {
    for (size_t i = 0; i < kElems; ++i) out.quant[i] = static_cast<int8_t>(out.quant[i] - kForm<Block>.zero);
  }
}

// Activations of one block of 32, clamped, into chunk `out`.
void quantize_block(const float* x, size_t n, Bounds bounds, Int8Chunk& out, size_t block) {
  float clamped[kBlock], most = 0;
  bool finite = true;
  for (size_t i = 0; i < n; ++i) {
    clamped[i] = std::clamp(x[i], bounds.lo, bounds.hi);
    most = std::max(most, std::abs(clamped[i]));
    finite &= std::isfinite(clamped[i]);
  }
  int8_t* q = out.q + block * kBlock;
  std::memset(q, 0, kBlock);
  // Every product with a block that holds an infinity or a NaN is NaN. The inverse of a tiny maximum would overflow.
  out.scale[block] = finite ? most / 127.0f : std::nanf("");
  if (!finite || most < 0x1p-100f) {
    if (finite) out.scale[block] = 0;
    return;
  }
  const float inverse = 127.0f / most;
  for (size_t i = 0; i < n; ++i) q[i] = static_cast<int8_t>(std::nearbyint(clamped[i] * inverse));
}

}  // namespace

template <class Block>
void to_f32(const void* src, float* dst, size_t n) {
  constexpr size_t kElems = elements_of<Block>();
  const auto* blocks = static_cast<const Block*>(src);
  ChunkQuants l;
  for (size_t b = 0; b < n / kElems; ++b, dst += kElems) {
    read(blocks[b], l);
    for (size_t i = 0; i < kElems; ++i) {
      dst[i] = l.scale[i / kGroup<Block>] * static_cast<float>(l.quant[i]) - l.min[i / kGroup<Block>];
    }
  }
}

template <class Block>
void quantize(const float* x, size_t k, Bounds bounds, Int8Chunk* out) {
  for (size_t c = 0; c < chunks_of(k); ++c) {
    Int8Chunk& chunk = out[c];
    for (size_t b = 0; b < 8; ++b) {
      const size_t at = c * kSuperBlock + b * kBlock;
      quantize_block(x + std::min(at, k), at < k ? kBlock : 0, bounds, chunk, b);
      int sum = 0;
      for (size_t i = 0; i < kBlock; ++i) sum += chunk.q[b * kBlock + i];
      chunk.sum[b] = chunk.scale[b] * static_cast<float>(sum);
    }
    // The quants of the specification are signed: nothing to subtract.
    std::memset(chunk.zero, 0, sizeof(chunk.zero));
  }
}

template <class Block>
void multiply_int8(WeightRows w, InputRows<Int8Chunk> x, Bounds bounds, OutputRows y) {
  constexpr size_t kElems = elements_of<Block>(), kEach = kGroup<Block>;
  const size_t m = x.count, ldy = y.ld;
  float* out = y.rows;
  ChunkQuants l;
  for (size_t r = 0; r < w.count; ++r) {
    const auto* blocks = reinterpret_cast<const Block*>(static_cast<const char*>(w.rows) + r * w.stride);
    for (size_t j = 0; j < m; ++j) out[j * ldy + r] = 0;
    for (size_t b = 0; b < w.k / kElems; ++b) {
      read(blocks[b], l);
      for (size_t j = 0; j < m; ++j) {
        for (size_t g = 0; g < kElems / kEach; ++g) {
          const size_t at = b * kElems + g * kEach;
          const Int8Chunk& c = x.rows[j * x.ld + at / kSuperBlock];
          const size_t i = at % kSuperBlock, block = i / kBlock;
          int sum = 0, met = 0;
          for (size_t e = 0; e < kEach; ++e) {
            sum += l.quant[g * kEach + e] * c.q[i + e];
            met += c.q[i + e];
          }
          out[j * ldy + r] += static_cast<float>(sum) * (l.scale[g] * c.scale[block]);
          out[j * ldy + r] -= l.min[g] * (c.scale[block] * static_cast<float>(met));
        }
      }
    }
    for (size_t j = 0; j < m; ++j) out[j * ldy + r] = std::clamp(out[j * ldy + r], bounds.lo, bounds.hi);
  }
}

#define GEMMA4_CODEC(Block)                                                \
  template void to_f32<Block>(const void*, float*, size_t);                \
  template void quantize<Block>(const float*, size_t, Bounds, Int8Chunk*); \
  template void multiply_int8<Block>(WeightRows, InputRows<Int8Chunk>, Bounds, OutputRows);
GEMMA4_CODEC(BlockQ8_0)
GEMMA4_CODEC(BlockQ4_0)
GEMMA4_CODEC(BlockQ4_1)
GEMMA4_CODEC(BlockQ5_0)
GEMMA4_CODEC(BlockQ5_1)
GEMMA4_CODEC(BlockIQ4_NL)
GEMMA4_CODEC(BlockMXFP4)
GEMMA4_CODEC(BlockQ2_K)
GEMMA4_CODEC(BlockQ3_K)
GEMMA4_CODEC(BlockQ4_K)
GEMMA4_CODEC(BlockQ5_K)
GEMMA4_CODEC(BlockQ6_K)
GEMMA4_CODEC(BlockIQ4_XS)
GEMMA4_CODEC(BlockIQ2_XXS)
GEMMA4_CODEC(BlockIQ2_XS)
GEMMA4_CODEC(BlockIQ2_S)
GEMMA4_CODEC(BlockIQ3_XXS)
GEMMA4_CODEC(BlockIQ3_S)
#undef GEMMA4_CODEC

}  // namespace gemma4::codec
