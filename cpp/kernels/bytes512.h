// The byte lanes of AVX-512 for the block formats (concept in quant_body.h), with VNNI where the source file is
// compiled for it. Knows: 512-bit intrinsics. Must not know: AMX. Internal linkage (see body.h). Without VNNI the
// 16-bit sums of vpmaddubsw stay in range as bytes256.h shows.
#pragma once

#include "kernels/bytes_x86.h"
#include "kernels/vec512.h"

namespace gemma4 {
namespace {

// How unsigned quants meet signed activations.
#if defined(__AVX512VNNI__)
struct Products512 {
  static constexpr int kByteZero = 128;  // Q8_0 becomes unsigned
  using P = __m512i;

  template <int>
  static constexpr int kQuads = 8;

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
  using P = __m512i;                   // 16-bit sums of pairs

  template <int kBits>
  static constexpr int kQuads = kBits <= 4   ? 8
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
  static inline P begin(__m512i) { return _mm512_setzero_si512(); }
  template <int kBits>
  static inline P quad(P p, __m512i u, __m512i q) {
    p = _mm512_add_epi16(p, pairs<kBits>(u, q));
    // A chain: left to itself, GCC adds in a tree, whose leaves do not fit the registers.
    __asm__("" : "+v"(p));
    return p;
  }
  static inline __m512i end(__m512i total, P p) { return _mm512_add_epi32(total, add_pairs(p)); }
  static inline __m512i biased(__m512i v) { return v; }
};
#endif

// Where the scales of 32 blocks lie in the vectors that they fill: a lane's word, and which lanes' are in a vector.
template <size_t kBlockBytes>
struct StoredScales {
  alignas(64) int16_t word[kBlockBytes / 2][32];
  uint32_t lanes[kBlockBytes / 2];
};
template <size_t kBlockBytes>
consteval StoredScales<kBlockBytes> stored_scale_words() {
  StoredScales<kBlockBytes> s{};
  for (size_t b = 0; b < 32; ++b) {
    const size_t at = b * kBlockBytes;
    s.word[at / 64][b] = static_cast<int16_t>(at % 64 / 2);
    s.lanes[at / 64] |= 1u << b;
  }
  return s;
}
template <size_t kBlockBytes>
constexpr auto kStoredScales = stored_scale_words<kBlockBytes>();

struct Bytes512 : Vec512, Bytes86, Products512 {
  static constexpr size_t kBytes = 64;
  static constexpr int kStreamActs = 4;
  static constexpr int kStreamedTogether = 8;  // 16 registers of sums
  // Of the 32 registers 12 sums in f32 and 12 integer ones; without VNNI a third kind where 16 bits are too few.
  static constexpr int kTileVecs = 2, kFewActsInt8 = 4;
  template <int kBits>
  static constexpr int kTileActsInt8 = kQuads<kBits> == 8 ? 6 : 4;
  static constexpr size_t kPanelChunks = 2;  // with 32 rows 16 KiB
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

