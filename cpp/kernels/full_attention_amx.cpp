// The kernels of full attention by AMX with bf16 (concept in tiles_amx.h).
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but
// full_attention_amx_kernels, and no inline function of another header may be called (see tables.h).
//
// Two products: queries meet transposed keys, and their weights meet values, of which pairs of keys are a word. 32
// queries pass over a block of keys together. The exact way takes everything as a sum of parts, the rounded way one
// part.
#include "kernels/full_attention.h"
#include "kernels/full_attention_body.h"
#include "kernels/tiles_amx.h"
#include "kernels/vec512.h"

namespace gemma4 {
namespace {

constexpr size_t kPair = 32;  // queries that pass together: two groups
static_assert(kFullQueries % kPair == 0 && kFullKeys % kPair == 0);

// Everything that is multiplied is a sum of kParts.
template <size_t kParts>
struct TileAttention {
  static constexpr size_t kKeyGroups = kFullKeys / 16, kKeySteps = kFullKeys / kStep;

  explicit TileAttention(size_t dim_) : dim(dim_), steps(steps_of(dim_)), width(steps * kStep) {}

  // A block: keys (kParts, groups of keys, steps), then values (kParts, groups of dimensions, steps of keys).
  size_t key_part() const { return kKeyGroups * steps * kTile; }
  size_t value_part() const { return width / 16 * kKeySteps * kTile; }
  size_t block_bytes() const { return kParts * (key_part() + value_part()); }

  // What `attend` works in: queries (kParts, groups, steps), weights (kParts, 2 groups, steps of keys), scores
  // (32, kFullKeys) f32, and results (kFullQueries, width) f32.
  size_t query_part() const { return kFullQueries / 16 * steps * kTile; }
  size_t weight_part() const { return 2 * kKeySteps * kTile; }
  size_t weights_at() const { return kParts * query_part(); }
  size_t scores_at() const { return weights_at() + kParts * weight_part(); }
  size_t results_at() const { return scores_at() + kPair * kFullKeys * sizeof(float); }
  size_t scratch_bytes() const { return results_at() + kFullQueries * width * sizeof(float); }

  void pack(const float* k, const float* v, size_t ld, size_t keys, char* block) const;
  void attend(const char* block, size_t keys, float* q, size_t ld, size_t queries, char* scratch) const;

  size_t dim, steps, width;

