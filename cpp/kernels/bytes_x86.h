// What the byte vectors of every x86 instruction set share: prefetches, and what activations are rounded by.
// Knows: AVX2. Must not know: wider registers, block layouts. Internal linkage (see body.h).
#pragma once

#include <immintrin.h>

#include "kernels/quant_body.h"

namespace gemma4 {
namespace {

struct Bytes86 {
  // To L2: L1 is for what is in use. An address that is not mapped is ignored. Always inline: GCC
  // takes a function that only prefetches for one without effects and drops its calls.
  GEMMA4_INLINE static inline void prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }
  GEMMA4_INLINE static inline void prefetch_near(const char* p) { _mm_prefetch(p, _MM_HINT_T0); }

  static inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static inline __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

  // The largest of 32 absolute values; NaN if one of them is.
  static inline float most32(const float* x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 most = _mm256_setzero_ps(), bad = most;
    for (int i = 0; i < 4; ++i) {
      const __m256 v = _mm256_loadu_ps(x + 8 * i);
      most = _mm256_max_ps(most, _mm256_andnot_ps(sign, v));
      bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    if (_mm256_movemask_ps(bad) != 0) return __builtin_nanf("");
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static inline int sum16(const int8_t* q) {
    // Sums of absolute differences to zero of the bytes plus 128.
    const __m128i v = _mm_sad_epu8(_mm_xor_si128(load16(q), _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_unpackhi_epi64(v, v))) - 16 * 128;
  }
};

}  // namespace
}  // namespace gemma4