  static inline B nibble_mask() {
    B mask = _mm512_set1_epi8(15);
    __asm__("" : "+v"(mask));  // GCC would make it anew for every use
    return mask;
  }
  static inline B both(B a, B b) { return _mm512_and_si512(a, b); }
  static inline B nibbles(B v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static inline B and_bytes(B v, char mask) { return _mm512_and_si512(v, _mm512_set1_epi8(mask)); }
  static inline B or_bytes(B a, B b) { return _mm512_or_si512(a, b); }
  static inline B first_of_four(B v) { return _mm512_shuffle_epi32(v, _MM_PERM_AAAA); }
  static inline B fifth_bits(B v) {
    const B bits = _mm512_and_si512(v, _mm512_set1_epi32(15));
    return and_bytes(_mm512_mullo_epi32(bits, _mm512_set1_epi32(kFifthBits)), 16);
  }

  static inline F low_halves(B v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }
  static inline F high_halves(B v) { return low_halves(_mm512_srli_epi32(v, 16)); }
  template <int i>
  static inline F unsigned_byte(B v) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(v, 8 * i), _mm512_set1_epi32(255)));
  }
  template <int i>
  static inline F signed_byte(B v) {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * i), 24));
  }
  // Every byte shifted by kLeft places, right where it is negative; bits of neighbours come in and must be masked.
  template <int kLeft>
  static inline B shifted(B v) {
    if constexpr (kLeft == 0) return v;
    if constexpr (kLeft > 0) return _mm512_slli_epi16(v, kLeft);
    return _mm512_srli_epi16(v, -kLeft);
  }

  static inline B shifted_lanes(B v, I n) { return _mm512_srlv_epi32(v, n); }
  static inline I load_ints(const int32_t* p) { return _mm512_load_si512(p); }

  static inline B load_groups(const char* p, size_t stride) {
    B v = _mm512_castsi128_si512(load16(p));
    v = _mm512_inserti32x4(v, load16(p + stride), 1);
    v = _mm512_inserti32x4(v, load16(p + 2 * stride), 2);
    return _mm512_inserti32x4(v, load16(p + 3 * stride), 3);
  }
  static inline B load_pairs(const char* p, size_t stride) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(load32(p)), load32(p + stride), 1);
  }

  // The f16 at the beginning of eight blocks of 18 bytes: a load holds four of them, and eight rows share a vector.
  template <size_t kApart>
  requires(kApart == 18) static inline void halves(const char* const* p, size_t stride, F (&out)[8]) {
    static constexpr int16_t kWords[32] = {0,  0,  0,  0,  0,  0,  0,  0,  9,  9,  9,  9,  9,  9,  9,  9,
                                           18, 18, 18, 18, 18, 18, 18, 18, 27, 27, 27, 27, 27, 27, 27, 27};
    const __m512i words = _mm512_loadu_si512(kWords);
    for (size_t at = 0; at < 8; at += 4) {
      __m512i v[2];  // (4 blocks, 8 rows)
      for (size_t g = 0; g < 2; ++g) {
        v[g] = _mm512_permutexvar_epi16(words, load_bytes(p[2 * g] + at * kApart));
        for (size_t r = 1; r < 8; ++r) {
          const char* row = p[2 * g + r / 4] + r % 4 * stride + at * kApart;
          v[g] = _mm512_mask_permutexvar_epi16(v[g], 0x01010101u << r, words, load_bytes(row));
        }
      }
      const __m512i low = _mm512_permutex2var_epi64(v[0], _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), v[1]);
      const __m512i high = _mm512_permutex2var_epi64(v[0], _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), v[1]);
      out[at] = _mm512_cvtph_ps(_mm512_castsi512_si256(low));
      out[at + 1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(low, 1));
      out[at + 2] = _mm512_cvtph_ps(_mm512_castsi512_si256(high));
      out[at + 3] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(high, 1));
    }
  }

  // q = x * inverse, rounded to the nearest even; within int8 by the choice of `inverse`.
  static inline void round32(const float* x, float inverse, int8_t* q) {
    const __m512 factor = _mm512_set1_ps(inverse);
    for (int i = 0; i < 32; i += 16) {
      const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtsepi32_epi8(v));
    }
  }

  static inline F load_int8(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(p))); }
  static inline F f16_pairs(const char* p) {
    int pair;
    memcpy(&pair, p, 4);
    return _mm512_cvtph_ps(_mm256_set1_epi32(pair));
  }
  static inline F pick(F v, I at) { return _mm512_permutexvar_ps(at, v); }
  static inline F pick(F a, F b, I at) { return _mm512_permutex2var_ps(a, at, b); }
  static inline B load_first(const char* p, size_t n) { return _mm512_maskz_loadu_epi8((1ull << n) - 1, p); }
  template <size_t kBlockBytes, bool kWhole>
  static inline void stored_scales(const char* p, size_t blocks, F (&out)[2]) {
    constexpr const auto& of = kStoredScales<kBlockBytes>;
    const size_t bytes = blocks * kBlockBytes;
    __m512i words = _mm512_setzero_si512();
    unroll<kBlockBytes / 2>([&](auto v) GEMMA4_INLINE {
      constexpr size_t begin = 64 * v.value;
      const B at = _mm512_load_si512(of.word[v.value]);
      const __mmask32 lanes = of.lanes[v.value];
      if (kWhole || begin + 64 <= bytes) {
        words = _mm512_mask_permutexvar_epi16(words, lanes, at, load_bytes(p + begin));
      } else if (begin < bytes) {
        const __mmask32 there = lanes & ((1u << blocks) - 1);
        words = _mm512_mask_permutexvar_epi16(words, there, at, load_first(p + begin, bytes - begin));
      }
    });
    out[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(words));
    out[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(words, 1));
  }

  static inline void load_rows(const char* const* p, size_t at, size_t stride, B (&v)[4]) {
    B row[4];  // rows t, t + 4, t + 8 and t + 12 in the four quarters
    for (size_t t = 0; t < 4; ++t) {
      row[t] = _mm512_castsi128_si512(load16(p[0] + at + t * stride));
      row[t] = _mm512_inserti32x4(row[t], load16(p[1] + at + t * stride), 1);
      row[t] = _mm512_inserti32x4(row[t], load16(p[2] + at + t * stride), 2);
      row[t] = _mm512_inserti32x4(row[t], load16(p[3] + at + t * stride), 3);
    }
    const B a = _mm512_unpacklo_epi32(row[0], row[1]), b = _mm512_unpacklo_epi32(row[2], row[3]);
    const B c = _mm512_unpackhi_epi32(row[0], row[1]), d = _mm512_unpackhi_epi32(row[2], row[3]);
    v[0] = _mm512_unpacklo_epi64(a, b);
    v[1] = _mm512_unpackhi_epi64(a, b);
    v[2] = _mm512_unpacklo_epi64(c, d);
    v[3] = _mm512_unpackhi_epi64(c, d);
  }
};

}  // namespace
}  // namespace gemma4
