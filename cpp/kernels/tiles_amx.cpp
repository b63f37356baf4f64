// The tile products of AMX with bf16 (concept in tiles.h).
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but tiles_amx_kernels, and no
// inline function of another header may be called (see tables.h).
// Weights are unpacked as they lie; x, packed once for all of them, is what is transposed. The sums are transposed too,
// when they are complete.
#include "kernels/tiles_amx.h"

#include "kernels/blocks.h"
#include "kernels/tiles.h"

namespace gemma4 {
namespace {

constexpr size_t kSteps = 16;  // of a block of elements: unpacked, 32 rows of w take 32 KiB

// How many bf16 a weight and what it meets are the sum of.
struct Parts {
  size_t w, x;
};
constexpr Parts parts_of(DType t) {
  return t == DType::kF32    ? Parts{3, 3}
         : t == DType::kF16  ? Parts{2, 3}
         : t == DType::kBF16 ? Parts{1, 3}
                             : Parts{1, 1};
}
constexpr size_t kMostParts = 3;

// ---------------------------------------------------------------------------------------------------------------------
// Rows of weights as rows of tiles: `unpack` writes steps [first, first + count) of a row, one tile after the other.

struct F32Weights {
  static constexpr DType kType = DType::kF32;
  static inline void unpack(const char* w, size_t k, size_t first, size_t count, char* out, size_t part_bytes) {
    for (size_t s = first; s < first + count; ++s, out += kTile)
      store_parts<3>(load_floats(reinterpret_cast<const float*>(w) + s * kStep, k - s * kStep), out, part_bytes);
  }
};

struct F16Weights {
  static constexpr DType kType = DType::kF16;
  static inline void unpack(const char* w, size_t k, size_t first, size_t count, char* out, size_t part_bytes) {
    for (size_t s = first; s < first + count; ++s, out += kTile) {
      const size_t n = k - s * kStep;
      const __m512i halves = _mm512_maskz_loadu_epi16(first_of_step(n), w + s * kStep * 2);
      store_parts<2>(
          {_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1))}, out,
          part_bytes);
    }
  }
};

struct BF16Weights {
  static constexpr DType kType = DType::kBF16;
  static inline void unpack(const char* w, size_t k, size_t first, size_t count, char* out, size_t) {
    for (size_t s = first; s < first + count; ++s, out += kTile) {
      const size_t n = k - s * kStep;
      _mm512_store_si512(out, _mm512_maskz_loadu_epi16(first_of_step(n), w + s * kStep * 2));
    }
  }
};

// quants * scale - min, both of each half
GEMMA4_INLINE inline __m512i scaled(__m256i quants, const float (&scale)[2], const float (&min)[2]) {
  const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(quants)));
  const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(quants, 1)));
  return rounded({_mm512_fmsub_ps(a, _mm512_set1_ps(scale[0]), _mm512_set1_ps(min[0])),
                  _mm512_fmsub_ps(b, _mm512_set1_ps(scale[1]), _mm512_set1_ps(min[1]))});
}
GEMMA4_INLINE inline __m512i scaled(__m256i quants, float scale, float min) {
  return scaled(quants, {scale, scale}, {min, min});
}
GEMMA4_INLINE inline __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
// The low or high nibbles of bytes.
GEMMA4_INLINE inline __m256i nibbles(__m256i bytes, bool high) {
  return _mm256_and_si256(high ? _mm256_srli_epi16(bytes, 4) : bytes, _mm256_set1_epi8(15));
}

// The scales of at most kSteps blocks of Q8_0 or Q4_0, converted together.
struct Halves {
  template <class Block>
  Halves(const Block* blocks, size_t count) {
    alignas(32) uint16_t d[kSteps] = {};
    for (size_t s = 0; s < count; ++s) d[s] = blocks[s].d;
    _mm512_storeu_ps(scale, _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(d))));
    __asm__("" : "+m"(scale));  // read one by one from memory: GCC would shuffle them out of a register
  }
  float scale[kSteps];
};
static_assert(kSteps == 16);

