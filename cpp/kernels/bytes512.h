// The byte lanes of AVX-512 for the block formats (concept in quant_body.h), with VNNI where the source file is
// compiled for it. Knows: 512-bit intrinsics. Must not know: AMX. Internal linkage (see body.h). Without VNNI the
// 16-bit sums of vpmaddubsw stay in range as bytes256.h shows.
#pragma once

#include "kernels/bytes_x86.h"
#include "kernels/vec512.h"

namespace gemma4 {
namespace {

// How unsigned levels meet signed activations.
#if defined(__AVX512VNNI__)
struct Products512 {
  static constexpr int kByteZero = 128;  // Q8_0 becomes unsigned
  using Z = __m512i;
  using P = __m512i;

  template <int>
  static constexpr int kQuads = 8;

  template <int>
  static inline Z zeros(__m512i q, int zero) {
    if (zero == 0) return _mm512_setzero_si512();
    const __m512i none = _mm512_setzero_si512();
    return _mm512_sub_epi32(none, _mm512_dpbusd_epi32(none, _mm512_set1_epi8(static_cast<char>(zero)), q));
  }
  template <int>
  static inline __m512i dot(__m512i u, __m512i q, Z zeros) {
    return _mm512_dpbusd_epi32(zeros, u, q);
  }
  static inline P begin(__m512i total) { return total; }
  template <int>
  static inline P quad(P p, __m512i u, __m512i q) {
    return _mm512_dpbusd_epi32(p, u, q);
  }
  static inline __m512i end(__m512i, P p) { return p; }
  static inline __m512i biased(__m512i v) { return _mm512_xor_si512(v, _mm512_set1_epi8(-128)); }
};
#else
struct Products512 {
  static constexpr int kByteZero = 0;  // Q8_0 stays signed
  using Z = __m512i;
  using P = __m512i;  // 16-bit sums of pairs

  template <int kBits>
  static constexpr int kQuads = kBits == 4   ? 8
                                : kBits == 5 ? 4
                                : kBits == 6 ? 2
                                             : 1;

  static inline __m512i add_pairs(P p) { return _mm512_madd_epi16(p, _mm512_set1_epi16(1)); }
  template <int kBits>
  static inline P pairs(__m512i u, __m512i q) {
    if constexpr (kBits == 8) {
      const __m512i signed_q = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(u), _mm512_setzero_si512(), q);
      return _mm512_maddubs_epi16(_mm512_abs_epi8(u), signed_q);
    }
    return _mm512_maddubs_epi16(u, q);
  }
  template <int kBits>
  static inline Z zeros(__m512i q, int zero) {
    if constexpr (kBits == 8) return _mm512_setzero_si512();
    return _mm512_maddubs_epi16(_mm512_set1_epi8(static_cast<char>(zero)), q);
  }
  template <int kBits>
  static inline __m512i dot(__m512i u, __m512i q, Z zeros) {
    return add_pairs(_mm512_sub_epi16(pairs<kBits>(u, q), zeros));
  }
  static inline P begin(__m512i) { return _mm512_setzero_si512(); }
  template <int kBits>
  static inline P quad(P p, __m512i u, __m512i q) {
    return _mm512_add_epi16(p, pairs<kBits>(u, q));
  }
  static inline __m512i end(__m512i total, P p) { return _mm512_add_epi32(total, add_pairs(p)); }
  static inline __m512i biased(__m512i v) { return v; }
};
#endif

struct Bytes512 : Vec512, Floats8, Products512 {
  static constexpr size_t kBytes = 64;
  static constexpr int kDotRows = 4, kDotActs = 2;
  static constexpr int kTileVecs = 2, kTileActsInt8 = 6;  // 12 sums in f32 and 12 integer ones of the 32 registers
  using B = __m512i;
  using I = __m512i;

  static inline B load_bytes(const void* p) { return _mm512_loadu_si512(p); }
  static inline void store_bytes(void* p, B v) { _mm512_storeu_si512(p, v); }
  static inline B repeat4(const int8_t* p) {
    int quad;
    memcpy(&quad, p, 4);
    return _mm512_set1_epi32(quad);
  }
  static inline I set_int(int32_t a) { return _mm512_set1_epi32(a); }
  static inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }

