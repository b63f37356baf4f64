// The kernels of full attention for AArch64's Advanced SIMD with dot products.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but
// full_attention_neon_kernels, and no inline function of another header may be called (see tables.h).
#include "kernels/bytes_neon.h"
#include "kernels/full_attention_body.h"

namespace gemma4 {
namespace {

struct FullNeon : BytesNeon {
  static constexpr int kTile = 6, kVecs = 4, kRoundedTile = 3;  // 24 of the 32 registers accumulate
  static inline float largest(F a) { return vmaxvq_f32(a); }
};

constexpr FullAttentionKernels kTable = make_full_attention<FullNeon>();

}  // namespace

const FullAttentionKernels* full_attention_neon_kernels() { return &kTable; }

}  // namespace gemma4
