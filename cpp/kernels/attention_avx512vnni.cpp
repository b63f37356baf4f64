// The kernels of attention over quantized cache rows for AVX-512 with VNNI.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but
// attention_avx512vnni_kernels, and no inline function of another header may be called (see tables.h).
//
//   scores: a vector is four elements of the high and low bytes of eight queries (cache_quants512.h); it meets the same
//     four of one row after the other (vpdpbusd).
//   sums: a vector is sixteen elements of two rows; it meets the weights of these rows, of one query after the other
//     (vpdpwssd).
#include "kernels/attention_body.h"
#include "kernels/cache_quants512.h"

namespace gemma4 {
namespace {

struct Vectors {
  struct Registers {};
  template <class Rows>
  static void score_rows(const Rows& rows, const char* q, size_t m, OutputRows y);
  template <class Rows>
  static void sum_rows(const Rows& rows, InputRows<float> p, float* y);
};

// The four bytes at p in every lane.
GEMMA4_INLINE inline __m512i repeat(const void* p) {
  int word;
  __builtin_memcpy(&word, p, sizeof word);
  return _mm512_set1_epi32(word);
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores.

template <class Rows>
void Vectors::score_rows(const Rows& rows, const char* q, size_t m, OutputRows y) {
  constexpr size_t kAtOnce = 8;             // rows whose sums, and as many words, are in registers
  alignas(64) float sums[kRows * 16] = {};  // (kRows, 16): of the high and low bytes of all queries
  alignas(64) float scales[kRows];
  alignas(64) char quants[kAtOnce][64];
  const __m512i bias = _mm512_set1_epi8(-128);  // makes quants unsigned
  for (size_t group = 0; group < rows.groups; ++group) {
    const char* queries = q + 64 + group * kTile;
    rows.scales_of(group, scales);
    __m512i biased = _mm512_setzero_si512();  // what the bias adds to each sum
    for (size_t c = 0; c < 16; ++c) biased = _mm512_dpbusd_epi32(biased, bias, _mm512_load_si512(queries + 64 * c));
    const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), biased);
    for (size_t first = 0; first < rows.count; first += kAtOnce) {
      __m512i sum[kAtOnce];
      unroll<kAtOnce>([&](auto r) GEMMA4_INLINE {
        _mm512_store_si512(quants[r.value], _mm512_xor_si512(rows.load(first + r.value, group), bias));
        sum[r.value] = start;
      });
      for (size_t c = 0; c < 16; ++c) {
        const __m512i four = _mm512_load_si512(queries + 64 * c);
        unroll<kAtOnce>([&](auto r) GEMMA4_INLINE {
          sum[r.value] = _mm512_dpbusd_epi32(sum[r.value], repeat(quants[r.value] + 4 * c), four);
        });
      }
      unroll<kAtOnce>([&](auto r) GEMMA4_INLINE {
        float* all = sums + (first + r.value) * 16;
        const __m512 scale = _mm512_set1_ps(scales[first + r.value]);
        _mm512_store_ps(all, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r.value]), scale, _mm512_load_ps(all)));
      });
    }
  }
  finish_scores(sums, rows.count, q, m, y);
}

// ---------------------------------------------------------------------------------------------------------------------
// Weighted sums.

// A group of kRows rows, two by two: their elements in turn, 32 of them in two vectors.
struct Pairs {
  alignas(64) int16_t quants[kRows / 2][4][32];

