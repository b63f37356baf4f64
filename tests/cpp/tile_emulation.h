// AMX in plain loops, for processors without: tiles in memory, products as Intel's manual describes them (SDM volume 2,
// TDPBSSD and TDPBF16PS; here without the flushing of subnormal numbers). Included before everything else in the source
// files of AMX with -DGEMMA4_EMULATE_TILES=ON (tests/amx.sh). Knows: the intrinsics that these files use.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gemma4 {
namespace {

thread_local unsigned char emulated_tiles[8][16][64];

[[maybe_unused]] void emulated_load(int to, const void* from, size_t stride) {
  for (size_t r = 0; r < 16; ++r) memcpy(emulated_tiles[to][r], static_cast<const char*>(from) + r * stride, 64);
}
[[maybe_unused]] void emulated_store(int from, void* to, size_t stride) {
  for (size_t r = 0; r < 16; ++r) memcpy(static_cast<char*>(to) + r * stride, emulated_tiles[from][r], 64);
}
[[maybe_unused]] void emulated_zero(int tile) { memset(emulated_tiles[tile], 0, sizeof emulated_tiles[tile]); }

// sums[m][n] += multiply(word k of a's row m, word n of b's row k) for all k, in order.
template <class Number, class Multiply>
void emulated_product(int sums, int a, int b, Multiply multiply) {
  for (size_t m = 0; m < 16; ++m) {
    for (size_t n = 0; n < 16; ++n) {
      Number sum;
      memcpy(&sum, &emulated_tiles[sums][m][4 * n], 4);
      for (size_t k = 0; k < 16; ++k) sum = multiply(sum, &emulated_tiles[a][m][4 * k], &emulated_tiles[b][k][4 * n]);
      memcpy(&emulated_tiles[sums][m][4 * n], &sum, 4);
    }
  }
}
[[maybe_unused]] void emulated_dpbssd(int sums, int a, int b) {
  emulated_product<int32_t>(sums, a, b, [](int32_t sum, const unsigned char* x, const unsigned char* y) {
    for (size_t i = 0; i < 4; ++i) sum += static_cast<int8_t>(x[i]) * static_cast<int8_t>(y[i]);
    return sum;
  });
}
[[maybe_unused]] void emulated_dpbf16ps(int sums, int a, int b) {
  const auto bf16 = [](const unsigned char* p) {
    const uint32_t bits = static_cast<uint32_t>(p[0]) << 16 | static_cast<uint32_t>(p[1]) << 24;
    float f;
    memcpy(&f, &bits, 4);
    return f;
  };
  emulated_product<float>(sums, a, b, [&](float sum, const unsigned char* x, const unsigned char* y) {
    return sum + bf16(x) * bf16(y) + bf16(x + 2) * bf16(y + 2);
  });
}

}  // namespace
}  // namespace gemma4

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig(shapes) static_cast<void>(shapes)
#define _tile_release() static_cast<void>(0)
#define _tile_loadd(tile, from, stride) gemma4::emulated_load(tile, from, stride)
#define _tile_stored(tile, to, stride) gemma4::emulated_store(tile, to, stride)
#define _tile_zero(tile) gemma4::emulated_zero(tile)
#define _tile_dpbssd(sums, a, b) gemma4::emulated_dpbssd(sums, a, b)
#define _tile_dpbf16ps(sums, a, b) gemma4::emulated_dpbf16ps(sums, a, b)
