// The attention kernels for AVX2, FMA and F16C.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but attention_avx2_kernels,
// and no inline function of another header may be called (see tables.h).
#include "kernels/attention_body.h"
#include "kernels/vec256.h"

namespace gemma4 {
namespace {

struct Rows256 : Vec256 {
  static constexpr int kScores = 8, kSums = 4;

  static inline void keep(F& v) { asm("" : "+x"(v)); }
  static inline void load_bf16_pairs(const char* p, F& low, F& high) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    low = as_float(_mm256_slli_epi32(both, 16));
    high = as_float(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static inline F load_i8(const char* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static inline void load_i4(const char* p, F& low, F& high) {
    const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m256i eight = _mm256_set1_epi32(8), mask = _mm256_set1_epi32(15);
    low = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(both, mask), eight));
    high = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(both, 4), eight));
  }
  template <int h>
  static inline F swap(F v) {
    return h == 4 ? _mm256_permute2f128_ps(v, v, 1) : _mm256_permute_ps(v, h == 1 ? 0xb1 : 0x4e);
  }
  template <int h>
  static inline F merge(F a, F b) {
    return _mm256_blend_ps(a, b, h == 1 ? 0xaa : h == 2 ? 0xcc : 0xf0);
  }
};

constexpr AttentionKernels kTable = make_attention<Rows256>();

}  // namespace

const AttentionKernels* attention_avx2_kernels() { return &kTable; }

}  // namespace gemma4
