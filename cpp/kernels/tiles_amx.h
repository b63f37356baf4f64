// What the kernels that multiply tiles by AMX are made of: floats as bf16, transposed tiles, products.
// Knows: the instructions. Must not know: formats, attention. Internal linkage (see body.h).
//
// A tile is 16 rows of 64 bytes. Of a product it is 16 rows of 32 elements, or 16 pairs of elements of 16 rows that the
// others meet: one side of every product is stored transposed, a word being a pair of elements. The sums are (16 rows,
// 16 rows that they meet). A float is the sum of at most three bf16.
#pragma once

#include <immintrin.h>

#include "kernels/body.h"
#include "kernels/quant_formats.h"
#include "kernels/transpose512.h"

namespace gemma4 {
namespace {

constexpr size_t kStep = 32;  // elements along a tile

inline size_t steps_of(size_t k) { return (k + kStep - 1) / kStep; }

// ---------------------------------------------------------------------------------------------------------------------
// Floats as bf16.

// The first n of a step's elements.
GEMMA4_INLINE inline __mmask32 first_of_step(size_t n) { return n < kStep ? (1u << n) - 1 : ~0u; }

// 32 floats; from the n-th on they are zero.
struct Floats {
  __m512 low, high;
};
GEMMA4_INLINE inline Floats load_floats(const float* p, size_t n) {
  const __mmask32 mask = first_of_step(n);
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p),
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), p + 16)};
}
GEMMA4_INLINE inline __m512i rounded(Floats f) { return (__m512i)_mm512_cvtne2ps_pbh(f.high, f.low); }

// f minus what it was rounded to, which a float holds exactly; zero where that is not finite.
GEMMA4_INLINE inline __m512 rest(__m512 f, __m256i bf16) {
  const __m512 taken = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
  constexpr int kNanOrInfinity = 0x01 | 0x80 | 0x08 | 0x10;
  return _mm512_maskz_sub_ps(_knot_mask16(_mm512_fpclass_ps_mask(taken, kNanOrInfinity)), f, taken);
}

// sink(part, row) for the kParts rows of bf16 whose sum 32 floats are.
template <size_t kParts, class Sink>
GEMMA4_INLINE inline void for_parts(Floats f, Sink sink) {
  unroll<kParts>([&](auto part) GEMMA4_INLINE {
    const __m512i bf16 = rounded(f);
    sink(part.value, bf16);
    if constexpr (part.value + 1 < kParts) {
      f = {rest(f.low, _mm512_castsi512_si256(bf16)), rest(f.high, _mm512_extracti64x4_epi64(bf16, 1))};
    }
  });
}
// The same to `out`, parts `apart` bytes from each other.
template <size_t kParts>
GEMMA4_INLINE inline void store_parts(Floats f, char* out, size_t apart) {
  for_parts<kParts>(f, [&](size_t part, __m512i row) GEMMA4_INLINE { _mm512_store_si512(out + part * apart, row); });
}

// Elements i and i + 16 of 32 side by side.
GEMMA4_INLINE inline __m512i paired(__m512i words) {
  const __m512i places = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                          21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(places, words);
}

// ---------------------------------------------------------------------------------------------------------------------
// Turned tiles.

// One step of at most 16 rows, transposed, as kParts tiles `apart` bytes from each other; load(r) are the floats of row
// r, and rows that are not there are zeros.
template <size_t kParts, class Load>
GEMMA4_INLINE inline void store_turned(size_t rows, Load load, char* out, size_t apart) {
  alignas(64) char tiles[kParts * kTile];
  if (rows < 16) __builtin_memset(tiles, 0, sizeof tiles);
  for (size_t r = 0; r < rows; ++r) store_parts<kParts>(load(r), tiles + r * 64, kTile);
  for (size_t part = 0; part < kParts; ++part, out += apart) {
    for_columns(tiles + part * kTile, [&](size_t c, __m512i v) GEMMA4_INLINE { _mm512_store_si512(out + c * 64, v); });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Products. Tile registers 0-3 are sums, 4 and 5 rows, 6 and 7 what they meet.

// Palette 1 with 16 rows of 64 bytes in every register. A constant: GCC's intrinsic names eight bytes of it as read, so
// stores to the others would be dropped.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileShapes kShapes;

// The registers of this thread; on destruction it has none, and needs none saved.
class TileRegisters {
 public:
  TileRegisters() { _tile_loadconfig(&kShapes); }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// What was stored is in memory from here on: GCC's intrinsics do not say that tiles are loaded from it.
GEMMA4_INLINE inline void settle() { __asm__ volatile("" ::: "memory"); }

// Where tiles are: parts and groups of 16 rows are so many bytes apart, steps follow each other.
struct Operand {
  const char* at;
  size_t part, group;
};
// Where sums are: bytes from one of 16 lines to the next, and between groups of rows and of what they meet.
struct Sums {
  char* at;
  size_t line, row_group, met_group;
};

// sums = or += `steps` steps of R groups of rows times J groups of what they meet, of so many parts each. Parts that
// are small on both sides are below the last bit of the sum.
template <int R, int J, size_t kRowParts, size_t kMetParts>
GEMMA4_INLINE inline void multiply_groups(Operand rows, Operand met, size_t steps, bool accumulate, Sums sums) {
  char* other = sums.at + sums.row_group;
  settle();
  if (accumulate) {
    _tile_loadd(0, sums.at, sums.line);
    if constexpr (J > 1) _tile_loadd(1, sums.at + sums.met_group, sums.line);
    if constexpr (R > 1) _tile_loadd(2, other, sums.line);
    if constexpr (R > 1 && J > 1) _tile_loadd(3, other + sums.met_group, sums.line);
  } else {
    _tile_zero(0);
    if constexpr (J > 1) _tile_zero(1);
    if constexpr (R > 1) _tile_zero(2);
    if constexpr (R > 1 && J > 1) _tile_zero(3);
  }
  for (size_t s = 0; s < steps; ++s) {
    unroll<kRowParts>([&](auto part) GEMMA4_INLINE {
      const char* a = rows.at + part.value * rows.part + s * kTile;
      _tile_loadd(4, a, 64);
      unroll<kMetParts - part.value>([&](auto other_part) GEMMA4_INLINE {
        const char* b = met.at + other_part.value * met.part + s * kTile;
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (J > 1) {
          _tile_loadd(7, b + met.group, 64);
          _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (R > 1 && other_part.value == 0) _tile_loadd(5, a + rows.group, 64);
        if constexpr (R > 1) _tile_dpbf16ps(2, 5, 6);
        if constexpr (R > 1 && J > 1) _tile_dpbf16ps(3, 5, 7);
      });
    });
  }
  _tile_stored(0, sums.at, sums.line);
  if constexpr (J > 1) _tile_stored(1, sums.at + sums.met_group, sums.line);
  if constexpr (R > 1) _tile_stored(2, other, sums.line);
  if constexpr (R > 1 && J > 1) _tile_stored(3, other + sums.met_group, sums.line);
}

}  // namespace
}  // namespace gemma4
