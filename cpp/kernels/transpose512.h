// Tiles, 16 rows of 64 bytes, transposed: a row becomes a column of words. Knows: 512-bit intrinsics. Must not know:
// AMX, what the bytes are. Internal linkage (see body.h).
#pragma once

#include <immintrin.h>

#include "kernels/body.h"

namespace gemma4 {
namespace {

constexpr size_t kTile = 1024;  // bytes

// sink(c, v) for every column c of 16 rows of 64 bytes, v its 16 words.
template <class Sink>
GEMMA4_INLINE inline void for_columns(const char* rows, Sink sink) {
  for (size_t four = 0; four < 16; four += 4) {
    __m512i row[4];  // words four ... four + 3 of rows t, t + 4, t + 8, t + 12
    for (size_t t = 0; t < 4; ++t) {
      const auto piece = [&](size_t r) GEMMA4_INLINE {
        return _mm_load_si128(reinterpret_cast<const __m128i*>(rows + (t + 4 * r) * 64 + four * 4));
      };
      row[t] = _mm512_castsi128_si512(piece(0));
      row[t] = _mm512_mask_broadcast_i32x4(row[t], 0x00f0, piece(1));
      row[t] = _mm512_mask_broadcast_i32x4(row[t], 0x0f00, piece(2));
      row[t] = _mm512_mask_broadcast_i32x4(row[t], 0xf000, piece(3));
    }
    const __m512i a = _mm512_unpacklo_epi32(row[0], row[1]), b = _mm512_unpacklo_epi32(row[2], row[3]);
    const __m512i c = _mm512_unpackhi_epi32(row[0], row[1]), d = _mm512_unpackhi_epi32(row[2], row[3]);
    sink(four, _mm512_unpacklo_epi64(a, b));
    sink(four + 1, _mm512_unpackhi_epi64(a, b));
    sink(four + 2, _mm512_unpacklo_epi64(c, d));
    sink(four + 3, _mm512_unpackhi_epi64(c, d));
  }
}

}  // namespace
}  // namespace gemma4
