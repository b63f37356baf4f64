#include "kernels/codec_lattice.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace gemma4::codec {
namespace {

constexpr uint16_t kLargestHalf = 0x7bff;
// Rounding to bf16 moves the extreme by 2^-8 of itself at most, which are eight steps of an f16 scale; and its own
// rounding is another.
constexpr int kSteps = 9;

constexpr float kRound = 12582912.0f;  // adding it leaves an integer, the nearest

enum class Store { kF32, kF16, kBF16 };

Store store_of(const float* x) {
  uint32_t bits = 0;
  bool half = true;
  for (size_t i = 0; i < kBlock; ++i) {
    bits |= std::bit_cast<uint32_t>(x[i]);
    half = half && f16_to_f32(f32_to_f16(x[i])) == x[i];
  }
  return (bits & 0xffff) == 0 ? Store::kBF16 : half ? Store::kF16 : Store::kF32;
}

float stored(Store store, float v) {
  if (store == Store::kBF16) return bf16_to_f32(f32_to_bf16(v));
  return store == Store::kF16 ? f16_to_f32(f32_to_f16(v)) : v;
}

// The quants of a scale. A product of an f16 and a quant of eight bits is exact.
bool quants(const float* x, float scale, Store store, int low, int high, float (&q)[kBlock]) {
  for (size_t i = 0; i < kBlock; ++i) {
    q[i] = (x[i] / scale + kRound) - kRound;
    if (q[i] < static_cast<float>(low) || q[i] > static_cast<float>(high)) return false;
    if (stored(store, scale * q[i]) != x[i]) return false;
  }
  return true;
}

}  // namespace

bool find_lattice(const float* x, std::span<const int> extremes, int low, int high, Lattice& out) {
  float most = 0;
  for (size_t i = 0; i < kBlock; ++i) most = std::abs(x[i]) > std::abs(most) ? x[i] : most;
  if (most == 0) return false;
  const Store store = store_of(x);
  const auto matches = [&](uint16_t scale, Store kept) {
    out.scale = f16_to_f32(scale);
    return quants(x, out.scale, kept, low, high, out.q);
  };
  const auto nearest = [&](int quant) {
    return f32_to_f16(quant > high ? -most / static_cast<float>(quant) : std::abs(most) / static_cast<float>(quant));
  };
  const auto usable = [](int magnitude) { return magnitude > 0 && magnitude <= kLargestHalf; };
  for (const int quant : extremes) {
    const uint16_t scale = nearest(quant);
    if (usable(scale & 0x7fff) && matches(scale, Store::kF32)) return true;
  }
  if (store == Store::kF32) return false;
  for (const int quant : extremes) {
    const uint16_t scale = nearest(quant);
    for (int step = 0; step <= 2 * kSteps; ++step) {  // 0, 1, -1, 2, -2 ...
      const int magnitude = (scale & 0x7fff) + (step % 2 ? step + 1 : -step) / 2;
      if (usable(magnitude) && matches(static_cast<uint16_t>((scale & 0x8000) | magnitude), store)) return true;
    }
  }
  return false;
}

}  // namespace gemma4::codec