  // Of the pairs in words_of's order: its words 2i and 2i + 1 of 32 are of rows first(i) and the next.
  static constexpr size_t first(size_t pair) {
    const size_t i = pair % 16;
    return pair / 16 * 32 + i / 4 * 4 + i % 2 * 2 + i / 2 % 2 * 16;
  }
  template <class Rows>
  GEMMA4_INLINE inline Pairs(const Rows& rows, size_t group) {
    for (size_t pair = 0; pair < kRows / 2; ++pair) {
      const __m512i a = rows.load(first(pair), group), b = rows.load(first(pair) + 1, group);
      for (size_t half = 0; half < 2; ++half) {
        const __m512i x = words(a, half), y = words(b, half);
        _mm512_store_si512(quants[pair][2 * half], _mm512_unpacklo_epi16(x, y));
        _mm512_store_si512(quants[pair][2 * half + 1], _mm512_unpackhi_epi16(x, y));
      }
    }
  }

 private:
  GEMMA4_INLINE static inline __m512i words(__m512i quants, size_t half) {
    return _mm512_cvtepi8_epi16(half == 0 ? _mm512_castsi512_si256(quants) : _mm512_extracti64x4_epi64(quants, 1));
  }
};

// y_j (32 elements) += the products of half a group's pairs with the weights of J queries, times scale[j].
//   y: rows n floats apart
template <int J>
GEMMA4_INLINE inline void add_half(const Pairs& pairs, size_t half, const int16_t (*weights)[kRows], const float* scale,
                                   float* y, size_t n) {
  __m512i sum[J][2];
  unroll<J>([&](auto j) GEMMA4_INLINE { sum[j.value][0] = sum[j.value][1] = _mm512_setzero_si512(); });
  for (size_t pair = 0; pair < kRows / 2; ++pair) {
    const __m512i first = _mm512_load_si512(pairs.quants[pair][2 * half]);
    const __m512i second = _mm512_load_si512(pairs.quants[pair][2 * half + 1]);
    unroll<J>([&](auto j) GEMMA4_INLINE {
      const __m512i both = repeat(weights[j.value] + 2 * pair);
      sum[j.value][0] = _mm512_dpwssd_epi32(sum[j.value][0], first, both);
      sum[j.value][1] = _mm512_dpwssd_epi32(sum[j.value][1], second, both);
      __asm__("" : "+v"(sum[j.value][0]), "+v"(sum[j.value][1]));  // GCC would carry all sums around in copies
    });
  }
  const __m512i places[2] = {_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                             _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15)};
  unroll<J>([&](auto j) GEMMA4_INLINE {
    for (size_t i = 0; i < 2; ++i) {
      float* at = y + j.value * n + 16 * i;
      const __m512 sixteen = _mm512_cvtepi32_ps(_mm512_permutex2var_epi64(sum[j.value][0], places[i], sum[j.value][1]));
      _mm512_storeu_ps(at, _mm512_fmadd_ps(sixteen, _mm512_set1_ps(scale[j.value]), _mm512_loadu_ps(at)));
    }
  });
}

template <class Rows>
void Vectors::sum_rows(const Rows& rows, InputRows<float> p, float* y) {
  const size_t n = rows.groups * kGroup, m = p.count;
  const Weights weights(p, rows.count);
  alignas(64) int16_t times_scales[kQueries][kRows];
  float scale[kQueries];
  for (size_t group = 0; group < rows.groups; ++group) {
    const GroupScales scales(rows, group);
    for (size_t j = 0; j < m; ++j) {
      scale[j] = weights.scale[j] * scales.most;
      for (size_t v = 0; v < 4; v += 2) {
        const __m512i words = words_of(weights.times(scales, j, v), weights.times(scales, j, v + 1));
        _mm512_store_si512(times_scales[j] + 16 * v, words);
      }
    }
    const Pairs pairs(rows, group);
    for_each_queries<kQueries>(m, [&](size_t j, auto queries) {
      float* at = y + j * n + group * kGroup;
      for (size_t half = 0; half < 2; ++half)
        add_half<queries.kCount>(pairs, half, times_scales + j, scale + j, at + 32 * half, n);
    });
  }
}

}  // namespace

const AttentionKernels* attention_avx512vnni_kernels() {
  static const AttentionKernels table = with_products<Vectors>();
  return &table;
}

}  // namespace gemma4
