// The attention kernels for AArch64's Advanced SIMD.
// Nothing here may have external linkage but attention_neon_kernels, and no inline function of another header may be
// called (see tables.h).
#include "kernels/attention_body.h"
#include "kernels/vec_neon.h"

namespace gemma4 {
namespace {

struct RowsNeon : VecNeon {
  static constexpr int kScores = 16, kSumRows = 8;

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
  static inline F butterfly(F v) {
    alignas(16) static constexpr uint32_t kUpper[4] = {0, h == 1 ? ~0u : 0, h == 2 ? ~0u : 0, ~0u};
    const F other = h == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
    return select(vld1q_u32(kUpper), sub(other, v), add(other, v));
  }
};

constexpr AttentionKernels kTable = make_attention<RowsNeon>();

}  // namespace

const AttentionKernels* attention_neon_kernels() { return &kTable; }

}  // namespace gemma4
