// Block formats as tests see them: each element written down from the definition of its format, and matrices of random
// bytes. Knows: where the bits of a format lie. Must not know: the code under test, except the grids of IQ2 and IQ3,
// which the Python tests compare with those of gguf-py.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "half.h"
#include "kernel_testing.h"
#include "kernels/grids.h"
#include "kernels/isa.h"

namespace gemma4 {

inline std::vector<DType> block_formats() {
  std::vector<DType> formats;
  for (const FormatTraits& f : kFormats)
    if (is_block_format(f.dtype)) formats.push_back(f.dtype);
  return formats;
}
inline const std::vector<DType> kBlockFormats = block_formats();

inline double half(const uint8_t* p) {
  Half h;
  std::memcpy(&h, p, 2);
  return static_cast<double>(h);
}

// A number at any address.
template <class T>
T number(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline void put_half(uint8_t* p, double value) {
  const Half h = static_cast<Half>(value);
  std::memcpy(p, &h, 2);
}

// An element as a block has it.
struct Element {
  double scale, quant, min;
  double value() const { return scale * quant - min; }
};

inline Element k_element(const uint8_t* p, size_t i, int quant) {
  const uint8_t* s = p + 4;
  const size_t b = i / 32;
  const int scale = b < 4 ? s[b] & 63 : (s[b + 4] & 15) | (s[b - 4] >> 6) << 4;
  const int min = b < 4 ? s[b + 4] & 63 : (s[b + 4] >> 4) | (s[b] >> 6) << 4;
  return {half(p) * scale, static_cast<double>(quant), half(p + 2) * min};
}

// A quant of Q5_0 or Q5_1, whose bits begin at p.
inline int five_bits(const uint8_t* p, size_t i) {
  uint32_t high;
  std::memcpy(&high, p, 4);
  return ((p[4 + i % 16] >> (i / 16 * 4)) & 15) | static_cast<int>(high >> i & 1) << 4;
}

// What a grid of IQ2 or IQ3 gives for eight elements, with signs.
struct Eight {
  uint64_t quants;
  uint8_t minus;  // a bit an element

  double operator[](size_t i) const {
    const auto quant = static_cast<double>(quants >> (8 * i) & 255);
    return (minus >> i & 1) != 0 ? -quant : quant;
  }
};
inline uint64_t two(uint32_t first, uint32_t second) { return static_cast<uint64_t>(second) << 32 | first; }
// Seven signs; the eighth makes the number of minuses even.
inline uint8_t even(uint32_t seven) { return static_cast<uint8_t>(seven | (std::popcount(seven) & 1) << 7); }
inline int nibble(const uint8_t* p, size_t i) { return p[i / 2] >> (i % 2 * 4) & 15; }

inline Element grid_element(DType t, const uint8_t* p, size_t i) {
  const double d = half(p);
  const size_t b = i / 32, g = i / 16, e = i / 8, f = e % 4;  // block, group, eight, eight of the block
  if (t == DType::kIQ2_XXS) {
    const uint32_t word = number<uint32_t>(p + 2 + 8 * b + 4);
    const Eight eight{grids::kIQ2_XXS.of[p[2 + 8 * b + f]], even(word >> (7 * f) & 127)};
    return {d * (0.5 + (word >> 28)) * 0.25, eight[i % 8], 0};
  }
  if (t == DType::kIQ2_XS) {
    const auto q = number<uint16_t>(p + 2 + 2 * e);
    const Eight eight{grids::kIQ2_XS.of[q & 511], even(q >> 9)};
    return {d * (0.5 + nibble(p + 66, g)) * 0.25, eight[i % 8], 0};
  }
  if (t == DType::kIQ2_S) {
    const int entry = p[2 + e] | (p[66 + b] >> (2 * f) & 3) << 8;
    const Eight eight{grids::kIQ2_S.of[entry], p[34 + e]};
    return {d * (0.5 + nibble(p + 74, g)) * 0.25, eight[i % 8], 0};
  }
  if (t == DType::kIQ3_XXS) {
    const uint32_t word = number<uint32_t>(p + 66 + 4 * b);
    const uint8_t* q = p + 2 + 2 * e;
    const Eight eight{two(grids::kIQ3_XXS.of[q[0]], grids::kIQ3_XXS.of[q[1]]), even(word >> (7 * f) & 127)};
    return {d * (0.5 + (word >> 28)) * 0.5, eight[i % 8], 0};
  }
  const auto entry = [&](size_t n) { return grids::kIQ3_S.of[p[2 + n] | (p[66 + n / 8] >> (n % 8) & 1) << 8]; };
  return {d * (1 + 2 * nibble(p + 106, b)), Eight{two(entry(2 * e), entry(2 * e + 1)), p[74 + e]}[i % 8], 0};
}

inline Element q3_element(const uint8_t* p, size_t i) {
  const size_t b = i / 32, g = i / 16;
  const uint8_t* s = p + 96;
  const int scale = (s[g % 8] >> (g / 8 * 4) & 15) | (s[8 + g % 4] >> (g / 4 * 2) & 3) << 4;
  const int low = p[32 + i / 128 * 32 + i % 32] >> (b % 4 * 2) & 3, high = p[i % 32] >> b & 1;
  return {half(p + 108) * (scale - 32), static_cast<double>(low - (high != 0 ? 0 : 4)), 0};
}

// Element i of the block at p as scale * quant - min, from the definition of the format.
inline Element element(DType t, const uint8_t* p, size_t i) {
  static constexpr double kFour[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  static constexpr double kFP4[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const size_t b = i / 32;
  const auto four = [&](const uint8_t* q) { return q[i % 16] >> (i % 32 / 16 * 4) & 15; };
  switch (t) {
    case DType::kQ5_0:  // what the quants are above may be subtracted apart
      return {half(p), static_cast<double>(five_bits(p + 2, i)), 16 * half(p)};
    case DType::kQ5_1:
      return {half(p), static_cast<double>(five_bits(p + 4, i)), -half(p + 2)};
    case DType::kQ8_0:
      return {half(p), static_cast<double>(static_cast<int8_t>(p[2 + i])), 0};
    case DType::kQ4_0:
      return {half(p), static_cast<double>(four(p + 2) - 8), 0};
    case DType::kQ4_1:
      return {half(p), static_cast<double>(four(p + 4)), -half(p + 2)};
    case DType::kIQ4_NL:
      return {half(p), kFour[four(p + 2)], 0};
    case DType::kMXFP4: {
      const int code = four(p + 1);
      return {std::ldexp(1.0, p[0] - 127), code < 8 ? kFP4[code] : -kFP4[code - 8], 0};
    }
    case DType::kQ2_K: {
      const uint8_t of = p[i / 16];
      return {half(p + 80) * (of & 15), static_cast<double>(p[16 + i / 128 * 32 + i % 32] >> (b % 4 * 2) & 3),
              half(p + 82) * (of >> 4)};
    }
    case DType::kQ3_K:
      return q3_element(p, i);
    case DType::kIQ4_XS: {
      const int scale = nibble(p + 4, b) | (number<uint16_t>(p + 2) >> (2 * b) & 3) << 4;
      return {half(p) * (scale - 32), kFour[four(p + 8 + 16 * b)], 0};
    }
    case DType::kQ4_K:
      return k_element(p, i, (p[16 + b / 2 * 32 + i % 32] >> (b % 2 * 4)) & 15);
    case DType::kQ5_K:
      return k_element(p, i, ((p[48 + b / 2 * 32 + i % 32] >> (b % 2 * 4)) & 15) | ((p[16 + i % 32] >> b) & 1) << 4);
    case DType::kQ6_K: {
      const size_t h = i / 128, q = b % 4;
      const int low = (p[h * 64 + q % 2 * 32 + i % 32] >> (q / 2 * 4)) & 15;
      const int high = (p[128 + h * 32 + i % 32] >> (2 * q)) & 3;
      return {half(p + 208) * static_cast<int8_t>(p[192 + i / 16]), static_cast<double>((low | high << 4) - 32), 0};
    }
    default:
      return grid_element(t, p, i);
  }
}

// Writes the numbers of a block that multiply all of it; MXFP4 has only powers of two.
inline void set_scales(DType t, uint8_t* p, double d, double dmin) {
  if (t == DType::kMXFP4) {
    p[0] = static_cast<uint8_t>(128 + std::ilogb(d == 0 ? 1 : d));
    return;
  }
  put_half(t == DType::kQ6_K ? p + 208 : t == DType::kQ3_K ? p + 108 : t == DType::kQ2_K ? p + 80 : p, d);
  if (t == DType::kQ2_K) put_half(p + 82, dmin);
  if (t == DType::kQ4_K || t == DType::kQ5_K || t == DType::kQ5_1 || t == DType::kQ4_1) put_half(p + 2, dmin);
}

// Random bytes in every field, at an odd address, with a stride longer than the row.
struct Matrix {
  DType dtype;
  size_t rows, cols, stride;
  Guarded<uint8_t> bytes;

  Matrix(DType t, size_t r, size_t k, uint32_t seed, size_t padding = 3)
      : dtype(t), rows(r), cols(k), stride(row_bytes(t, k) + padding), bytes((r - 1) * stride + row_bytes(t, k), 1) {
    std::mt19937 rng(seed);
    std::uniform_real_distribution<double> d(-0.1, 0.1);
    std::uniform_int_distribution<int> byte(0, 255);
    for (size_t i = 0; i < (r - 1) * stride + row_bytes(t, k); ++i) bytes.data()[i] = static_cast<uint8_t>(byte(rng));
    for (size_t i = 0; i < r; ++i) {
      for (size_t b = 0; b < blocks(); ++b) set_scales(t, block(i, b), d(rng), std::abs(d(rng)));
    }
  }
  size_t blocks() const { return cols / traits(dtype).block_elems; }
  uint8_t* row(size_t r) const { return bytes.data() + r * stride; }
  uint8_t* block(size_t r, size_t b) const { return row(r) + b * traits(dtype).block_bytes; }
  Element at(size_t r, size_t i) const {
    const size_t n = traits(dtype).block_elems;
    return element(dtype, block(r, i / n), i % n);
  }
};

}  // namespace gemma4
