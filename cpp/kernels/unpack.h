// Formats whose quants are unpacked to bytes before they meet anything: codes that stand for quants by a table or a
// grid, and scales of groups that other formats do not have. One function for each reads a block; the plain codec, the
// int8 kernels and the tiles start from what it gives.
// Knows: layouts. Must not know: activations, instruction sets (but for one shuffle of bytes). Everything has internal
// linkage (see body.h): it is compiled for each instruction set anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels/blocks.h"
#include "kernels/body.h"
#include "kernels/grids.h"

namespace gemma4 {
namespace {

// 256 elements of a row in their order: w[i] = scale[i / group] * (quant[i] - zero) - min[i / group], with the group
// and the zero of the format.
struct alignas(64) ChunkQuants {
  int8_t quant[kSuperBlock];
  float scale[16];
  float min[16];
};

struct QuantForm {
  int bits;               // quants are unsigned of so many bits at most, or signed bytes
  int zero = 0;           // subtracted from a quant
  size_t group = kBlock;  // elements that share a scale
  bool mins = false;
};
template <class Block>
constexpr QuantForm kForm = {.bits = 8};
template <>
constexpr QuantForm kForm<BlockMXFP4> = {.bits = 5, .zero = 12};
template <>
constexpr QuantForm kForm<BlockQ2_K> = {.bits = 4, .group = 16, .mins = true};
template <>
constexpr QuantForm kForm<BlockQ3_K> = {.bits = 4, .zero = 4, .group = 16};
template <>
constexpr QuantForm kForm<BlockIQ2_XS> = {.bits = 8, .group = 16};
template <>
constexpr QuantForm kForm<BlockIQ2_S> = {.bits = 8, .group = 16};

// An f16 as f32. Not the function of dtype.h: its copy for this instruction set could be picked for another.
inline float half(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#elif defined(__aarch64__)
  __fp16 value;
  memcpy(&value, &h, sizeof value);
  return value;
#else
  return f16_to_f32(h);
#endif
}

using Sixteen = uint8_t __attribute__((vector_size(16)));

// table[at[i]], at[i] < 16
inline Sixteen looked_up(Sixteen table, Sixteen at) {
#if defined(__SSSE3__)
  return reinterpret_cast<Sixteen>(_mm_shuffle_epi8(reinterpret_cast<__m128i>(table), reinterpret_cast<__m128i>(at)));
#elif defined(__aarch64__)
  return vqtbl1q_u8(table, at);
#else
  Sixteen out;
  for (size_t i = 0; i < 16; ++i) out[i] = table[at[i]];
  return out;
#endif
}

inline Sixteen load16(const void* p) {
  Sixteen v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store16(int8_t* p, Sixteen v) { memcpy(p, &v, sizeof v); }

// What the nibbles of 16 bytes stand for, and `plus`: the low ones, then the high ones.
inline void look_up_nibbles(const uint8_t* q, const int8_t (&values)[16], int plus, int8_t* quant) {
  const Sixteen v = load16(q), table = load16(values) + static_cast<uint8_t>(plus);
  store16(quant, looked_up(table, v & 15));
  store16(quant + 16, looked_up(table, v >> 4));
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks of 32: `unpack` writes block b of a chunk.

inline void unpack(const BlockIQ4_NL& block, size_t b, ChunkQuants& out) {
  look_up_nibbles(block.q, kIQ4Values, 0, out.quant + 32 * b);
  out.scale[b] = half(block.d);
}

inline void unpack(const BlockMXFP4& block, size_t b, ChunkQuants& out) {
  look_up_nibbles(block.q, kFP4Values, kForm<BlockMXFP4>.zero, out.quant + 32 * b);
  // 2^(e - 128): below 2^-126 a float has no exponent.
  const uint32_t bits = block.e < 2 ? 0x00200000u << block.e : (block.e - 1u) << 23;
  memcpy(&out.scale[b], &bits, sizeof bits);
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks of 256.

inline void unpack(const BlockIQ4_XS& block, ChunkQuants& out) {
  using Eight = uint32_t __attribute__((vector_size(32)));
  unroll<8>([&](auto b)
                GEMMA4_INLINE { look_up_nibbles(block.q + 16 * b.value, kIQ4Values, 0, out.quant + 32 * b.value); });
  uint32_t low;
  memcpy(&low, block.low, sizeof low);
  const Eight at = {0, 1, 2, 3, 4, 5, 6, 7};
  const Eight six = ((Eight{} + low) >> (4 * at) & 15) | ((Eight{} + block.high) >> (2 * at) & 3) << 4;
  const float d = half(block.d);
  for (size_t b = 0; b < 8; ++b) out.scale[b] = d * static_cast<float>(static_cast<int>(six[b]) - 32);
}

using Pairs = uint16_t __attribute__((vector_size(16)));

// Elements of a super-block whose low two bits are stored as in Q2_K, 16 at a time: sink(n, quants) for all n < 16.
template <class Sink>
GEMMA4_INLINE inline void for_two_bits(const uint8_t* q, Sink sink) {
  unroll<4>([&](auto quarter) GEMMA4_INLINE {
    constexpr size_t half = quarter.value / 2, side = quarter.value % 2;
    const auto bytes = reinterpret_cast<Pairs>(load16(q + 16 * quarter.value));
    unroll<4>([&](auto b)
                  GEMMA4_INLINE { sink(Const<8 * half + 2 * b.value + side>{}, bytes >> (2 * b.value) & 0x0303); });
  });
}

inline void unpack(const BlockQ2_K& block, ChunkQuants& out) {
  for_two_bits(block.q, [&](auto n, Pairs quants)
                            GEMMA4_INLINE { store16(out.quant + 16 * n.value, reinterpret_cast<Sixteen>(quants)); });
  uint8_t scales[16];  // a copy, for all that the compiler knows what is written to `out` could change the block
  memcpy(scales, block.scales, sizeof scales);
  const float d = half(block.d), dmin = half(block.dmin);
  for (size_t g = 0; g < 16; ++g) out.scale[g] = d * static_cast<float>(scales[g] & 15);
  for (size_t g = 0; g < 16; ++g) out.min[g] = dmin * static_cast<float>(scales[g] >> 4);
}

inline void unpack(const BlockQ3_K& block, ChunkQuants& out) {
  const Pairs third[2] = {reinterpret_cast<Pairs>(load16(block.high)),
                          reinterpret_cast<Pairs>(load16(block.high + 16))};
  for_two_bits(block.low, [&](auto n, Pairs low) GEMMA4_INLINE {
    const Pairs bit = third[n.value % 2] >> (n.value / 2) & 0x0101;
    store16(out.quant + 16 * n.value, reinterpret_cast<Sixteen>(low | bit << 2));
  });
  using Fours = uint32_t __attribute__((vector_size(16)));
  uint32_t words[3];
  memcpy(words, block.scales, sizeof words);
  const Fours low = Fours{words[0], words[1], words[0] >> 4, words[1] >> 4} & 0x0f0f0f0f;
  const Fours high = Fours{words[2], words[2] >> 2, words[2] >> 4, words[2] >> 6} & 0x03030303;
  const Fours six = low | high << 4;
  uint8_t scales[16];
  memcpy(scales, &six, sizeof scales);
  const float d = half(block.d);
  for (size_t g = 0; g < 16; ++g) out.scale[g] = d * static_cast<float>(scales[g] - 32);
}

// Eight quants with a sign where a byte of `minus` is 0xff. None is zero, so no byte carries into the next.
inline void store_signed(int8_t* quant, uint64_t quants, uint64_t minus) {
  const uint64_t v = (quants ^ minus) + (minus & 0x0101010101010101u);
  memcpy(quant, &v, sizeof v);
}

inline uint32_t word_at(const void* p) {
  uint32_t word;
  memcpy(&word, p, sizeof word);
  return word;
}

// The scales of sixteen groups, or of eight blocks: d * (2 s + 1), s being nibbles.
template <size_t kScales>
inline void odd_scales(const uint8_t* nibbles, float d, ChunkQuants& out) {
  uint8_t s[kScales];
  for (size_t g = 0; g < kScales; ++g) s[g] = nibbles[g / 2] >> (g % 2 * 4) & 15;
  for (size_t g = 0; g < kScales; ++g) out.scale[g] = d * static_cast<float>(2 * s[g] + 1);
}

inline void unpack(const BlockIQ2_XXS& block, ChunkQuants& out) {
  const float d = half(block.d) * 0.125f;
  for (size_t b = 0; b < 8; ++b) {
    const uint8_t* entries = block.q + 8 * b;
    const uint32_t signs = word_at(entries + 4);
    unroll<4>([&](auto i) GEMMA4_INLINE {
      store_signed(out.quant + 32 * b + 8 * i.value, grids::kIQ2_XXS.of[entries[i.value]],
                   grids::kEvenSigns.of[signs >> (7 * i.value) & 127]);
    });
    out.scale[b] = d * static_cast<float>(2 * (signs >> 28) + 1);
  }
}

inline void unpack(const BlockIQ2_XS& block, ChunkQuants& out) {
  for (size_t i = 0; i < 32; ++i) {
    const uint16_t q = block.q[i];
    store_signed(out.quant + 8 * i, grids::kIQ2_XS.of[q & 511], grids::kEvenSigns.of[q >> 9]);
  }
  odd_scales<16>(block.scales, half(block.d) * 0.125f, out);
}

inline void unpack(const BlockIQ2_S& block, ChunkQuants& out) {
  for (size_t b = 0; b < 8; ++b) {
    const uint32_t q = word_at(block.q + 4 * b), signs = word_at(block.signs + 4 * b), high = block.high[b];
    unroll<4>([&](auto i) GEMMA4_INLINE {
      const uint32_t entry = (q >> (8 * i.value) & 255) | (high >> (2 * i.value) & 3) << 8;
      store_signed(out.quant + 32 * b + 8 * i.value, grids::kIQ2_S.of[entry],
                   grids::kSigns.of[signs >> (8 * i.value) & 255]);
    });
  }
  odd_scales<16>(block.scales, half(block.d) * 0.125f, out);
}

inline uint64_t two_entries(uint32_t first, uint32_t second) { return static_cast<uint64_t>(second) << 32 | first; }

inline void unpack(const BlockIQ3_XXS& block, ChunkQuants& out) {
  const float d = half(block.d) * 0.25f;
  for (size_t b = 0; b < 8; ++b) {
    const uint8_t* q = block.q + 8 * b;
    const uint32_t signs = block.signs[b];
    unroll<4>([&](auto i) GEMMA4_INLINE {
      store_signed(out.quant + 32 * b + 8 * i.value,
                   two_entries(grids::kIQ3_XXS.of[q[2 * i.value]], grids::kIQ3_XXS.of[q[2 * i.value + 1]]),
                   grids::kEvenSigns.of[signs >> (7 * i.value) & 127]);
    });
    out.scale[b] = d * static_cast<float>(2 * (signs >> 28) + 1);
  }
}

inline void unpack(const BlockIQ3_S& block, ChunkQuants& out) {
  for (size_t b = 0; b < 8; ++b) {
    const uint8_t* q = block.q + 8 * b;
    const uint32_t high = block.high[b], signs = word_at(block.signs + 4 * b);
    const auto entry = [&](size_t i) GEMMA4_INLINE { return grids::kIQ3_S.of[q[i] | (high >> i & 1) << 8]; };
    unroll<4>([&](auto i) GEMMA4_INLINE {
      store_signed(out.quant + 32 * b + 8 * i.value, two_entries(entry(2 * i.value), entry(2 * i.value + 1)),
                   grids::kSigns.of[signs >> (8 * i.value) & 255]);
    });
  }
  odd_scales<8>(block.scales, half(block.d), out);
}

// ---------------------------------------------------------------------------------------------------------------------

template <class Block>
concept Unpacks = requires(const Block& block, ChunkQuants& out) {
  unpack(block, out);
}
|| requires(const Block& block, ChunkQuants& out) { unpack(block, size_t{0}, out); };

// The first n blocks of 32 of a chunk of one row; a super-block has all eight. The rest of `out` stays as it is.
template <Unpacks Block>
inline void unpack_chunk(const char* chunk, size_t n, ChunkQuants& out) {
  const auto* blocks = reinterpret_cast<const Block*>(chunk);
  if constexpr (elements_of<Block>() == kSuperBlock) {
    unpack(blocks[0], out);
  } else {
    for (size_t b = 0; b < n; ++b) unpack(blocks[b], b, out);
  }
}

}  // namespace
}  // namespace gemma4
