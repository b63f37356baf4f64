// The kernels of full attention for AVX-512 F, BW, DQ, VL, VNNI and BF16: rounded scores in bf16.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but
// full_attention_avx512bf16_kernels, and no inline function of another header may be called (see tables.h).
#include "kernels/bytes512.h"
#include "kernels/full_attention_body.h"

namespace gemma4 {
namespace {

struct Full512 : Bytes512 {
  static constexpr int kTile = 6, kVecs = 4, kRoundedTile = 6;  // 24 of the 32 registers accumulate

  // acc + the products of both bf16 of every word.
  static inline F add_pairs(F acc, F a, F b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
  static inline uint16_t to_bf16(float x) {
    return static_cast<uint16_t>(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)), 0));
  }
};

constexpr FullAttentionKernels kTable = make_full_attention<Full512>();

}  // namespace

const FullAttentionKernels* full_attention_avx512bf16_kernels() { return &kTable; }

}  // namespace gemma4
