// What the byte vectors of every x86 instruction set share: the scales of a chunk, eight at a time, in 256 bits.
// Knows: AVX2 and F16C, block layouts. Must not know: wider registers. Internal linkage (see body.h).
#pragma once

#include <immintrin.h>

#include "kernels/quant_body.h"

namespace gemma4 {
namespace {

struct Floats8 {
  using F8 = __m256;

  // To the second cache: the first is for what is in use. An address that is not mapped is ignored.
  static inline void prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }
  static inline void prefetch_near(const char* p) { _mm_prefetch(p, _MM_HINT_T0); }

  static inline F8 set8(float a) { return _mm256_set1_ps(a); }
  static inline void store8(float* p, F8 v) { _mm256_storeu_ps(p, v); }
  static inline F8 mul8(F8 a, F8 b) { return _mm256_mul_ps(a, b); }
  static inline F8 minus8(F8 a) { return _mm256_xor_ps(a, set8(-0.0f)); }

  static inline uint16_t half(const void* p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return h;
  }
  static inline float half_to_float(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }
  static inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static inline __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

  static inline F8 from_bytes(uint64_t bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes))));
  }
  static inline uint32_t word(const uint8_t* p) {
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
  }
  // Eight 6-bit numbers: four in the low bits of `first`, four in the nibbles `low` with their top bits from `first`.
  static inline uint64_t sixes(uint32_t first, uint32_t low) {
    const uint32_t second = (low & 0x0f0f0f0fu) | ((first >> 2) & 0x30303030u);
    return (static_cast<uint64_t>(second) << 32) | (first & 0x3f3f3f3fu);
  }
  template <class Block>
  GEMMA4_INLINE static inline F8 six_bit_scales(const Block* b) {
    return mul8(set8(half_to_float(half(&b->d))), from_bytes(sixes(word(b->scales), word(b->scales + 8))));
  }
  template <class Block>
  GEMMA4_INLINE static inline F8 six_bit_minimums(const Block* b) {
    return mul8(set8(half_to_float(half(&b->dmin))), from_bytes(sixes(word(b->scales + 4), word(b->scales + 8) >> 4)));
  }

  static inline void scales(const BlockQ4_K* b, F8* s) { s[0] = six_bit_scales(b); }
  static inline void scales(const BlockQ5_K* b, F8* s) { s[0] = six_bit_scales(b); }
  static inline void scales(const BlockQ6_K* b, F8* s) {
    const __m128i bytes = load16(b->scales);
    const F8 d = set8(half_to_float(half(&b->d)));
    s[0] = mul8(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
    s[1] = mul8(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))));
  }
  static inline F8 minimums(const BlockQ4_K* b) { return six_bit_minimums(b); }
  static inline F8 minimums(const BlockQ5_K* b) { return six_bit_minimums(b); }

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
  // q = x * inverse, rounded to the nearest even; within int8 by the choice of `inverse`.
  static inline void round32(const float* x, float inverse, int8_t* q) {
    const __m256 factor = _mm256_set1_ps(inverse);
    __m256i v[4];
    for (int i = 0; i < 4; ++i) v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), factor));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_permutevar8x32_epi32(bytes, order));
  }
  static inline int sum16(const int8_t* q) {
    // Sums of absolute differences to zero of the bytes plus 128.
    const __m128i v = _mm_sad_epu8(_mm_xor_si128(load16(q), _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_unpackhi_epi64(v, v))) - 16 * 128;
  }
};

}  // namespace
}  // namespace gemma4
