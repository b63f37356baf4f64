// The byte lanes of AVX2 for the block formats (concept in quant_body.h). Knows: 256-bit intrinsics.
// Must not know: anything of 512 bits. Internal linkage (see body.h).
//
// vpmaddubsw multiplies unsigned by signed bytes and adds pairs with saturation at 16 bits. It cannot saturate here: a
// pair of b-bit quants is at most 2 * (2^b - 1) * 127, so 4-bit quants may add 8 pairs (30480), 5-bit ones 4 (31496),
// 6-bit ones 2 (32004). 8-bit weights lend their sign to the activation: 2 * 128 * 127 = 32512, one pair.
#pragma once

#include "kernels/bytes_x86.h"
#include "kernels/vec256.h"

namespace gemma4 {
namespace {

struct Bytes256 : Vec256, Bytes86 {
  static constexpr size_t kBytes = 32;
  static constexpr int kByteZero = 0;  // Q8_0 stays signed
  static constexpr int kStreamActs = 2;
  static constexpr int kStreamedTogether = 4;  // 8 registers of sums, two of quants, scales, products
  // Sixteen registers: 6 sums in f32, 6 in 16 bits, two vectors of quants, an activation and a product. Formats that
  // leave their 16-bit sums before the end of a block need registers for 32-bit sums too.
  static constexpr int kTileVecs = 2, kFewActsInt8 = 2;
  template <int kBits>
  static constexpr int kTileActsInt8 = kBits <= 4 ? 3 : 2;
  static constexpr size_t kPanelChunks = 4;  // with 16 rows 16 KiB
  using B = __m256i;
  using I = __m256i;
  using P = __m256i;  // 16-bit sums of pairs

  template <int kBits>
  static constexpr int kQuads = kBits <= 4   ? 8
                                : kBits == 5 ? 4
                                : kBits == 6 ? 2
                                             : 1;

  static inline B load_bytes(const void* p) { return load32(p); }
  static inline void store_bytes(void* p, B v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static inline B repeat4(const int8_t* p) {
    int quad;
    memcpy(&quad, p, 4);
    return _mm256_set1_epi32(quad);
  }
  static inline I set_int(int32_t a) { return _mm256_set1_epi32(a); }
  static inline F to_float(I a) { return _mm256_cvtepi32_ps(a); }
  static inline I add_pairs(P p) { return _mm256_madd_epi16(p, _mm256_set1_epi16(1)); }

  template <int kBits>
  static inline P pairs(B u, B q) {
    if constexpr (kBits == 8) return _mm256_maddubs_epi16(_mm256_abs_epi8(u), _mm256_sign_epi8(q, u));
    return _mm256_maddubs_epi16(u, q);
  }
  static inline P begin(I) { return _mm256_setzero_si256(); }
  template <int kBits>
  static inline P quad(P p, B u, B q) {
    p = _mm256_add_epi16(p, pairs<kBits>(u, q));
    // A chain: left to itself, GCC adds in a tree, whose leaves do not fit the registers.
    __asm__("" : "+x"(p));
    return p;
  }
  static inline I end(I total, P p) { return _mm256_add_epi32(total, add_pairs(p)); }

  static inline B nibble_mask() {
    B mask = _mm256_set1_epi8(15);
    __asm__("" : "+x"(mask));  // GCC would make it anew for every use
    return mask;
  }
  static inline B both(B a, B b) { return _mm256_and_si256(a, b); }
  static inline B nibbles(B v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
  // Every byte shifted by kLeft places, right where it is negative; bits of neighbours come in and must be masked.
  template <int kLeft>
  static inline B shifted(B v) {
    if constexpr (kLeft == 0) return v;
    if constexpr (kLeft > 0) return _mm256_slli_epi16(v, kLeft);
    return _mm256_srli_epi16(v, -kLeft);
  }

  static inline B and_bytes(B v, char mask) { return _mm256_and_si256(v, _mm256_set1_epi8(mask)); }
  static inline B or_bytes(B a, B b) { return _mm256_or_si256(a, b); }
  static inline B biased(B v) { return v; }
  static inline B first_of_four(B v) { return _mm256_shuffle_epi32(v, 0); }
  static inline B fifth_bits(B v) {
    const B bits = _mm256_and_si256(v, _mm256_set1_epi32(15));
    return and_bytes(_mm256_mullo_epi32(bits, _mm256_set1_epi32(kFifthBits)), 16);
  }

  static inline F low_halves(B v) {
    const B low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    const B packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
  }
  static inline F high_halves(B v) { return low_halves(_mm256_srli_epi32(v, 16)); }
  template <int i>
  static inline F unsigned_byte(B v) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(v, 8 * i), _mm256_set1_epi32(255)));
  }
  template <int i>
  static inline F signed_byte(B v) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * i), 24));
  }

  static inline B shifted_lanes(B v, I n) { return _mm256_srlv_epi32(v, n); }
  static inline I load_ints(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }

  static inline B load_groups(const char* p, size_t stride) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p)), load16(p + stride), 1);
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

  static inline F load_int8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static inline F f16_pairs(const char* p) {
    int pair;
    memcpy(&pair, p, 4);
    return _mm256_cvtph_ps(_mm_set1_epi32(pair));
  }
  static inline F pick(F v, I at) { return _mm256_permutevar8x32_ps(v, at); }
  static inline F pick(F a, F b, I at) {
    return _mm256_blendv_ps(pick(a, at), pick(b, at), _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
  }

  static inline void load_rows(const char* const* p, size_t at, size_t stride, B (&v)[4]) {
    B row[4];  // rows t and t + 4 in the two halves
    for (size_t t = 0; t < 4; ++t) {
      const __m256i first = _mm256_castsi128_si256(load16(p[0] + at + t * stride));
      row[t] = _mm256_inserti128_si256(first, load16(p[1] + at + t * stride), 1);
    }
    const B a = _mm256_unpacklo_epi32(row[0], row[1]), b = _mm256_unpacklo_epi32(row[2], row[3]);
    const B c = _mm256_unpackhi_epi32(row[0], row[1]), d = _mm256_unpackhi_epi32(row[2], row[3]);
    v[0] = _mm256_unpacklo_epi64(a, b);
    v[1] = _mm256_unpackhi_epi64(a, b);
    v[2] = _mm256_unpacklo_epi64(c, d);
    v[3] = _mm256_unpackhi_epi64(c, d);
  }
};

}  // namespace
}  // namespace gemma4
