// The float lanes of AVX2 with FMA and F16C. Knows: 256-bit intrinsics. Must not know: anything of 512 bits.
// Included only by source files that are compiled for these instructions; internal linkage (see body.h).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/body.h"

namespace gemma4 {
namespace {

struct Vec256 {
  static constexpr size_t kLanes = 8;
  static constexpr int kTileActs = 2;  // 4 rows x 2 = 8 of the 16 registers accumulate
  using F = __m256;
  using U = __m256i;
  using M = __m256;

  static inline F set(float a) { return _mm256_set1_ps(a); }
  static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
  static inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static inline F div(F a, F b) { return _mm256_div_ps(a, b); }
  static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static inline M less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static inline M is_nan(F a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
  static inline F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
  static inline F min(F a, F b) { return _mm256_min_ps(a, b); }
  static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
  static inline U as_bits(F a) { return _mm256_castps_si256(a); }
  static inline F as_float(U a) { return _mm256_castsi256_ps(a); }
  static inline U shift_left(U a, int n) { return _mm256_slli_epi32(a, n); }
  static inline U add_bits(U a, uint32_t b) { return _mm256_add_epi32(a, _mm256_set1_epi32(static_cast<int>(b))); }
  static inline F abs(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
  static inline F copy_sign(F a, F sign) { return _mm256_or_ps(a, _mm256_and_ps(set(-0.0f), sign)); }
  static inline float sum(F a) {
    __m128 v = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
  }

  static inline __m256i mask(Some lanes) {
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes.n)), index);
  }
  static inline F load(const float* p, All) { return _mm256_loadu_ps(p); }
  static inline F load(const float* p, Some lanes) { return _mm256_maskload_ps(p, mask(lanes)); }
  static inline void store(float* p, F v, All) { _mm256_storeu_ps(p, v); }
  static inline void store(float* p, F v, Some lanes) { _mm256_maskstore_ps(p, mask(lanes), v); }

  static inline __m128i load_halves(const char* p, All) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static inline __m128i load_halves(const char* p, Some lanes) {
    __m128i h = _mm_setzero_si128();
    memcpy(&h, p, lanes.n * 2);
    return h;
  }
  static inline void store_halves(char* p, __m128i h, All) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), h); }
  static inline void store_halves(char* p, __m128i h, Some lanes) { memcpy(p, &h, lanes.n * 2); }

  template <class L>
  static inline F load_bf16(const char* p, L lanes) {
    return as_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(p, lanes)), 16));
  }
  template <class L>
  static inline void store_bf16(char* p, F v, L lanes) {
    U u = as_bits(v);
    U high = _mm256_srli_epi32(u, 16);
    U even = _mm256_and_si256(high, _mm256_set1_epi32(1));
    U rounded = _mm256_srli_epi32(_mm256_add_epi32(add_bits(u, 0x7fffu), even), 16);
    U quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    U out = as_bits(select(is_nan(v), as_float(quiet), as_float(rounded)));
    store_halves(p, _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1)), lanes);
  }
  static constexpr size_t quant_bytes(All, size_t bits) { return bits; }
  static constexpr size_t quant_bytes(Some lanes, size_t bits) { return (lanes.n * bits + 7) / 8; }
  template <int kBits, class L>
  static inline F load_quants(const char* p, L lanes) {
    if constexpr (kBits == 8) {
      int64_t b = 0;
      memcpy(&b, p, quant_bytes(lanes, 8));
      return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(b)));
    } else {
      int32_t b = 0;
      memcpy(&b, p, quant_bytes(lanes, kBits));
      __m256i first = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(kBits));
      __m256i u = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(b), first), _mm256_set1_epi32((1 << kBits) - 1));
      return _mm256_cvtepi32_ps(_mm256_sub_epi32(u, _mm256_set1_epi32(1 << (kBits - 1))));
    }
  }
  template <class L>
  static inline F load_f16(const char* p, L lanes) {
    return _mm256_cvtph_ps(load_halves(p, lanes));
  }
  template <class L>
  static inline void store_f16(char* p, F v, L lanes) {
    store_halves(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), lanes);
  }
};

}  // namespace
}  // namespace gemma4
