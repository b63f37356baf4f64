// The float lanes of AVX-512 F, BW, DQ and VL. Knows: 512-bit intrinsics and masks. Must not know: VNNI, BF16, AMX.
// Included only by source files that are compiled for these instructions; internal linkage (see body.h).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/body.h"

namespace gemma4 {
namespace {

struct Vec512 {
  static constexpr size_t kLanes = 16;
  static constexpr int kTileActs = 4;  // 4 rows x 4 = 16 of the 32 registers accumulate
  using F = __m512;
  using U = __m512i;
  using M = __mmask16;

  static inline F set(float a) { return _mm512_set1_ps(a); }
  static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
  static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
  static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static inline M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static inline M is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
  static inline F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
  static inline F min(F a, F b) { return _mm512_min_ps(a, b); }
  static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
  static inline U as_bits(F a) { return _mm512_castps_si512(a); }
  static inline F as_float(U a) { return _mm512_castsi512_ps(a); }
  static inline U shift_left(U a, unsigned n) { return _mm512_slli_epi32(a, n); }
  static inline U add_bits(U a, uint32_t b) { return _mm512_add_epi32(a, _mm512_set1_epi32(static_cast<int>(b))); }
  static inline F abs(F a) { return _mm512_andnot_ps(set(-0.0f), a); }
  static inline F copy_sign(F a, F sign) { return _mm512_or_ps(a, _mm512_and_ps(set(-0.0f), sign)); }
  static inline float sum(F a) {
    __m256 w = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 v = _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
  }
  static inline float largest(F a) { return _mm512_reduce_max_ps(a); }

  static inline __mmask16 mask(Some lanes) { return static_cast<__mmask16>((1u << lanes.n) - 1u); }
  static inline F load(const float* p, All) { return _mm512_loadu_ps(p); }
  static inline F load(const float* p, Some lanes) { return _mm512_maskz_loadu_ps(mask(lanes), p); }
  static inline void store(float* p, F v, All) { _mm512_storeu_ps(p, v); }
  static inline void store(float* p, F v, Some lanes) { _mm512_mask_storeu_ps(p, mask(lanes), v); }

  static inline __m256i load_halves(const char* p, All) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static inline __m256i load_halves(const char* p, Some lanes) { return _mm256_maskz_loadu_epi16(mask(lanes), p); }
  static inline void store_halves(char* p, __m256i h, All) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), h); }
  static inline void store_halves(char* p, __m256i h, Some lanes) { _mm256_mask_storeu_epi16(p, mask(lanes), h); }

  template <class L>
  static inline F load_bf16(const char* p, L lanes) {
    return as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_halves(p, lanes)), 16));
  }
  template <class L>
  static inline void store_bf16(char* p, F v, L lanes) {
    U u = as_bits(v);
    U high = _mm512_srli_epi32(u, 16);
    U even = _mm512_and_si512(high, _mm512_set1_epi32(1));
    U rounded = _mm512_srli_epi32(_mm512_add_epi32(add_bits(u, 0x7fffu), even), 16);
    U quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    store_halves(p, _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(is_nan(v), rounded, quiet)), lanes);
  }
  static constexpr size_t quant_bytes(All, size_t bits) { return 2 * bits; }
  static constexpr size_t quant_bytes(Some lanes, size_t bits) { return (lanes.n * bits + 7) / 8; }
  template <int kBits, class L>
  static inline F load_quants(const char* p, L lanes) {
    __m128i b = _mm_setzero_si128();
    memcpy(&b, p, quant_bytes(lanes, kBits));
    if constexpr (kBits == 8) {
      return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b));
    } else {
      constexpr int kPerWord = 32 / kBits;
      __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      __m512i word = _mm512_srli_epi32(lane, kPerWord == 8 ? 3 : 4);
      __m512i first =
          _mm512_mullo_epi32(_mm512_and_si512(lane, _mm512_set1_epi32(kPerWord - 1)), _mm512_set1_epi32(kBits));
      __m512i u = _mm512_srlv_epi32(_mm512_permutexvar_epi32(word, _mm512_castsi128_si512(b)), first);
      u = _mm512_and_si512(u, _mm512_set1_epi32((1 << kBits) - 1));
      return _mm512_cvtepi32_ps(_mm512_sub_epi32(u, _mm512_set1_epi32(1 << (kBits - 1))));
    }
  }
  template <class L>
  static inline F load_f16(const char* p, L lanes) {
    return _mm512_cvtph_ps(load_halves(p, lanes));
  }
  template <class L>
  static inline void store_f16(char* p, F v, L lanes) {
    store_halves(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), lanes);
  }
};

}  // namespace
}  // namespace gemma4