struct Q8Weights {
  static constexpr DType kType = DType::kQ8_0;
  static inline void unpack(const char* w, size_t, size_t first, size_t count, char* out, size_t) {
    const auto* blocks = reinterpret_cast<const BlockQ8_0*>(w) + first;
    const Halves of(blocks, count);
    for (size_t s = 0; s < count; ++s, out += kTile) {
      const auto* q = reinterpret_cast<const __m128i*>(blocks[s].q);
      const __m512 d = _mm512_set1_ps(of.scale[s]);
      const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q)));
      const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q + 1)));
      _mm512_store_si512(out, rounded({_mm512_mul_ps(a, d), _mm512_mul_ps(b, d)}));
    }
  }
};

// Sixteen values are all there are: a block's table of them is looked up. Two blocks' tables share a register.
struct Q4Weights {
  static constexpr DType kType = DType::kQ4_0;
  static inline void unpack(const char* w, size_t, size_t first, size_t count, char* out, size_t) {
    const __m512 quants = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const auto* blocks = reinterpret_cast<const BlockQ4_0*>(w) + first;
    const Halves of(blocks, count);
    for (size_t s = 0; s < count; s += 2) {
      const size_t t = s + 1 < count ? s + 1 : s;
      const __m512i values = rounded(
          {_mm512_mul_ps(quants, _mm512_set1_ps(of.scale[s])), _mm512_mul_ps(quants, _mm512_set1_ps(of.scale[t]))});
      _mm512_store_si512(out + s * kTile, _mm512_permutexvar_epi16(places(blocks[s], 0), values));
      _mm512_store_si512(out + t * kTile, _mm512_permutexvar_epi16(places(blocks[t], 16), values));
    }
  }

 private:
  // Where the values of a block are: its quants, in the table from word `table` on. The second half are high nibbles.
  static GEMMA4_INLINE inline __m512i places(const BlockQ4_0& block, short table) {
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.q));
    const __m512i words = _mm512_srlv_epi16(_mm512_cvtepu8_epi16(_mm256_broadcastsi128_si256(bytes)), shifts);
    constexpr int kAndThenOr = 0xea;
    return _mm512_ternarylogic_epi64(words, _mm512_set1_epi16(15), _mm512_set1_epi16(table), kAndThenOr);
  }
};

GEMMA4_INLINE inline __m256i both_nibbles(const uint8_t* q) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
  return nibbles(_mm256_set_m128i(_mm_srli_epi16(low, 4), low), false);
}

struct Q41Weights {
  static constexpr DType kType = DType::kQ4_1;
  static inline void unpack(const char* w, size_t, size_t first, size_t count, char* out, size_t) {
    const auto* blocks = reinterpret_cast<const BlockQ4_1*>(w) + first;
    const Halves of(blocks, count);
    for (size_t s = 0; s < count; ++s, out += kTile)
      _mm512_store_si512(out, scaled(both_nibbles(blocks[s].q), of.scale[s], -half(blocks[s].m)));
  }
};

// What the quants of Q5_0 and Q5_1 are above.
inline float min_of(const BlockQ5_0&, float d) { return 16 * d; }
inline float min_of(const BlockQ5_1& block, float) { return -half(block.m); }

template <class Block>
struct Q5Weights {
  static constexpr DType kType = Block::kType;
  static inline void unpack(const char* w, size_t, size_t first, size_t count, char* out, size_t) {
    const auto* blocks = reinterpret_cast<const Block*>(w) + first;
    const Halves of(blocks, count);
    for (size_t s = 0; s < count; ++s, out += kTile) {
      __mmask32 bits;
      __builtin_memcpy(&bits, blocks[s].high, sizeof bits);
      const __m256i quants = _mm256_or_si256(both_nibbles(blocks[s].q), _mm256_maskz_set1_epi8(bits, 16));
      _mm512_store_si512(out, scaled(quants, of.scale[s], min_of(blocks[s], of.scale[s])));
    }
  }
};

// Scales and minimums of the eight blocks of Q4_K and Q5_K.
struct KScales {
  template <class Block>
  explicit KScales(const Block& b) {
    uint32_t packed[3];
    __builtin_memcpy(packed, b.scales, sizeof packed);
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    read(packed[0] & six, (packed[2] & four) | (packed[0] >> 6 & two) << 4, half(b.d), scale);
    read(packed[1] & six, (packed[2] >> 4 & four) | (packed[1] >> 6 & two) << 4, half(b.dmin), min);
  }
  float scale[8], min[8];

