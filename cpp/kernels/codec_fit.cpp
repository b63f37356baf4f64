// The writing half of codec.h: which scales and quants lose the least.
// Every fit minimizes the squared error over a list of candidate scales; a candidate is judged with the scale as it
// will be stored, so rounding it to f16 or to six bits is part of the search. Four candidates share a vector of the
// compiler's own: any machine has those, and the sums of a candidate have one order everywhere.
#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "kernels/codec.h"
#include "kernels/codec_lattice.h"

namespace gemma4::codec {
namespace {

using F = float __attribute__((vector_size(16)));
using M = int32_t __attribute__((vector_size(16)));
constexpr size_t kLanes = 4;
constexpr float kRound = 12582912.0f;
constexpr float kMostHalf = 65504.0f;

F all(float a) { return F{a, a, a, a}; }
F load(const float* x) {
  F v;
  std::memcpy(&v, x, sizeof(v));
  return v;
}
// One instruction each, which GCC 12 does not find in a comparison and a choice of vectors.
F smaller(F a, F b) {
#if defined(__SSE2__)
  return _mm_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}
F larger(F a, F b) {
#if defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// The nearest integer (even on a tie), within [low, high].
F round_to(F x, F low, F high) { return (smaller(larger(x, low), high) + kRound) - kRound; }
float round_to(float x, float low, float high) { return (std::min(std::max(x, low), high) + kRound) - kRound; }

float as_stored(float f) { return f16_to_f32(f32_to_f16(std::min(std::max(f, -kMostHalf), kMostHalf))); }

F as_stored(F f) {
  const M u = reinterpret_cast<M>(smaller(larger(f, all(-kMostHalf)), all(kMostHalf)));
  const M a = u & 0x7fffffff;
  // Thirteen bits fewer, nearest even; below 2^-14 the grid is that of numbers near a half.
  const M normal = (a + 0xfff + ((a >> 13) & 1)) & ~0x1fff;
  const M small = reinterpret_cast<M>((reinterpret_cast<F>(a) + 0.5f) - 0.5f);
  return reinterpret_cast<F>((a < 0x38800000 ? small : normal) | (u & INT32_MIN));
}

bool all_finite(const float* x, size_t n) {
  F sum = all(0);
  for (size_t i = 0; i < n; i += kLanes) sum += load(x + i) * 0.0f;
  return sum[0] == 0 && sum[1] == 0 && sum[2] == 0 && sum[3] == 0;
}

// x ~ scale * q - min
struct Fit {
  float scale = 0, min = 0;
  float error = INFINITY;
};

// Four of them, with the sums that say which scale and minimum would be best for their quants.
struct Fits {
  F scale, min, error, q, qq, xq;

  template <bool kMin>
  inline __attribute__((always_inline)) void judge(const float* x, size_t n, float low, float high) {
    const F inverse = scale != 0.0f ? 1.0f / scale : all(0);
    error = q = qq = xq = all(0);
    for (size_t i = 0; i < n; ++i) {
      const F shifted = kMin ? x[i] + min : all(x[i]);
      const F quant = round_to(shifted * inverse, all(low), all(high));
      const F e = scale * quant - shifted;
      error += e * e;
      q += quant;
      qq += quant * quant;
      xq += x[i] * quant;
    }
  }
  // Puts the best one into `best` if it is better.
  void offer(Fit& best) const {
    for (size_t l = 0; l < kLanes; ++l)
      if (error[l] < best.error) best = {scale[l], min[l], error[l]};
  }
};

template <size_t N>
void assign(const float* x, const Fit& fit, float low, float high, float (&q)[N]) {
  const float inverse = fit.scale != 0 ? 1.0f / fit.scale : 0.0f;
  for (size_t i = 0; i < N; ++i) q[i] = round_to((x[i] + fit.min) * inverse, low, high);
}

struct Range {
  float bottom, top;
};

Range range(const float* x, size_t n) {
  F bottom = load(x), top = bottom;
  for (size_t i = kLanes; i < n; i += kLanes) bottom = smaller(bottom, load(x + i)), top = larger(top, load(x + i));
  return {std::min({bottom[0], bottom[1], bottom[2], bottom[3]}), std::max({top[0], top[1], top[2], top[3]})};
}

// The value of the largest magnitude, with its sign.
float extreme(const float* x, size_t n) {
  const Range r = range(x, n);
  return -r.bottom >= r.top ? r.bottom : r.top;
}

// x ~ scale * q with q in [low, -low - 1]. `store` rounds scales as the format will. The first candidate maps the
// extreme to `low`: the grid of a model that was trained for this format.
template <class Store>
Fit fit_symmetric(const float* x, size_t n, float low, Store store) {
  const float most = extreme(x, n), high = -low - 1;
  Fit best;
  for (int first = -6; first < 6; first += kLanes) {
    F span;
    for (int l = 0; l < static_cast<int>(kLanes); ++l) {
      const int step = first + l;
      span[l] = low * (1.0f + 0.025f * static_cast<float>(step)) + (step > 0 ? 0.0f : 1.0f);
    }
    if (first == -6) span[0] = low;
    Fits fits;
    fits.scale = store(most / span);
    fits.min = all(0);
    fits.judge<false>(x, n, low, high);
    fits.offer(best);
    if (best.error == 0) return best;
    fits.scale = store(fits.qq > 0.0f ? fits.xq / fits.qq : fits.scale);
    fits.judge<false>(x, n, low, high);
    fits.offer(best);
  }
  return best;
}

// x ~ scale * q - min with q in [0, high], scale and min >= 0.
Fit fit_affine(const float* x, size_t n, float high) {
  Range r = range(x, n);
  r.bottom = std::min(0.0f, r.bottom);
  if (r.top <= r.bottom) return {0, -r.bottom, 0};
  Fit best;
  F sum = all(0);
  for (size_t i = 0; i < n; i += kLanes) sum += load(x + i);
  const float sx = (sum[0] + sum[1]) + (sum[2] + sum[3]), count = static_cast<float>(n);
  for (int first = -6; first < 10; first += 2 * kLanes) {
    const auto step = static_cast<float>(first);
    Fits fits;
    fits.scale = (r.top - r.bottom) / (high + 0.12f * F{step, step + 2, step + 4, step + 6});
    fits.min = all(-r.bottom);
    fits.judge<true>(x, n, 0, high);
    fits.offer(best);
    // Scale and minimum that are best for these quants; where there are none, once more the same.
    const F determinant = count * fits.qq - fits.q * fits.q;
    F scale = (count * fits.xq - fits.q * sx) / determinant, min = (fits.q * fits.xq - fits.qq * sx) / determinant;
    scale = min < 0.0f ? fits.xq / fits.qq : scale;
    min = larger(min, all(0));
    const M usable = (determinant > 0.0f) & (scale > 0.0f);
    fits.scale = usable ? scale : fits.scale;
    fits.min = usable ? min : fits.min;
    fits.judge<true>(x, n, 0, high);
    fits.offer(best);
  }
  return best;
}

void write_scales(const uint8_t* scale, const uint8_t* min, uint8_t* out) {
  for (int i = 0; i < 4; ++i) {
    out[i] = static_cast<uint8_t>(scale[i] | (scale[i + 4] >> 4) << 6);
    out[i + 4] = static_cast<uint8_t>(min[i] | (min[i + 4] >> 4) << 6);
    out[i + 8] = static_cast<uint8_t>((scale[i + 4] & 15) | (min[i + 4] & 15) << 4);
  }
}

// Scales, minimums and quants of a Q4_K or Q5_K block.
template <class Block>
void fit_block(const float* x, float high, Block& out, uint8_t* quant) {
  Fit fit[8];
  float most_scale = 0, most_min = 0;
  for (int b = 0; b < 8; ++b) {
    fit[b] = fit_affine(x + b * kBlock, kBlock, high);
    most_scale = std::max(most_scale, fit[b].scale);
    most_min = std::max(most_min, fit[b].min);
  }
  const float d = as_stored(most_scale / 63), dmin = as_stored(most_min / 63);
  uint8_t scales[8] = {}, mins[8];
  for (int b = 0; b < 8; ++b) {
    const float* block = x + b * kBlock;
    // Six bits are coarse: the neighbours are tried too.
    const float s0 = round_to(d > 0 ? fit[b].scale / d : 0, 0.0f, 63.0f),
                m0 = round_to(dmin > 0 ? fit[b].min / dmin : 0, 0.0f, 63.0f);
    Fit best;
    for (int step = -1; step <= 1; ++step) {
      const float s = std::clamp(s0 + static_cast<float>(step), 0.0f, 63.0f);
      Fits fits;
      fits.scale = all(d * s);
      fits.min = dmin * smaller(larger(m0 + F{-1, 0, 1, 2}, all(0)), all(63));
      const float before = best.error;
      fits.judge<true>(block, kBlock, 0, high);
      fits.offer(best);
      if (best.error < before) scales[b] = static_cast<uint8_t>(s);
    }
    mins[b] = static_cast<uint8_t>(round_to(dmin > 0 ? best.min / dmin : 0, 0.0f, 63.0f));
    float q[kBlock];
    assign(block, best, 0, high, q);
    for (size_t i = 0; i < kBlock; ++i) quant[b * kBlock + i] = static_cast<uint8_t>(q[i]);
  }
  out.d = f32_to_f16(d);
  out.dmin = f32_to_f16(dmin);
  write_scales(scales, mins, out.scales);
}

// The low four bits of the quants of Q4_K and Q5_K.
void pack_nibbles(const uint8_t* quant, uint8_t* out) {
  for (size_t i = 0; i < 128; ++i) {
    const size_t first = i / 32 * 64 + i % 32;
    out[i] = static_cast<uint8_t>((quant[first] & 15) | (quant[first + 32] & 15) << 4);
  }
}

// A block of quants in [low, -low - 1]: those of a lattice, else the ones that lose the least. Returns the scale.
float symmetric(const float* x, int low, float (&q)[kBlock]) {
  int extremes[16];
  for (int quant = -low; quant > 0; --quant) extremes[-low - quant] = quant;
  Lattice lattice;
  if (find_lattice(x, {extremes, static_cast<size_t>(-low)}, low, -low - 1, lattice)) {
    std::ranges::copy(lattice.q, q);
    return lattice.scale;
  }
  const Fit fit = fit_symmetric(x, kBlock, static_cast<float>(low), [](F s) { return as_stored(s); });
  assign(x, fit, static_cast<float>(low), static_cast<float>(-low - 1), q);
  return fit.scale;
}

void write(const float* x, BlockQ8_0& out) {
  // As llama.cpp writes it, or on a lattice of Q4_0, whose quants are quants of Q8_0 too.
  constexpr int kExtremes[] = {127, 8, 7, 6, 5, 4, 3, 2, 1};
  Lattice lattice;
  if (!find_lattice(x, kExtremes, -127, 127, lattice)) {
    lattice.scale = as_stored(std::abs(extreme(x, kBlock)) / 127);
    assign(x, {lattice.scale}, -127, 127, lattice.q);
  }
  out.d = f32_to_f16(lattice.scale);
  for (size_t i = 0; i < kBlock; ++i) out.q[i] = static_cast<int8_t>(lattice.q[i]);
}

void write(const float* x, BlockQ4_0& out) {
  float q[kBlock];
  out.d = f32_to_f16(symmetric(x, -8, q));
  for (size_t i = 0; i < 16; ++i) {
    out.q[i] = static_cast<uint8_t>(static_cast<int>(q[i] + 8) | static_cast<int>(q[i + 16] + 8) << 4);
  }
}

// Quants of five bits of Q5_0 and Q5_1.
template <class Block>
void pack_five_bits(const float (&q)[kBlock], Block& out) {
  std::memset(out.high, 0, sizeof(out.high));
  for (size_t i = 0; i < kBlock; ++i) {
    out.high[i / 8] = static_cast<uint8_t>(out.high[i / 8] | (static_cast<int>(q[i]) >> 4) << (i % 8));
  }
  for (size_t i = 0; i < 16; ++i) {
    out.q[i] = static_cast<uint8_t>((static_cast<int>(q[i]) & 15) | (static_cast<int>(q[i + 16]) & 15) << 4);
  }
}

void write(const float* x, BlockQ5_0& out) {
  float q[kBlock];
  out.d = f32_to_f16(symmetric(x, -16, q));
  for (float& quant : q) quant += 16;
  pack_five_bits(q, out);
}

void write(const float* x, BlockQ5_1& out) {
  const Fit fit = fit_affine(x, kBlock, 31);
  const float d = as_stored(fit.scale), min = as_stored(fit.min);
  float q[kBlock];
  assign(x, {d, min}, 0, 31, q);
  out.d = f32_to_f16(d);
  out.m = f32_to_f16(-min);
  pack_five_bits(q, out);
}

void write(const float* x, BlockQ4_K& out) {
  uint8_t quant[256];
  fit_block(x, 15, out, quant);
  pack_nibbles(quant, out.q);
}

void write(const float* x, BlockQ5_K& out) {
  uint8_t quant[256];
  fit_block(x, 31, out, quant);
  pack_nibbles(quant, out.q);
  std::memset(out.high, 0, sizeof(out.high));
  for (size_t i = 0; i < 256; ++i) {
    out.high[i % 32] = static_cast<uint8_t>(out.high[i % 32] | (quant[i] >> 4) << (i / 32));
  }
}

void write(const float* x, BlockQ6_K& out) {
  float scale[16], most = 0;
  for (int g = 0; g < 16; ++g) {
    scale[g] = fit_symmetric(x + g * 16, 16, -32, [](F s) { return s; }).scale;
    if (std::abs(scale[g]) > std::abs(most)) most = scale[g];
  }
  const float d = as_stored(most / -128);
  out.d = f32_to_f16(d);
  uint8_t quant[256];
  for (int g = 0; g < 16; ++g) {
    const float s0 = round_to(d != 0 ? scale[g] / d : 0, -128.0f, 127.0f);
    Fits fits;
    Fit best;
    fits.scale = d * smaller(larger(s0 + F{0, -1, 1, 2}, all(-128)), all(127));
    fits.min = all(0);
    fits.judge<false>(x + g * 16, 16, -32, 31);
    fits.offer(best);
    out.scales[g] = static_cast<int8_t>(round_to(d != 0 ? best.scale / d : 0, -128.0f, 127.0f));
    float q[16];
    assign(x + g * 16, best, -32, 31, q);
    for (size_t i = 0; i < 16; ++i) quant[g * 16 + i] = static_cast<uint8_t>(q[i] + 32);
  }
  std::memset(out.low, 0, sizeof(out.low));
  std::memset(out.high, 0, sizeof(out.high));
  for (size_t i = 0; i < 256; ++i) {
    const size_t half = i / 128, block = i / 32 % 4;
    uint8_t& low = out.low[half * 64 + block % 2 * 32 + i % 32];
    uint8_t& high = out.high[half * 32 + i % 32];
    low = static_cast<uint8_t>(low | (quant[i] & 15) << (block / 2 * 4));
    high = static_cast<uint8_t>(high | (quant[i] >> 4) << (block * 2));
  }
}

}  // namespace

template <class Block>
void from_f32(const float* src, void* dst, size_t n) {
  constexpr size_t kElems = elements_of<Block>();
  constexpr uint16_t kNaN = 0x7e00;
  auto* out = static_cast<Block*>(dst);
  for (size_t b = 0; b < n / kElems; ++b, src += kElems) {
    if (all_finite(src, kElems)) {
      write(src, out[b]);
    } else {
      std::memset(&out[b], 0, sizeof(Block));
      out[b].d = kNaN;
    }
  }
}

template void from_f32<BlockQ8_0>(const float*, void*, size_t);
template void from_f32<BlockQ4_0>(const float*, void*, size_t);
template void from_f32<BlockQ5_0>(const float*, void*, size_t);
template void from_f32<BlockQ5_1>(const float*, void*, size_t);
template void from_f32<BlockQ4_K>(const float*, void*, size_t);
template void from_f32<BlockQ5_K>(const float*, void*, size_t);
template void from_f32<BlockQ6_K>(const float*, void*, size_t);

}  // namespace gemma4::codec
