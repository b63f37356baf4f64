// The byte lanes of AArch64 with dot products (concept in quant_body.h). Knows: Advanced SIMD with FEAT_DotProd.
// Must not know: other instruction sets. Internal linkage (see body.h).
//
// sdot multiplies signed by signed bytes and adds four products to each 32-bit lane, so quants of up to 6 bits and the
// signed bytes of Q8_0 need no correction for signs, and nothing can saturate.
#pragma once

#include "kernels/quant_body.h"
#include "kernels/vec_neon.h"

namespace gemma4 {
namespace {

struct BytesNeon : VecNeon {
  static constexpr size_t kBytes = 16;
  static constexpr int kByteZero = 0;  // Q8_0 stays signed
  static constexpr int kStreamActs = 4;
  static constexpr int kStreamedTogether = 4;
  static constexpr int kTileVecs = 4, kFewActsInt8 = 2;
  template <int kBits>
  static constexpr int kTileActsInt8 = 3;    // 12 sums in f32 and 12 in i32 of the 32 registers
  static constexpr size_t kPanelChunks = 4;  // with 16 rows 16 KiB
  using B = int8x16_t;
  using I = int32x4_t;
  using P = int32x4_t;
  template <int kBits>
  static constexpr int kQuads = 64;  // 32-bit sums hold any number of quads

  // Always inline: GCC takes a function that only prefetches for one without effects and drops its calls.
  GEMMA4_INLINE static inline void prefetch(const char* p) { __builtin_prefetch(p, 0, 2); }
  GEMMA4_INLINE static inline void prefetch_near(const char* p) { __builtin_prefetch(p, 0, 3); }

  static inline B load_bytes(const void* p) { return vld1q_s8(static_cast<const int8_t*>(p)); }
  static inline void store_bytes(void* p, B v) { vst1q_s8(static_cast<int8_t*>(p), v); }
  static inline B repeat4(const int8_t* p) {
    int32_t quad;
    memcpy(&quad, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(quad));
  }
  static inline I set_int(int32_t a) { return vdupq_n_s32(a); }
  static inline F to_float(I a) { return vcvtq_f32_s32(a); }

  static inline P begin(I total) { return total; }
  template <int kBits>
  static inline P quad(P p, B u, B q) {
    return vdotq_s32(p, u, q);
  }
  static inline I end(I, P p) { return p; }

  static inline B nibble_mask() { return vdupq_n_s8(15); }
  static inline B both(B a, B b) { return vandq_s8(a, b); }
  static inline B nibbles(B v) { return vandq_s8(v, vdupq_n_s8(15)); }
  // Every byte shifted by kLeft places, right where it is negative.
  template <int kLeft>
  static inline B shifted(B v) {
    if constexpr (kLeft == 0) return v;
    return vreinterpretq_s8_u8(vshlq_u8(vreinterpretq_u8_s8(v), vdupq_n_s8(kLeft)));
  }
  static inline B and_bytes(B v, int8_t mask) { return vandq_s8(v, vdupq_n_s8(mask)); }
  static inline B or_bytes(B a, B b) { return vorrq_s8(a, b); }
  static inline B biased(B v) { return v; }
  static inline B first_of_four(B v) { return vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(v), 0)); }
  static inline B fifth_bits(B v) {
    const uint32x4_t bits = vandq_u32(vreinterpretq_u32_s8(v), vdupq_n_u32(15));
    return and_bytes(vreinterpretq_s8_u32(vmulq_n_u32(bits, kFifthBits)), 16);
  }

  static inline B shifted_lanes(B v, I n) {
    return vreinterpretq_s8_u32(vshlq_u32(vreinterpretq_u32_s8(v), vnegq_s32(n)));
  }
  static inline I load_ints(const int32_t* p) { return vld1q_s32(p); }

  static inline B load_groups(const char* p, size_t) { return load_bytes(p); }

  static inline F load_int8(const int8_t* p) {
    int8x8_t v = vdup_n_s8(0);
    memcpy(&v, p, 4);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(v))));
  }
  static inline F f16_pairs(const char* p) {
    uint32_t pair;
    memcpy(&pair, p, 4);
    return vcvt_f32_f16(vreinterpret_f16_u32(vdup_n_u32(pair)));
  }
  // Bytes 4 * lane ... 4 * lane + 3 of a table.
  static inline uint8x16_t bytes_of(I lanes) {
    return vreinterpretq_u8_u32(vmlaq_n_u32(vdupq_n_u32(0x03020100), vreinterpretq_u32_s32(lanes), 0x04040404));
  }
  static inline F pick(F v, I at) {
    const uint8x16_t bytes = bytes_of(vandq_s32(at, vdupq_n_s32(3)));
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(v), bytes));
  }
  static inline F pick(F a, F b, I at) {
    const uint8x16x2_t table = {vreinterpretq_u8_f32(a), vreinterpretq_u8_f32(b)};
    return vreinterpretq_f32_u8(vqtbl2q_u8(table, bytes_of(at)));
  }

  static inline void load_rows(const char* const* p, size_t at, size_t stride, B (&v)[4]) {
    int32x4_t w[4];
    for (size_t t = 0; t < 4; ++t) w[t] = vreinterpretq_s32_s8(load_bytes(p[0] + at + t * stride));
    const int32x4_t a = vtrn1q_s32(w[0], w[1]), b = vtrn2q_s32(w[0], w[1]);
    const int32x4_t c = vtrn1q_s32(w[2], w[3]), d = vtrn2q_s32(w[2], w[3]);
    v[0] = join(vget_low_s32(a), vget_low_s32(c));
    v[1] = join(vget_low_s32(b), vget_low_s32(d));
    v[2] = join(vget_high_s32(a), vget_high_s32(c));
    v[3] = join(vget_high_s32(b), vget_high_s32(d));
  }
  static inline B join(int32x2_t low, int32x2_t high) { return vreinterpretq_s8_s32(vcombine_s32(low, high)); }

  static inline F low_halves(B v) { return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vreinterpretq_u32_s8(v)))); }
  static inline F high_halves(B v) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(vreinterpretq_u32_s8(v), 16)));
  }
  template <int i>
  static inline F unsigned_byte(B v) {
    return vcvtq_f32_u32(vandq_u32(vshlq_u32(vreinterpretq_u32_s8(v), vdupq_n_s32(-8 * i)), vdupq_n_u32(255)));
  }
  template <int i>
  static inline F signed_byte(B v) {
    return vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(vreinterpretq_s32_s8(v), vdupq_n_s32(24 - 8 * i)), 24));
  }

  // The largest of 32 absolute values; NaN if one of them is.
  static inline float most32(const float* x) {
    float32x4_t most = vdupq_n_f32(0.0f);
    for (int i = 0; i < 8; ++i) most = vmaxq_f32(most, vabsq_f32(vld1q_f32(x + 4 * i)));
    return vmaxvq_f32(most);
  }
  // q = x * inverse, rounded to the nearest even; within int8 by the choice of `inverse`.
  static inline void round32(const float* x, float inverse, int8_t* q) {
    for (int i = 0; i < 32; i += 8) {
      const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), inverse));
      const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), inverse));
      vst1_s8(q + i, vqmovn_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b))));
    }
  }
  static inline int sum16(const int8_t* q) { return vaddlvq_s8(vld1q_s8(q)); }
};

}  // namespace
}  // namespace gemma4
