// The attention kernels for AArch64's Advanced SIMD.
// Nothing here may have external linkage but attention_neon_kernels, and no inline function of another header may be
// called (see tables.h).
#include "kernels/attention_body.h"
#include "kernels/vec_neon.h"

namespace gemma4 {
namespace {

struct RowsNeon : VecNeon {
  static constexpr int kScores = 16, kSums = 8;

  static inline void keep(F& v) { asm("" : "+w"(v)); }
  static inline void load_bf16_pairs(const char* p, F& low, F& high) {
    uint32x4_t both;
    memcpy(&both, p, 16);
    low = as_float(vshlq_n_u32(both, 16));
    high = as_float(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
  }
  // Four bytes, widened to 16 bits.
  static inline uint8x8_t load4(const char* p) {
    uint32_t four;
    memcpy(&four, p, 4);
    return vcreate_u8(four);
  }
  static inline F load_i8(const char* p) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load4(p))))));
  }
  static inline void load_i4(const char* p, F& low, F& high) {
    const uint32x4_t both = vmovl_u16(vget_low_u16(vmovl_u8(load4(p))));
    const int32x4_t eight = vdupq_n_s32(8);
    low = vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(vandq_u32(both, vdupq_n_u32(15))), eight));
    high = vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32(both, 4)), eight));
  }
  template <int h>
  static inline F swap(F v) {
    return h == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
  }
  template <int h>
  static inline F merge(F a, F b) {
    alignas(16) static constexpr uint32_t kUpper[4] = {0, h == 1 ? ~0u : 0, h == 2 ? ~0u : 0, ~0u};
    return select(vld1q_u32(kUpper), b, a);
  }
};

constexpr AttentionKernels kTable = make_attention<RowsNeon>();

}  // namespace

const AttentionKernels* attention_neon_kernels() { return &kTable; }

}  // namespace gemma4
