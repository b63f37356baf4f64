// The kernels of full attention for AVX-512 F, BW, DQ, VL, VNNI and BF16: rounded scores in bf16.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but
// full_attention_avx512bf16_kernels, and no inline function of another header may be called (see tables.h).
#include "kernels/bytes512.h"
#include "kernels/full_attention_body.h"

namespace gemma4 {
namespace {

struct Full512 : Bytes512 {
  static constexpr int kTile = 6, kVecs = 4, kRoundedTile = 6;  // 24 of the 32 registers accumulate

  static inline F add_pairs(F acc, F a, F b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
  static inline void to_pairs(const float* p, size_t n, float* out) {
    for (size_t i = 0; i < n; i += 32) {
      const size_t left = n - i < 32 ? n - i : 32;
      const auto there = static_cast<__mmask32>((1ull << left) - 1);
      const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(there), p + i);
      const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(there >> 16), p + i + 16);
      const auto words = static_cast<__mmask16>((1ull << (left + 1) / 2) - 1);
      _mm512_mask_storeu_epi32(out + i / 2, words, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
  }
};

constexpr FullAttentionKernels kTable = make_full_attention<Full512>();

}  // namespace

const FullAttentionKernels* full_attention_avx512bf16_kernels() { return &kTable; }

}  // namespace gemma4
