#include "model/resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace gemma4 {
namespace {

// The inputs of each output along one axis, and their weights in fixed point.
struct Taps {
  Taps(size_t from, size_t to);

  std::vector<size_t> first;     // (to)
  std::vector<size_t> count;     // (to)
  size_t stride;                 // weights of one output at most
  std::vector<int32_t> weights;  // (to, stride)  each fits into 16 bits
  int bits = 0;                  // after the point
};

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

Taps::Taps(size_t from, size_t to) : first(to), count(to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double shrink = std::max(scale, 1.0), support = 2 * shrink;
  stride = static_cast<size_t>(std::ceil(support)) * 2 + 1;
  std::vector<double> exact(to * stride);  // (to, stride)
  double largest = 0;
  for (size_t i = 0; i < to; ++i) {
    const double centre = scale * (static_cast<double>(i) + 0.5);
    const auto low = static_cast<int64_t>(centre - support + 0.5), high = static_cast<int64_t>(centre + support + 0.5);
    first[i] = static_cast<size_t>(std::max<int64_t>(low, 0));
    count[i] = std::min(std::min(static_cast<size_t>(high), from) - first[i], stride);
    double* w = &exact[i * stride];
    double sum = 0;
    for (size_t j = 0; j < count[i]; ++j) {
      w[j] = cubic((static_cast<double>(first[i] + j) - centre + 0.5) / shrink);
      sum += w[j];
    }
    for (size_t j = 0; j < count[i]; ++j) largest = std::max(largest, w[j] /= sum);
  }
  while (bits < 22 && static_cast<int>(0.5 + largest * (1 << (bits + 1))) < (1 << 15)) ++bits;
  weights.reserve(exact.size());
  for (const double w : exact) weights.push_back(static_cast<int32_t>((w < 0 ? -0.5 : 0.5) + w * (1 << bits)));
}

uint8_t rounded(int32_t sum, int bits) { return static_cast<uint8_t>(std::clamp(sum >> bits, 0, 255)); }

// in: (from, 3); out: (to, 3)
void across(const Taps& t, const uint8_t* in, size_t to, uint8_t* out) {
  for (size_t i = 0; i < to; ++i) {
    const int32_t half = 1 << (t.bits - 1), *w = &t.weights[i * t.stride];
    int32_t red = half, green = half, blue = half;
    const uint8_t* rgb = in + 3 * t.first[i];
    for (size_t j = 0; j < t.count[i]; ++j, rgb += 3) {
      red += w[j] * rgb[0];
      green += w[j] * rgb[1];
      blue += w[j] * rgb[2];
    }
    *out++ = rounded(red, t.bits);
    *out++ = rounded(green, t.bits);
    *out++ = rounded(blue, t.bits);
  }
}

// Output row i from the rows of in: (from, bytes), which are contiguous.
void down(const Taps& t, const uint8_t* in, size_t bytes, size_t i, int32_t* sums, uint8_t* out) {
  std::fill_n(sums, bytes, 1 << (t.bits - 1));
  for (size_t j = 0; j < t.count[i]; ++j) {
    const int32_t w = t.weights[i * t.stride + j];
    const uint8_t* row = in + (t.first[i] + j) * bytes;
    for (size_t b = 0; b < bytes; ++b) sums[b] += w * row[b];
  }
  for (size_t b = 0; b < bytes; ++b) out[b] = rounded(sums[b], t.bits);
}

}  // namespace

void resample(Interrupt& interrupt, const uint8_t* rgb, size_t stride, PixelGrid from, PixelGrid to, uint8_t* out) {
  const size_t bytes = 3 * to.width;
  std::vector<uint8_t> wide(from.height * bytes);  // (from.height, to.width, 3)
  if (from.width == to.width) {
    for (size_t y = 0; y < from.height; ++y) std::memcpy(&wide[y * bytes], rgb + y * stride, bytes);
  } else {
    const Taps taps(from.width, to.width);
    for (size_t y = 0; y < from.height; ++y) {
      if (y % 64 == 0) interrupt.check();
      across(taps, rgb + y * stride, to.width, &wide[y * bytes]);
    }
  }
  if (from.height == to.height) {
    std::memcpy(out, wide.data(), wide.size());
    return;
  }
  const Taps taps(from.height, to.height);
  std::vector<int32_t> sums(bytes);  // (to.width, 3)
  for (size_t y = 0; y < to.height; ++y) {
    if (y % 64 == 0) interrupt.check();
    down(taps, wide.data(), bytes, y, sums.data(), out + y * bytes);
  }
}

}  // namespace gemma4