  static inline B nibbles(B v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static inline B twice(const uint8_t* p) { return _mm512_broadcast_i64x4(load32(p)); }
  // The low 32 bytes rotated left by `low`, the high ones by `high`; bits of neighbours come in and must be masked.
  template <int low, int high>
  static inline B rotated(B v) {
    const __m512i count = _mm512_inserti64x4(_mm512_set1_epi32(low & 31), _mm256_set1_epi32(high & 31), 1);
    return _mm512_rolv_epi32(v, count);
  }

  template <int s>
  static inline B unpack(const BlockQ8_0* b, Const<s>) {
    return biased(_mm512_inserti64x4(_mm512_castsi256_si512(load32(b[2 * s].q)), load32(b[2 * s + 1].q), 1));
  }
  template <int s>
  static inline B unpack(const BlockQ4_0* b, Const<s>) {
    const __m512i first = _mm512_broadcast_i32x4(load16(b[2 * s].q));
    const __m512i both = _mm512_mask_broadcast_i32x4(first, 0xff00, load16(b[2 * s + 1].q));
    const __m512i count = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
    return nibbles(_mm512_srlv_epi32(both, count));
  }
  template <int s>
  static inline B unpack(const BlockQ4_K* b, Const<s>) {
    return nibbles(rotated<0, -4>(twice(b->q + 32 * s)));
  }
  template <int s>
  static inline B unpack(const BlockQ5_K* b, Const<s>) {
    const B low = nibbles(rotated<0, -4>(twice(b->q + 32 * s)));
    const B high = rotated<4 - 2 * s, 3 - 2 * s>(twice(b->high));
    return _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(16)));
  }
  template <int s>
  static inline B unpack(const BlockQ6_K* b, Const<s>) {
    constexpr int half = s / 2, upper = s % 2;
    const B both = load_bytes(b->low + 64 * half);
    const B low = nibbles(upper ? _mm512_srli_epi16(both, 4) : both);
    const B high = rotated < upper ? 0 : 4, upper ? -2 : 2 > (twice(b->high + 32 * half));
    return _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(48)));
  }

  template <size_t kGroup, int s>
  static inline F spread(const float* p) {
    if constexpr (kGroup == 32) {
      double two;
      memcpy(&two, p + 2 * s, 8);
      return _mm512_permutevar_ps(_mm512_castpd_ps(_mm512_set1_pd(two)),
                                  _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    }
    return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(p + 4 * s)),
                                _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
  }

  static inline void transpose(B (&v)[16]) {
    B pair[16], quad[16];
    for (int i = 0; i < 16; i += 2) {
      pair[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
      pair[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    // quad[4g + c]: lanes c, c + 4, c + 8, c + 12 of the rows 4g ... 4g + 3, one in each 128 bits
    for (int i = 0; i < 16; i += 4) {
      quad[i] = _mm512_unpacklo_epi64(pair[i], pair[i + 2]);
      quad[i + 1] = _mm512_unpackhi_epi64(pair[i], pair[i + 2]);
      quad[i + 2] = _mm512_unpacklo_epi64(pair[i + 1], pair[i + 3]);
      quad[i + 3] = _mm512_unpackhi_epi64(pair[i + 1], pair[i + 3]);
    }
    for (int c = 0; c < 4; ++c) {
      const B even_low = _mm512_shuffle_i32x4(quad[c], quad[c + 4], 0x88);
      const B even_high = _mm512_shuffle_i32x4(quad[c + 8], quad[c + 12], 0x88);
      const B odd_low = _mm512_shuffle_i32x4(quad[c], quad[c + 4], 0xdd);
      const B odd_high = _mm512_shuffle_i32x4(quad[c + 8], quad[c + 12], 0xdd);
      v[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
      v[c + 8] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
      v[c + 4] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
      v[c + 12] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
  }
};

}  // namespace
}  // namespace gemma4
