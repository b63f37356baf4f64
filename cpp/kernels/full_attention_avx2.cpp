// The kernels of full attention for AVX2, FMA and F16C.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but
// full_attention_avx2_kernels, and no inline function of another header may be called (see tables.h).
#include "kernels/bytes256.h"
#include "kernels/full_attention_body.h"

namespace gemma4 {
namespace {

struct Full256 : Bytes256 {
  static constexpr int kTile = 6, kVecs = 2, kRoundedTile = 2;  // 12 of the 16 registers accumulate
  static inline float largest(F a) {
    const __m128 v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 w = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(w, _mm_movehdup_ps(w)));
  }
};

constexpr FullAttentionKernels kTable = make_full_attention<Full256>();

}  // namespace

const FullAttentionKernels* full_attention_avx2_kernels() { return &kTable; }

}  // namespace gemma4