 private:
  static void read(uint32_t low, uint32_t high, float d, float* out) {
    const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(static_cast<uint64_t>(high) << 32 | low));
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_set1_ps(d)));
  }
};

// f(block, b) for the steps [first, first + count): b-th block of 32 of a super-block.
template <class Block, class Scales, class Fn>
GEMMA4_INLINE inline void for_blocks(const char* w, size_t first, size_t count, char* out, Fn f) {
  const auto* blocks = reinterpret_cast<const Block*>(w);
  for (size_t s = first; s < first + count;) {
    const Scales scales(blocks[s / 8]);
    do {
      _mm512_store_si512(out, f(blocks[s / 8], scales, s % 8));
      out += kTile;
    } while (++s < first + count && s % 8 != 0);
  }
}

struct Q4KWeights {
  static constexpr DType kType = DType::kQ4_K;
  static inline void unpack(const char* w, size_t, size_t first, size_t count, char* out, size_t) {
    for_blocks<BlockQ4_K, KScales>(w, first, count, out, [](const BlockQ4_K& block, const KScales& of, size_t b) {
      return scaled(nibbles(load32(block.q + b / 2 * 32), b % 2), of.scale[b], of.min[b]);
    });
  }
};

struct Q5KWeights {
  static constexpr DType kType = DType::kQ5_K;
  static inline void unpack(const char* w, size_t, size_t first, size_t count, char* out, size_t) {
    for_blocks<BlockQ5_K, KScales>(w, first, count, out, [](const BlockQ5_K& block, const KScales& of, size_t b) {
      const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << b));
      const __m256i high = _mm256_cmpeq_epi8(_mm256_and_si256(load32(block.high), bit), bit);
      const __m256i low = nibbles(load32(block.q + b / 2 * 32), b % 2);
      return scaled(_mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(16))), of.scale[b], of.min[b]);
    });
  }
};

struct Q6Scales {
  explicit Q6Scales(const BlockQ6_K& b) {
    const __m512i bytes = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b.scales)));
    _mm512_storeu_ps(scale, _mm512_mul_ps(_mm512_cvtepi32_ps(bytes), _mm512_set1_ps(half(b.d))));
  }
  float scale[16];
};

struct Q6KWeights {
  static constexpr DType kType = DType::kQ6_K;
  static inline void unpack(const char* w, size_t, size_t first, size_t count, char* out, size_t) {
    for_blocks<BlockQ6_K, Q6Scales>(w, first, count, out, [](const BlockQ6_K& block, const Q6Scales& of, size_t b) {
      const size_t h = b / 4, i = b % 4;
      const __m256i low = nibbles(load32(block.low + 64 * h + 32 * (i % 2)), i / 2);
      const __m256i pair = _mm256_srl_epi16(load32(block.high + 32 * h), _mm_cvtsi32_si128(static_cast<int>(2 * i)));
      const __m256i high = _mm256_slli_epi16(_mm256_and_si256(pair, _mm256_set1_epi8(3)), 4);
      const __m256i quants = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
      return scaled(quants, {of.scale[2 * b], of.scale[2 * b + 1]}, {0.0f, 0.0f});
    });
  }
};

// Formats that unpack.h reads, a chunk at a time.
template <class Block>
struct UnpackedWeights {
  static constexpr DType kType = Block::kType;
  static inline void unpack(const char* w, size_t, size_t first, size_t count, char* out, size_t) {
    constexpr QuantForm of = kForm<Block>;
    constexpr size_t kEach = of.group / 16;  // halves of a block of 32 that share a scale
    ChunkQuants chunk;
    for (size_t s = 0; s < count; s += 8) {
      const size_t blocks = count - s < 8 ? count - s : 8;
      unpack_chunk<Block>(w + row_offset(first + s), blocks, chunk);
      for (size_t b = 0; b < blocks; ++b, out += kTile) {
        const __m256i quants = _mm256_sub_epi8(load32(chunk.quant + 32 * b), _mm256_set1_epi8(of.zero));
        const size_t low = 2 * b / kEach, high = (2 * b + 1) / kEach;
        float mins[2] = {0.0f, 0.0f};
        if constexpr (of.mins) mins[0] = chunk.min[low], mins[1] = chunk.min[high];
        _mm512_store_si512(out, scaled(quants, {chunk.scale[low], chunk.scale[high]}, mins));
      }
    }
  }

