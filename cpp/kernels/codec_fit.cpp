// The writing half of codec.h: which scales and levels lose the least.
// Every fit minimizes the squared error over a list of candidate scales; a candidate is judged with the scale as it
// will be stored, so rounding it to f16 or to six bits is part of the search.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/codec.h"

namespace gemma4::codec {
namespace {

constexpr size_t kMost = 32;  // elements that are fitted together, at most
constexpr float kRound = 12582912.0f;

// The nearest integer (even on a tie), within [low, high].
float round_to(float x, float low, float high) {
  const float clamped = std::min(std::max(x, low), high);
  return (clamped + kRound) - kRound;
}

float as_stored(float f) { return f16_to_f32(f32_to_f16(std::min(std::max(f, -65504.0f), 65504.0f))); }

bool all_finite(const float* x, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; ++i) sum += x[i] * 0.0f;
  return sum == 0;
}

// Levels of x for x ~ scale * q - min, and the squared error they leave.
float assign(const float* x, size_t n, float scale, float min, float low, float high, float* q) {
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  float error = 0;
  for (size_t i = 0; i < n; ++i) {
    q[i] = round_to((x[i] + min) * inverse, low, high);
    const float e = scale * q[i] - min - x[i];
    error += e * e;
  }
  return error;
}

struct Fit {
  float scale = 0, min = 0;
  float error = INFINITY;
};

// The value of the largest magnitude, with its sign.
float extreme(const float* x, size_t n) {
  float most = 0;
  for (size_t i = 0; i < n; ++i)
    if (std::abs(x[i]) > std::abs(most)) most = x[i];
  return most;
}

// x ~ scale * q with q in [low, -low - 1]. `store` rounds a scale as the format will. The first candidate maps the
// extreme to `low`: the grid of a model that was trained for this format.
template <class Store>
Fit fit_symmetric(const float* x, size_t n, float low, Store store) {
  const float most = extreme(x, n), high = -low - 1;
  Fit best;
  float q[kMost];
  auto consider = [&](float scale) {
    const float stored = store(scale);
    const float error = assign(x, n, stored, 0, low, high, q);
    if (error < best.error) best = {stored, 0, error};
  };
  consider(most / low);
  if (best.error == 0) return best;
  for (int step = -9; step <= 9; ++step) {
    const float scale = most / (low * (1.0f + 0.0125f * static_cast<float>(step)) + (step > 0 ? 0.0f : 1.0f));
    consider(scale);
    // The scale that is best for these levels.
    float xq = 0, qq = 0;
    for (size_t i = 0; i < n; ++i) xq += x[i] * q[i], qq += q[i] * q[i];
    if (qq > 0) consider(xq / qq);
  }
  return best;
}

// x ~ scale * q - min with q in [0, high], scale and min >= 0.
Fit fit_affine(const float* x, size_t n, float high) {
  const float bottom = std::min(0.0f, *std::min_element(x, x + n)), top = *std::max_element(x, x + n);
  if (top <= bottom) return {0, -bottom, 0};
  Fit best;
  float q[kMost];
  for (int step = -6; step <= 10; ++step) {
    float scale = (top - bottom) / (high + 0.12f * static_cast<float>(step)), min = -bottom;
    float error = assign(x, n, scale, min, 0, high, q);
    if (error < best.error) best = {scale, min, error};
    // Scale and minimum that are best for these levels.
    float sq = 0, sqq = 0, sx = 0, sxq = 0;
    for (size_t i = 0; i < n; ++i) sq += q[i], sqq += q[i] * q[i], sx += x[i], sxq += x[i] * q[i];
    const float count = static_cast<float>(n), determinant = count * sqq - sq * sq;
    if (determinant <= 0) continue;
    scale = (count * sxq - sq * sx) / determinant;
    min = (sq * sxq - sqq * sx) / determinant;
    if (min < 0) min = 0, scale = sxq / sqq;
    if (!(scale > 0)) continue;
    error = assign(x, n, scale, min, 0, high, q);
    if (error < best.error) best = {scale, min, error};
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

// Scales, minimums and levels of a Q4_K or Q5_K block.
template <class Block>
void fit_block(const float* x, float high, Block& out, uint8_t* level) {
  Fit fit[8];
  float most_scale = 0, most_min = 0;
  for (int b = 0; b < 8; ++b) {
    fit[b] = fit_affine(x + b * kBlock, kBlock, high);
    most_scale = std::max(most_scale, fit[b].scale);
    most_min = std::max(most_min, fit[b].min);
  }
  const float d = as_stored(most_scale / 63), dmin = as_stored(most_min / 63);
  uint8_t scales[8], mins[8];
  for (int b = 0; b < 8; ++b) {
    const float* block = x + b * kBlock;
    // Six bits are coarse: the neighbours are tried too.
    const float s0 = round_to(d > 0 ? fit[b].scale / d : 0, 0, 63),
                m0 = round_to(dmin > 0 ? fit[b].min / dmin : 0, 0, 63);
    float best = INFINITY, q[kMost];
    for (float s = std::max(0.0f, s0 - 1); s <= std::min(63.0f, s0 + 1); ++s) {
      for (float m = std::max(0.0f, m0 - 1); m <= std::min(63.0f, m0 + 1); ++m) {
        const float error = assign(block, kBlock, d * s, dmin * m, 0, high, q);
        if (error >= best) continue;
        best = error;
        scales[b] = static_cast<uint8_t>(s);
        mins[b] = static_cast<uint8_t>(m);
        for (size_t i = 0; i < kBlock; ++i) level[b * kBlock + i] = static_cast<uint8_t>(q[i]);
      }
    }
  }
  out.d = f32_to_f16(d);
  out.dmin = f32_to_f16(dmin);
  write_scales(scales, mins, out.scales);
}

// The low four bits of the levels of Q4_K and Q5_K.
void pack_nibbles(const uint8_t* level, uint8_t* out) {
  for (size_t i = 0; i < 128; ++i) {
    const size_t first = i / 32 * 64 + i % 32;
    out[i] = static_cast<uint8_t>((level[first] & 15) | (level[first + 32] & 15) << 4);
  }
}

void write(const float* x, BlockQ8_0& out) {
  const float d = as_stored(std::abs(extreme(x, kBlock)) / 127);
  float q[kMost];
  assign(x, kBlock, d, 0, -127, 127, q);
  out.d = f32_to_f16(d);
  for (size_t i = 0; i < kBlock; ++i) out.q[i] = static_cast<int8_t>(q[i]);
}

void write(const float* x, BlockQ4_0& out) {
  const Fit fit = fit_symmetric(x, kBlock, -8, as_stored);
  float q[kMost];
  assign(x, kBlock, fit.scale, 0, -8, 7, q);
  out.d = f32_to_f16(fit.scale);
  for (size_t i = 0; i < 16; ++i) {
    out.q[i] = static_cast<uint8_t>(static_cast<int>(q[i] + 8) | static_cast<int>(q[i + 16] + 8) << 4);
  }
}

void write(const float* x, BlockQ4_K& out) {
  uint8_t level[256];
  fit_block(x, 15, out, level);
  pack_nibbles(level, out.q);
}

void write(const float* x, BlockQ5_K& out) {
  uint8_t level[256];
  fit_block(x, 31, out, level);
  pack_nibbles(level, out.q);
  std::memset(out.high, 0, sizeof(out.high));
  for (size_t i = 0; i < 256; ++i) {
    out.high[i % 32] = static_cast<uint8_t>(out.high[i % 32] | (level[i] >> 4) << (i / 32));
  }
}

void write(const float* x, BlockQ6_K& out) {
  float scale[16], most = 0;
  for (int g = 0; g < 16; ++g) {
    scale[g] = fit_symmetric(x + g * 16, 16, -32, [](float s) { return s; }).scale;
    if (std::abs(scale[g]) > std::abs(most)) most = scale[g];
  }
  const float d = as_stored(most / -128);
  out.d = f32_to_f16(d);
  uint8_t level[256];
  for (int g = 0; g < 16; ++g) {
    const float s0 = round_to(d != 0 ? scale[g] / d : 0, -128, 127);
    float best = INFINITY, q[kMost];
    for (float s = std::max(-128.0f, s0 - 1); s <= std::min(127.0f, s0 + 1); ++s) {
      const float error = assign(x + g * 16, 16, d * s, 0, -32, 31, q);
      if (error >= best) continue;
      best = error;
      out.scales[g] = static_cast<int8_t>(s);
      for (size_t i = 0; i < 16; ++i) level[g * 16 + i] = static_cast<uint8_t>(q[i] + 32);
    }
  }
  std::memset(out.low, 0, sizeof(out.low));
  std::memset(out.high, 0, sizeof(out.high));
  for (size_t i = 0; i < 256; ++i) {
    const size_t half = i / 128, block = i / 32 % 4;
    uint8_t& low = out.low[half * 64 + block % 2 * 32 + i % 32];
    uint8_t& high = out.high[half * 32 + i % 32];
    low = static_cast<uint8_t>(low | (level[i] & 15) << (block / 2 * 4));
    high = static_cast<uint8_t>(high | (level[i] >> 4) << (block * 2));
  }
}

}  // namespace

template <class Block>
void from_f32(const float* src, void* dst, size_t n) {
  constexpr size_t kElems = std::is_same_v<Block, BlockQ8_0> || std::is_same_v<Block, BlockQ4_0> ? kBlock : kSuperBlock;
  constexpr uint16_t kNaN = 0x7e00;
  Block* out = static_cast<Block*>(dst);
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
template void from_f32<BlockQ4_K>(const float*, void*, size_t);
template void from_f32<BlockQ5_K>(const float*, void*, size_t);
template void from_f32<BlockQ6_K>(const float*, void*, size_t);

}  // namespace gemma4::codec