 private:
  struct Running {
    float max, sum;
  };
  void pass(const char* block, size_t keys, const char* queries, char* scratch, Running* running, float* out) const;
  float weigh(float* scores, size_t keys, Running& running, char* weights) const;
};

template <size_t kParts>
void TileAttention<kParts>::pack(const float* k, const float* v, size_t ld, size_t keys, char* block) const {
  for (size_t r = 0; r < kFullKeys; r += 16) {
    const size_t live = r >= keys ? 0 : keys - r < 16 ? keys - r : 16;
    for (size_t s = 0; s < steps; ++s) {
      const auto row = [&](size_t i)
                           GEMMA4_INLINE { return load_floats(k + (r + i) * ld + s * kStep, dim - s * kStep); };
      store_turned<kParts>(live, row, block + (r / 16 * steps + s) * kTile, key_part());
    }
  }
  char* values = block + kParts * key_part();
  for (size_t r = 0; r < kFullKeys; r += 2) {
    for (size_t d = 0; d < width; d += 16) {
      const auto row = [&](size_t key) GEMMA4_INLINE {
        const size_t n = d < dim ? dim - d : 0;
        const auto live = static_cast<__mmask16>(key >= keys ? 0 : n < 16 ? (1u << n) - 1 : 0xffffu);
        return _mm512_maskz_loadu_ps(live, v + key * ld + d);
      };
      char* to = values + (d / 16 * kKeySteps + r / kStep) * kTile + r % kStep / 2 * 64;
      for_parts<kParts>({row(r), row(r + 1)}, [&](size_t part, __m512i rows) GEMMA4_INLINE {
        _mm512_store_si512(to + part * value_part(), paired(rows));
      });
    }
  }
}

// The weights of one query for a block, as a row of tiles; returns what its results so far shrink by.
//   scores: (kFullKeys), `keys` of them meant
template <size_t kParts>
float TileAttention<kParts>::weigh(float* scores, size_t keys, Running& running, char* weights) const {
  using V = Vec512;
  constexpr bool kExact = kParts > 1;
  const size_t whole = padded(keys, kStep);
  for (size_t i = keys; i < whole; ++i) scores[i] = -__builtin_inff();
  const float best = larger(running.max, largest<V>(scores, whole));
  const auto weight = [&](V::F score) GEMMA4_INLINE {
    if constexpr (kExact) return exp<V>(V::sub(score, V::set(best)));
    return exp2_of_negative<V>(V::mul(V::sub(score, V::set(best)), V::set(kLog2E)));
  };
  V::F sum = V::set(0.0f);
  for (size_t i = 0; i < whole; i += kStep) {
    const Floats f{weight(V::load(scores + i, All{})), weight(V::load(scores + i + 16, All{}))};
    sum = V::add(sum, V::add(f.low, f.high));
    store_parts<kParts>(f, weights + i / kStep * kTile, weight_part());
  }
  const float shrink = first_lane<V>(weight(V::set(running.max)));
  running = {best, running.sum * shrink + V::sum(sum)};
  return shrink;
}

// 32 queries and one block.
template <size_t kParts>
void TileAttention<kParts>::pass(const char* block, size_t keys, const char* queries, char* scratch, Running* running,
                                 float* out) const {
  char* weights = scratch + weights_at();
  auto* scores = reinterpret_cast<float*>(scratch + scores_at());
  constexpr size_t kLine = kFullKeys * sizeof(float);
  const size_t whole = padded(keys, kPair), line = width * sizeof(float);
  for (size_t r = 0; r < whole; r += kPair) {
    multiply_groups<2, 2, kParts, kParts>({queries, query_part(), steps * kTile},
                                          {block + r / 16 * steps * kTile, key_part(), steps * kTile}, steps, false,
                                          {reinterpret_cast<char*>(scores + r), kLine, 16 * kLine, 16 * sizeof(float)});
  }
  for (size_t j = 0; j < kPair; ++j) {
    char* row = weights + j / 16 * kKeySteps * kTile + j % 16 * 64;
    scale<Vec512>(weigh(scores + j * kFullKeys, keys, running[j], row), out + j * width, out + j * width, width);
  }
  const char* values = block + kParts * key_part();
  for (size_t d = 0; d < width; d += 32) {
    multiply_groups<2, 2, kParts, kParts>({weights, weight_part(), kKeySteps * kTile},
                                          {values + d / 16 * kKeySteps * kTile, value_part(), kKeySteps * kTile},
                                          whole / kStep, true,
                                          {reinterpret_cast<char*>(out + d), line, 16 * line, 16 * sizeof(float)});
  }
}

template <size_t kParts>
void TileAttention<kParts>::attend(const char* block, size_t keys, float* q, size_t ld, size_t queries,
                                   char* scratch) const {
  const TileRegisters registers;
  auto* out = reinterpret_cast<float*>(scratch + results_at());  // (queries, width)
  const size_t all = padded(queries, kPair);                     // completed with zeros
  Running running[kFullQueries];
  __builtin_memset(scratch, 0, weights_at());
  __builtin_memset(out, 0, all * width * sizeof(float));
  for (size_t j = 0; j < all; ++j) running[j] = {-__builtin_inff(), 0.0f};
  for (size_t j = 0; j < queries; ++j) {
    for (size_t s = 0; s < steps; ++s)
      store_parts<kParts>(load_floats(q + j * ld + s * kStep, dim - s * kStep),
                          scratch + (j / 16 * steps + s) * kTile + j % 16 * 64, query_part());
  }
  for (size_t first = 0; first < keys; first += kFullKeys, block += block_bytes()) {
    const size_t count = keys - first < kFullKeys ? keys - first : kFullKeys;
    for (size_t j = 0; j < all; j += kPair)
      pass(block, count, scratch + j / 16 * steps * kTile, scratch, running + j, out + j * width);
  }
  for (size_t j = 0; j < queries; ++j) scale<Vec512>(1.0f / running[j].sum, out + j * width, q + j * ld, dim);
}

template <class A>
consteval FullAttention make_tile_attention() {
  return {.block_bytes = [](size_t dim) { return A(dim).block_bytes(); },
          .scratch_bytes = [](size_t dim) { return A(dim).scratch_bytes(); },
          .pack = [](const float* k, const float* v, size_t ld, size_t keys, size_t dim,
                     void* block) { A(dim).pack(k, v, ld, keys, static_cast<char*>(block)); },
          .attend =
              [](const void* blocks, size_t keys, size_t dim, float* q, size_t ld, size_t queries, void* scratch) {
                A(dim).attend(static_cast<const char*>(blocks), keys, q, ld, queries, static_cast<char*>(scratch));
              }};
}

constexpr FullAttentionKernels kTable = {.exact = make_tile_attention<TileAttention<3>>(),
                                         .rounded = make_tile_attention<TileAttention<1>>()};

}  // namespace

const FullAttentionKernels* full_attention_amx_kernels() { return &kTable; }

}  // namespace gemma4
