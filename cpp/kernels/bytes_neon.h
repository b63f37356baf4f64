// The byte lanes of AArch64 with dot products (concept in quant_body.h). Knows: Advanced SIMD with FEAT_DotProd.
// Must not know: other instruction sets. Internal linkage (see body.h).
//
// sdot multiplies signed by signed bytes and adds four products to each 32-bit lane, so levels of up to 6 bits and the
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
  static constexpr int kTileVecs = 4, kFewActsInt8 = 2;
  template <int kBits>
  static constexpr int kTileActsInt8 = 3;    // 12 sums in f32 and 12 in i32 of the 32 registers
  static constexpr size_t kPanelChunks = 4;  // with 16 rows 16 KiB
  using B = int8x16_t;
  using I = int32x4_t;
  using P = int32x4_t;
  struct F8 {
    float32x4_t low, high;
  };

  template <int kBits>
  static constexpr int kQuads = 64;  // 32-bit sums hold any number of quads

  static inline void prefetch(const char* p) { __builtin_prefetch(p, 0, 2); }
  static inline void prefetch_near(const char* p) { __builtin_prefetch(p, 0, 3); }

  static inline void store8(float* p, F8 v) {
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
  }
  static inline F8 mul8(F8 a, F8 b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
  static inline F8 minus8(F8 a) { return {vnegq_f32(a.low), vnegq_f32(a.high)}; }

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
  static inline F as_floats(B v) { return vreinterpretq_f32_s8(v); }

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

  static inline F8 from_halves(uint16x8_t h) {
    const float16x8_t v = vreinterpretq_f16_u16(h);
    return {vcvt_f32_f16(vget_low_f16(v)), vcvt_f32_f16(vget_high_f16(v))};
  }
  static inline uint16_t half(const void* p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return h;
  }
  static inline F8 set_half(const void* p) { return from_halves(vdupq_n_u16(half(p))); }
  static inline F8 from_bytes(uint64_t bytes) {
    const uint16x8_t wide = vmovl_u8(vcreate_u8(bytes));
    return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(wide)))};
  }
  static inline F8 from_signed(int8x8_t bytes) {
    const int16x8_t wide = vmovl_s8(bytes);
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(wide)))};
  }
  static inline uint32_t word(const uint8_t* p) {
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
  }
  // Eight 6-bit numbers: four in the low bits of `first`, four in the nibbles `low` with their top bits from `first`.
  static inline uint64_t sixes(uint32_t first, uint32_t low) {
    const uint32_t second = (low & 0x0f0f0f0fu) | ((first >> 2) & 0x30303030u);
    return (static_cast<uint64_t>(second) << 32) | (first & 0x3f3f3f3fu);
  }
  template <class Block>
  static inline F8 six_bit_scales(const Block* b) {
    return mul8(set_half(&b->d), from_bytes(sixes(word(b->scales), word(b->scales + 8))));
  }
  template <class Block>
  static inline F8 six_bit_minimums(const Block* b) {
    return mul8(set_half(&b->dmin), from_bytes(sixes(word(b->scales + 4), word(b->scales + 8) >> 4)));
  }

  static inline void scales(const BlockQ4_K* b, F8* s) { s[0] = six_bit_scales(b); }
  static inline void scales(const BlockQ5_K* b, F8* s) { s[0] = six_bit_scales(b); }
  static inline void scales(const BlockQ6_K* b, F8* s) {
    const int8x16_t bytes = load_bytes(b->scales);
    const F8 d = set_half(&b->d);
    s[0] = mul8(d, from_signed(vget_low_s8(bytes)));
    s[1] = mul8(d, from_signed(vget_high_s8(bytes)));
  }
  static inline F8 minimums(const BlockQ4_K* b) { return six_bit_minimums(b); }
  static inline F8 minimums(const BlockQ5_K* b) { return six_bit_minimums(b); }

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