 private:
  static constexpr size_t row_offset(size_t step) { return step * kBlock / elements_of<Block>() * sizeof(Block); }
};
static_assert(kSteps % 8 == 0);

// ---------------------------------------------------------------------------------------------------------------------
// What weights meet.

size_t group_bytes(DType w, size_t k) { return parts_of(w).x * steps_of(k) * kTile; }

// clamp(v); a NaN stays a NaN.
GEMMA4_INLINE inline __m512 clamped(__m512 v, Bounds bounds) {
  return _mm512_max_ps(_mm512_set1_ps(bounds.lo), _mm512_min_ps(_mm512_set1_ps(bounds.hi), v));
}

template <size_t kParts>
void pack_parts(InputRows<float> x, size_t k, Bounds bounds, char* out) {
  const size_t steps = steps_of(k);
  for (size_t s = 0; s < steps; ++s, out += kTile) {
    const auto row = [&](size_t r) GEMMA4_INLINE {
      const Floats f = load_floats(x.rows + r * x.ld + s * kStep, k - s * kStep);
      return Floats{clamped(f.low, bounds), clamped(f.high, bounds)};
    };
    store_turned<kParts>(x.count, row, out, steps * kTile);
  }
}

void pack(DType w, InputRows<float> x, size_t k, Bounds bounds, void* out) {
  if (parts_of(w).x == 1) return pack_parts<1>(x, k, bounds, static_cast<char*>(out));
  pack_parts<3>(x, k, bounds, static_cast<char*>(out));
}

// ---------------------------------------------------------------------------------------------------------------------
// Products.

// Rows that are unpacked together: two groups.
constexpr size_t kPair = 32;

struct Scratch {
  alignas(64) char w[kMostParts * 2 * kSteps * kTile];               // (parts, 2 groups, steps) tiles: what L1 holds
  alignas(64) char sums[kTilePanel / 16 * kTileBlock / 16 * kTile];  // (groups of w, groups of x) tiles
};
constexpr size_t kGroupBytes = kSteps * kTile, kPartBytes = 2 * kGroupBytes;  // of Scratch::w

// sums = or += `count` steps of R groups of weights times all groups of x.
template <int R, class W>
void multiply_pair(const char* w, Operand x, size_t x_groups, size_t count, bool accumulate, char* sums) {
  constexpr Parts kParts = parts_of(W::kType);
  const Operand a{w, kPartBytes, kGroupBytes};
  for (size_t j = 0; j < x_groups; j += 2) {
    const Operand b{x.at + j * x.group, x.part, x.group};
    const Sums to{sums + j * kTile, 64, x_groups * kTile, kTile};
    if (j + 1 < x_groups) {
      multiply_groups<R, 2, kParts.w, kParts.x>(a, b, count, accumulate, to);
    } else {
      multiply_groups<R, 1, kParts.w, kParts.x>(a, b, count, accumulate, to);
    }
  }
}

// y = the transposed sums, clamped. Rows of y can be a multiple of 4 KiB apart, where few lines of a cache are
// theirs: each is written in one go.
void store_sums(const char* sums, size_t rows, size_t m, Bounds bounds, OutputRows y) {
  alignas(64) float transposed[16][kTilePanel];
  const size_t x_groups = (m + 15) / 16, whole = rows / 16 * 16;
  const auto tail = static_cast<__mmask16>((1u << (rows - whole)) - 1);
  for (size_t j = 0; j < m; j += 16) {
    for (size_t r = 0; r < rows; r += 16) {
      for_columns(sums + (r / 16 * x_groups + j / 16) * kTile,
                  [&](size_t c, __m512i v) GEMMA4_INLINE { _mm512_store_si512(transposed[c] + r, v); });
    }
    for (size_t c = 0; c < 16 && j + c < m; ++c) {
      float* to = y.rows + (j + c) * y.ld;
      for (size_t r = 0; r < whole; r += 16)
        _mm512_storeu_ps(to + r, clamped(_mm512_load_ps(transposed[c] + r), bounds));
      if (whole < rows) _mm512_mask_storeu_ps(to + whole, tail, clamped(_mm512_load_ps(transposed[c] + whole), bounds));
    }
  }
}

