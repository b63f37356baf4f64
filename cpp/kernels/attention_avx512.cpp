// The attention kernels for AVX-512 F, BW, DQ and VL.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but attention_avx512_kernels,
// and no inline function of another header may be called (see tables.h).
#include "kernels/attention_body.h"
#include "kernels/vec512.h"

namespace gemma4 {
namespace {

struct Rows512 : Vec512 {
  static constexpr int kScores = 16, kSumRows = 8;

  static inline F load_i8(const char* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static inline void load_i4(const char* p, F& low, F& high) {
    const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i eight = _mm512_set1_epi32(8), mask = _mm512_set1_epi32(15);
    low = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(both, mask), eight));
    high = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(both, 4), eight));
  }
  template <int h>
  static inline F butterfly(F v) {
    constexpr __mmask16 kUpper = h == 1 ? 0xaaaa : h == 2 ? 0xcccc : h == 4 ? 0xf0f0 : 0xff00;
    const F other =
        h < 4 ? _mm512_permute_ps(v, h == 1 ? 0xb1 : 0x4e) : _mm512_shuffle_f32x4(v, v, h == 4 ? 0xb1 : 0x4e);
    return _mm512_mask_sub_ps(add(other, v), kUpper, other, v);
  }
};

constexpr AttentionKernels kTable = make_attention<Rows512>();

}  // namespace

const AttentionKernels* attention_avx512_kernels() { return &kTable; }

}  // namespace gemma4
