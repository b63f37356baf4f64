#include "kernels/cache_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gemma4 {
namespace {

// The value of the largest magnitude, with its sign; NaN if any value is not finite.
float extreme(const float* x, size_t n) {
  float low = 0, high = 0, zero = 0;
  for (size_t i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    zero += x[i] * 0.0f;
  }
  if (zero != 0) return std::nanf("");
  return high >= -low ? high : low;
}

// The scale as stored, and what x is multiplied with to become a quant. Below 2^-100 the inverse would overflow.
float store_scale(float scale, uint16_t* out) {
  const float kept = std::abs(scale) < 0x1p-100f ? 0.0f : scale;
  *out = f32_to_bf16(kept);
  return kept == 0 || std::isnan(kept) ? 0.0f : 1.0f / bf16_to_f32(*out);
}

// The nearest integer (even on a tie) in [low, high]; 0 where the inverse is 0.
int quant(float x, float inverse, float low, float high) {
  if (inverse == 0) return 0;
  constexpr float kRound = 12582912.0f;
  const float rounded = (x * inverse + kRound) - kRound;
  return static_cast<int>(std::min(std::max(rounded, low), high));
}

void store_q8_row(const float* x, size_t n, char* quants, uint16_t* scales) {
  for (size_t first = 0; first < n; first += kCacheGroup) {
    const size_t count = std::min(kCacheGroup, n - first);
    const float inverse = store_scale(std::abs(extreme(x + first, count)) / 127.0f, scales++);
    for (size_t i = first; i < first + count; ++i) quants[i] = static_cast<char>(quant(x[i], inverse, -127, 127));
  }
}

void store_q4_row(const float* x, size_t n, char* quants, uint16_t* scales) {
  for (size_t first = 0; first < n; first += kCacheGroup) {
    const size_t count = std::min(kCacheGroup, n - first);
    // The extreme becomes -8 and is cut by a twentieth: of 64 values as a rotation makes them, which are close to
    // normal, this loses least (9.3 % of their deviation; 9.5 % without the cut).
    const float inverse = store_scale(extreme(x + first, count) / -8.4f, scales++);
    for (size_t i = 0; i < count; i += kCacheBlock) {
      const float* block = x + first + i;
      char* out = quants + (first + i) / 2;
      for (size_t e = 0; e < kCacheBlock / 2; ++e) {
        const int low = quant(block[e], inverse, -8, 7) + 8, high = quant(block[e + 16], inverse, -8, 7) + 8;
        out[e] = static_cast<char>(low | high << 4);
      }
    }
  }
}

}  // namespace

void store_row(DType t, const float* x, size_t n, char* quants, uint16_t* scales) {
  if (t == DType::kF32) {
    std::memcpy(quants, x, n * sizeof(float));
  } else if (t == DType::kBF16) {
    for (; n > 0; n -= kCacheBlock, x += kCacheBlock) {
      for (size_t i = 0; i < 16; ++i, quants += 4) {
        const uint32_t bits = f32_to_bf16(x[i]) | static_cast<uint32_t>(f32_to_bf16(x[i + 16])) << 16;
        std::memcpy(quants, &bits, sizeof(bits));
      }
    }
  } else if (t == DType::kQ8_0) {
    store_q8_row(x, n, quants, scales);
  } else {
    store_q4_row(x, n, quants, scales);
  }
}

}  // namespace gemma4