template <class W>
void multiply_format(WeightRows weights, const char* x, size_t m, Bounds bounds, OutputRows y, Scratch& s) {
  const TileRegisters registers;
  const auto* w = static_cast<const char*>(weights.rows);
  const size_t stride = weights.stride, rows = weights.count, k = weights.k;
  const size_t steps = steps_of(k), x_groups = (m + 15) / 16;
  const size_t part = steps * kTile, group = parts_of(W::kType).x * part;
  for (size_t first = 0; first < steps; first += kSteps) {
    const size_t count = steps - first < kSteps ? steps - first : kSteps;
    const Operand block{x + first * kTile, part, group};
    const size_t bytes = count * stride / steps;  // of a row
    for (size_t r = 0; r < rows; r += kPair) {
      const size_t live = rows - r < kPair ? rows - r : kPair;
      const char* next = w + (r + kPair < rows ? (r + kPair) * stride : bytes) + first * stride / steps;
      if (live % 16 != 0) __builtin_memset(s.w, 0, sizeof s.w);  // rows that are not there
      for (size_t i = 0; i < live; ++i) {
        const char* row = w + (r + i) * stride;
        for (size_t at = 0; at < bytes; at += 64) _mm_prefetch(next + i * stride + at, _MM_HINT_T1);
        W::unpack(row, k, first, count, s.w + i / 16 * kGroupBytes + i % 16 * 64, kPartBytes);
      }
      char* sums = s.sums + r / 16 * x_groups * kTile;
      if (live > 16) {
        multiply_pair<2, W>(s.w, block, x_groups, count, first > 0, sums);
      } else {
        multiply_pair<1, W>(s.w, block, x_groups, count, first > 0, sums);
      }
    }
  }
  store_sums(s.sums, rows, m, bounds, y);
}

using Multiply = void(WeightRows w, const char* x, size_t m, Bounds bounds, OutputRows y, Scratch& s);
struct Formats {
  Multiply* multiply[kDTypeCount];
};
template <class... Ws>
consteval Formats formats_of() {
  Formats formats{};
  ((formats.multiply[static_cast<int>(Ws::kType)] = multiply_format<Ws>), ...);
  return formats;
}
constexpr Formats kFormatsOf =
    formats_of<F32Weights, F16Weights, BF16Weights, Q8Weights, Q4Weights, Q41Weights, Q5Weights<BlockQ5_0>,
               Q5Weights<BlockQ5_1>, Q4KWeights, Q5KWeights, Q6KWeights, UnpackedWeights<BlockIQ4_NL>,
               UnpackedWeights<BlockMXFP4>, UnpackedWeights<BlockQ2_K>, UnpackedWeights<BlockQ3_K>,
               UnpackedWeights<BlockIQ4_XS>, UnpackedWeights<BlockIQ2_XXS>, UnpackedWeights<BlockIQ2_XS>,
               UnpackedWeights<BlockIQ2_S>, UnpackedWeights<BlockIQ3_XXS>, UnpackedWeights<BlockIQ3_S>>();

static_assert([] {
  for (const FormatTraits& f : kFormats)
    if (!is_quants(f.dtype) && !is_raw(f.dtype) && kFormatsOf.multiply[static_cast<int>(f.dtype)] == nullptr)
      return false;
  return true;
}());

void multiply(DType format, WeightRows w, const void* packed, size_t m, Bounds bounds, OutputRows y, void* scratch) {
  kFormatsOf.multiply[static_cast<int>(format)](w, static_cast<const char*>(packed), m, bounds, y,
                                                *static_cast<Scratch*>(scratch));
}

constexpr TileKernels kTable = {
    .group_bytes = group_bytes, .pack = pack, .scratch_bytes = sizeof(Scratch), .multiply = multiply};

}  // namespace

const TileKernels* tiles_amx_kernels() { return &kTable; }

}  // namespace gemma4
