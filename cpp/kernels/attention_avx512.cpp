// The attention kernels for AVX-512 F, BW, DQ and VL.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but attention_avx512_kernels,
// and no inline function of another header may be called (see tables.h).
#include "kernels/attention_body.h"
#include "kernels/vec512.h"

namespace gemma4 {
namespace {

struct Rows512 : Vec512 {
  static constexpr int kScores = 16, kSums = 8;

  static inline void keep(F& v) { asm("" : "+v"(v)); }
  static inline void load_bf16_pairs(const char* p, F& low, F& high) {
    __m512i both = _mm512_loadu_si512(p);
    asm("" : "+v"(both));
    low = as_float(_mm512_slli_epi32(both, 16));
    high = as_float(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static inline F load_i8(const char* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static inline void load_i4(const char* p, F& low, F& high) {
    const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const F quants = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    low = _mm512_permutexvar_ps(both, quants);  // by the low four bits
    high = _mm512_permutexvar_ps(_mm512_srli_epi32(both, 4), quants);
  }
  template <int h>
  static inline F swap(F v) {
    return h < 4 ? _mm512_permute_ps(v, h == 1 ? 0xb1 : 0x4e) : _mm512_shuffle_f32x4(v, v, h == 4 ? 0xb1 : 0x4e);
  }
  template <int h>
  static inline F merge(F a, F b) {
    return _mm512_mask_blend_ps(h == 1 ? 0xaaaa : h == 2 ? 0xcccc : h == 4 ? 0xf0f0 : 0xff00, a, b);
  }
};

constexpr AttentionKernels kTable = make_attention<Rows512>();

}  // namespace

const AttentionKernels* attention_avx512_kernels() { return &kTable; }

}  // namespace gemma4
