// The byte lanes of AVX2 for the block formats (concept in quant_body.h). Knows: 256-bit intrinsics.
// Must not know: anything of 512 bits. Internal linkage (see body.h).
//
// vpmaddubsw multiplies unsigned by signed bytes and adds pairs with saturation at 16 bits. It cannot saturate here: a
// pair of b-bit levels is at most 2 * (2^b - 1) * 127, so 4-bit levels may add 8 pairs (30480), 5-bit ones 4 (31496),
// 6-bit ones 2 (32004). 8-bit weights lend their sign to the activation: 2 * 128 * 127 = 32512, one pair.
#pragma once

#include "kernels/bytes_x86.h"
#include "kernels/vec256.h"

namespace gemma4 {
namespace {

struct Bytes256 : Vec256, Floats8 {
  static constexpr size_t kBytes = 32;
  static constexpr int kByteZero = 0;  // Q8_0 stays signed
  static constexpr int kDotRows = 4, kDotActs = 2;
  static constexpr int kTileVecs = 2, kTileActsInt8 = 3;  // 6 sums in f32 and 6 in 16 bits of the 16 registers
  using B = __m256i;
  using I = __m256i;
  using P = __m256i;  // 16-bit sums of pairs
  using Z = __m256i;

  template <int kBits>
  static constexpr int kQuads = kBits == 4   ? 8
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
  template <int kBits>
  static inline Z zeros(B q, int zero) {
    if constexpr (kBits == 8) return _mm256_setzero_si256();
    return _mm256_maddubs_epi16(_mm256_set1_epi8(static_cast<char>(zero)), q);
  }
  template <int kBits>
  static inline I dot(B u, B q, Z zeros) {
    return add_pairs(_mm256_sub_epi16(pairs<kBits>(u, q), zeros));
  }
  static inline P begin(I) { return _mm256_setzero_si256(); }
  template <int kBits>
  static inline P quad(P p, B u, B q) {
    return _mm256_add_epi16(p, pairs<kBits>(u, q));
  }
  static inline I end(I total, P p) { return _mm256_add_epi32(total, add_pairs(p)); }

  static inline B nibbles(B v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
  // Every byte shifted by kLeft places, right where it is negative; bits of neighbours come in and must be masked.
  template <int kLeft>
  static inline B shifted(B v) {
    if constexpr (kLeft >= 0) return _mm256_slli_epi16(v, kLeft);
    return _mm256_srli_epi16(v, -kLeft);
  }

  template <int s>
  static inline B unpack(const BlockQ8_0* b, Const<s>) {
    return load32(b[s].q);
  }
  template <int s>
  static inline B unpack(const BlockQ4_0* b, Const<s>) {
    const B both = _mm256_broadcastsi128_si256(load16(b[s].q));
    return nibbles(_mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)));
  }
  template <int s>
  static inline B unpack(const BlockQ4_K* b, Const<s>) {
    return nibbles(shifted<-(s % 2 * 4)>(load32(b->q + s / 2 * 32)));
  }
  template <int s>
  static inline B unpack(const BlockQ5_K* b, Const<s>) {
    const B low = nibbles(shifted<-(s % 2 * 4)>(load32(b->q + s / 2 * 32)));
    return _mm256_or_si256(low, _mm256_and_si256(shifted<4 - s>(load32(b->high)), _mm256_set1_epi8(16)));
  }
  template <int s>
  static inline B unpack(const BlockQ6_K* b, Const<s>) {
    constexpr int half = s / 4, block = s % 4;
    const B low = nibbles(shifted<-(block / 2 * 4)>(load32(b->low + half * 64 + block % 2 * 32)));
    const B high = shifted<4 - 2 * block>(load32(b->high + half * 32));
    return _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(48)));
  }

  template <size_t kGroup, int s>
  static inline F spread(const float* p) {
    if constexpr (kGroup == 32) return _mm256_set1_ps(p[s]);
    double two;
    memcpy(&two, p + 2 * s, 8);
    return _mm256_permutevar_ps(_mm256_castpd_ps(_mm256_set1_pd(two)), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
  }

  static inline void transpose(B (&v)[8]) {
    B pair[8], quad[8];
    for (int i = 0; i < 8; i += 2) {
      pair[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
      pair[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      quad[i] = _mm256_unpacklo_epi64(pair[i], pair[i + 2]);
      quad[i + 1] = _mm256_unpackhi_epi64(pair[i], pair[i + 2]);
      quad[i + 2] = _mm256_unpacklo_epi64(pair[i + 1], pair[i + 3]);
      quad[i + 3] = _mm256_unpackhi_epi64(pair[i + 1], pair[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2x128_si256(quad[i], quad[i + 4], 0x20);
      v[i + 4] = _mm256_permute2x128_si256(quad[i], quad[i + 4], 0x31);
    }
  }
};

}  // namespace
}  // namespace gemma4
