// The float lanes of AArch64's Advanced SIMD (concept in body.h). Knows: 128-bit intrinsics that every AArch64 CPU has.
// Must not know: blocks. Included only by source files that are compiled for these instructions; internal linkage.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/body.h"

namespace gemma4 {
namespace {

struct VecNeon {
  static constexpr size_t kLanes = 4;
  static constexpr int kTileActs = 4;  // 4 rows x 4 = 16 of the 32 registers accumulate
  using F = float32x4_t;
  using U = uint32x4_t;
  using M = uint32x4_t;

  static inline F set(float a) { return vdupq_n_f32(a); }
  static inline F add(F a, F b) { return vaddq_f32(a, b); }
  static inline F sub(F a, F b) { return vsubq_f32(a, b); }
  static inline F mul(F a, F b) { return vmulq_f32(a, b); }
  static inline F div(F a, F b) { return vdivq_f32(a, b); }
  static inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static inline M less(F a, F b) { return vcltq_f32(a, b); }
  static inline M is_nan(F a) { return vmvnq_u32(vceqq_f32(a, a)); }
  static inline F select(M m, F a, F b) { return vbslq_f32(m, a, b); }
  // Not vminq and vmaxq, which keep a NaN of either side.
  static inline F min(F a, F b) { return select(less(a, b), a, b); }
  static inline F max(F a, F b) { return select(less(b, a), a, b); }
  static inline U as_bits(F a) { return vreinterpretq_u32_f32(a); }
  static inline F as_float(U a) { return vreinterpretq_f32_u32(a); }
  static inline U shift_left(U a, int n) { return vshlq_u32(a, vdupq_n_s32(n)); }
  static inline U add_bits(U a, uint32_t b) { return vaddq_u32(a, vdupq_n_u32(b)); }
  static inline F abs(F a) { return vabsq_f32(a); }
  static inline F copy_sign(F a, F sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, a); }
  static inline float sum(F a) { return vaddvq_f32(a); }

  static inline F load(const float* p, All) { return vld1q_f32(p); }
  static inline F load(const float* p, Some lanes) {
    F v = vdupq_n_f32(0.0f);
    memcpy(&v, p, lanes.n * 4);
    return v;
  }
  static inline void store(float* p, F v, All) { vst1q_f32(p, v); }
  static inline void store(float* p, F v, Some lanes) { memcpy(p, &v, lanes.n * 4); }

  // Addresses of halves may be odd: through memcpy, which becomes one unaligned load.
  static inline uint16x4_t load_halves(const char* p, All) {
    uint16x4_t h;
    memcpy(&h, p, 8);
    return h;
  }
  static inline uint16x4_t load_halves(const char* p, Some lanes) {
    uint16x4_t h = vdup_n_u16(0);
    memcpy(&h, p, lanes.n * 2);
    return h;
  }
  static inline void store_halves(char* p, uint16x4_t h, All) { memcpy(p, &h, 8); }
  static inline void store_halves(char* p, uint16x4_t h, Some lanes) { memcpy(p, &h, lanes.n * 2); }

  template <class L>
  static inline F load_bf16(const char* p, L lanes) {
    return as_float(vshll_n_u16(load_halves(p, lanes), 16));
  }
  template <class L>
  static inline void store_bf16(char* p, F v, L lanes) {
    const U u = as_bits(v), high = vshrq_n_u32(u, 16);
    const U rounded = vshrq_n_u32(vaddq_u32(add_bits(u, 0x7fffu), vandq_u32(high, vdupq_n_u32(1))), 16);
    const U quiet = vorrq_u32(high, vdupq_n_u32(0x40));
    store_halves(p, vmovn_u32(vbslq_u32(is_nan(v), quiet, rounded)), lanes);
  }
  static constexpr size_t quant_bytes(All, size_t bits) { return (bits + 1) / 2; }
  static constexpr size_t quant_bytes(Some lanes, size_t bits) { return (lanes.n * bits + 7) / 8; }
  template <int kBits, class L>
  static inline F load_quants(const char* p, L lanes) {
    uint32_t b = 0;
    memcpy(&b, p, quant_bytes(lanes, kBits));
    if constexpr (kBits == 8) {
      const int8x8_t quants = vreinterpret_s8_u32(vdup_n_u32(b));
      return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(quants))));
    } else {
      const int32x4_t first = {0, -kBits, -2 * kBits, -3 * kBits};
      const U u = vandq_u32(vshlq_u32(vdupq_n_u32(b), first), vdupq_n_u32((1u << kBits) - 1));
      return vsubq_f32(vcvtq_f32_u32(u), set(static_cast<float>(1 << (kBits - 1))));
    }
  }
  template <class L>
  static inline F load_f16(const char* p, L lanes) {
    return vcvt_f32_f16(vreinterpret_f16_u16(load_halves(p, lanes)));
  }
  template <class L>
  static inline void store_f16(char* p, F v, L lanes) {
    store_halves(p, vreinterpret_u16_f16(vcvt_f16_f32(v)), lanes);
  }
};

}  // namespace
}  // namespace gemma4
