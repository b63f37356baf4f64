// The cache's rows, the kernels over them on every instruction set, and attention, against double precision.
// Tolerances are derived: u = 2^-24 is the rounding of one f32 operation; a sum of n products in any order is within
// n u of the sum of their magnitudes.
#include "model/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/lines.h"
#include "kernel_testing.h"

namespace gemma4 {
namespace {

const DType kCaches[] = {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_0};
const size_t kRowSizes[] = {32, 64, 96, 160, 256, 512};

// Rows of one format in vectors of exactly their size, so that AddressSanitizer sees every byte too many.
struct Stored {
  Stored(DType t, size_t count, size_t n, const std::vector<float>& x)
      : quants(count * cache_row_bytes(t, n)), scales(count * cache_row_scales(t, n)) {
    for (size_t r = 0; r < count; ++r) {
      store_row(t, x.data() + r * n, n, quants.data() + r * cache_row_bytes(t, n),
                scales.data() + r * cache_row_scales(t, n));
    }
  }
  CacheRows rows() const { return {quants.data(), scales.data()}; }

  std::vector<char> quants;
  std::vector<uint16_t> scales;
};

// Queries (m, n) as the kernels take them.
Lines<char> packed(const CacheKernels& kernels, const float* q, size_t m, size_t n) {
  Lines<char> out;
  kernels.pack(q, n, m, out.room(kernels.query_bytes(n, m)));
  return out;
}

// An element by the layout that cache_rows.h describes.
float element(const Stored& s, DType t, size_t n, size_t r, size_t i) {
  const char* row = s.quants.data() + r * cache_row_bytes(t, n);
  if (t == DType::kF32) return reinterpret_cast<const float*>(row)[i];
  if (t == DType::kBF16)
    return bf16_to_f32(reinterpret_cast<const uint16_t*>(row)[i / 32 * 32 + i % 16 * 2 + i % 32 / 16]);
  const float scale = bf16_to_f32(s.scales[r * cache_row_scales(t, n) + i / 64]);
  if (t == DType::kQ8_0) return scale * static_cast<float>(static_cast<int8_t>(row[i]));
  const auto byte = static_cast<uint8_t>(row[i / 32 * 16 + i % 16]);
  return scale * static_cast<float>((i % 32 < 16 ? byte & 15 : byte >> 4) - 8);
}

// Whether a table multiplies the quants of rows of n elements, which rounds what they meet to 16 bits.
bool uses_integers(const Isa& k, DType t, size_t n) {
  return (k.name == "amx" || k.name == "avx512bf16" || k.name == "avx512vnni") && is_quantized_cache(t) &&
         n % kCacheGroup == 0;
}
// Half a step of them, of the largest magnitude.
constexpr double kHalfStep = 1.0 / 65024;

double largest_magnitude(const float* x, size_t n) {
  double most = 0;
  for (size_t i = 0; i < n; ++i) most = std::max(most, static_cast<double>(std::abs(x[i])));
  return most;
}

class CacheKernelsTest : public testing::TestWithParam<const Isa*> {
 protected:
  const AttentionKernels& k = GetParam()->attention;
  const AttentionKernels& scalar = isa_by_name("scalar").attention;
};

INSTANTIATE_TEST_SUITE_P(Isa, CacheKernelsTest, testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(CacheKernelsTest, RotationIsItsOwnInverseAndTheSameEverywhere) {
  for (const size_t n : kRowSizes) {
    const std::vector<float> x = normal_floats(n, 1);
    std::vector<float> y = x, want = x;
    k.hadamard(y.data(), n);
    scalar.hadamard(want.data(), n);
    EXPECT_EQ(y, want) << n;
    const size_t size = n & (~n + 1);
    double magnitude = 0;
    for (const float f : x) magnitude = std::max(magnitude, static_cast<double>(std::abs(f)));
    for (size_t i = 0; i < n; ++i) {
      double sum = 0;
      const size_t base = i / size * size;
      for (size_t j = 0; j < size; ++j) sum += (__builtin_popcountll(i % size & j) % 2 != 0 ? -1.0 : 1.0) * x[base + j];
      // One rounding in each of log2(size) stages and in the factor, whose own is the last.
      const double bound = (std::log2(size) + 2) * kU * magnitude * std::sqrt(static_cast<double>(size));
      ASSERT_NEAR(y[i], sum / std::sqrt(static_cast<double>(size)), bound) << n << " at " << i;
    }
    k.hadamard(y.data(), n);
    for (size_t i = 0; i < n; ++i)
      ASSERT_NEAR(y[i], x[i], 2 * (std::log2(size) + 2) * kU * magnitude * static_cast<double>(size));
  }
}

TEST_P(CacheKernelsTest, LoadGivesTheStoredElements) {
  for (const DType t : kCaches) {
    for (const size_t n : kRowSizes) {
      const Stored s(t, 3, n, normal_floats(3 * n, 3));
      std::vector<float> out(3 * n);
      k.of(t).load(s.rows(), 3, n, out.data());
      for (size_t i = 0; i < 3 * n; ++i) ASSERT_EQ(out[i], element(s, t, n, i / n, i % n)) << traits(t).name << i;
    }
  }
}

TEST_P(CacheKernelsTest, ScoresAndSumsMatchDouble) {
  for (const DType t : kCaches) {
    for (const size_t n : {32, 64, 96, 192, 512}) {
      const double half_step = uses_integers(*GetParam(), t, n) ? kHalfStep : 0;
      for (const size_t count : {0, 1, 2, 7, 17, 63, 64, 65, 130}) {
        for (const size_t m : {1, 2, 3, 7, 8, 9, 17}) {
          const Stored s(t, count, n, normal_floats(count * n, 4));
          const std::vector<float> q = normal_floats(m * n, 5), p = normal_floats(m * count, 6);
          std::vector<float> y(m * (count + 2), 9.0f), sums = normal_floats(m * n, 7);
          const std::vector<float> before = sums;
          const CacheKernels& kernels = k.of(t);
          kernels.scores(s.rows(), count, n, packed(kernels, q.data(), m, n).data(), m, {y.data(), count + 2},
                         s.quants.data());
          kernels.sum(s.rows(), count, n, {p.data(), count, m}, sums.data(), s.quants.data());
          double most_scale = 0;  // a bound for every group: its scale is rounded together with the weights
          for (const uint16_t scale : s.scales) most_scale = std::max(most_scale, std::abs(double{bf16_to_f32(scale)}));
          for (size_t j = 0; j < m; ++j) {
            const double q_step = half_step * largest_magnitude(&q[j * n], n);
            const double p_step = half_step * most_scale * largest_magnitude(p.data() + j * count, count);
            for (size_t r = 0; r < count; ++r) {
              double sum = 0, magnitude = 0, elements = 0;
              for (size_t i = 0; i < n; ++i) {
                const double e = element(s, t, n, r, i), product = static_cast<double>(q[j * n + i]) * e;
                sum += product, magnitude += std::abs(product), elements += std::abs(e);
              }
              // What is rounded away is within the sums' own rounding of a step.
              const double bound = (n + 2) * kU * magnitude + 1.01 * q_step * elements;
              ASSERT_NEAR(y[j * (count + 2) + r], sum, bound) << traits(t).name << n << " " << m;
            }
            ASSERT_EQ(y[j * (count + 2) + count], 9.0f) << "wrote between the results";
            for (size_t i = 0; i < n; ++i) {
              double sum = before[j * n + i], magnitude = std::abs(sum), quants = 0;
              for (size_t r = 0; r < count; ++r) {
                const double e = element(s, t, n, r, i), product = static_cast<double>(p[j * count + r]) * e;
                const double scale = half_step > 0 ? bf16_to_f32(s.scales[r * (n / kCacheGroup) + i / kCacheGroup]) : 1;
                sum += product, magnitude += std::abs(product), quants += std::abs(e / scale);
              }
              const double bound = 2 * (count + 2) * kU * magnitude + 1.01 * p_step * quants;
              ASSERT_NEAR(sums[j * n + i], sum, bound) << traits(t).name << n << " " << m;
            }
          }
        }
      }
    }
  }
}

TEST_P(CacheKernelsTest, TheSplitChangesNoBit) {
  struct Size {
    size_t n, count, m;
  };
  for (const auto [n, count, m] : {Size{96, 37, 15}, Size{128, 85, 11}}) {
    for (const DType t : kCaches) {
      const Stored s(t, count, n, normal_floats(count * n, 8));
      const std::vector<float> q = normal_floats(m * n, 9), p = normal_floats(m * count, 10);
      const CacheKernels& kernels = k.of(t);
      const char* row0 = s.quants.data();
      std::vector<float> whole(m * count), parts(m * count), sum(m * n, 1.0f), sum_parts(m * n, 1.0f);
      kernels.scores(s.rows(), count, n, packed(kernels, q.data(), m, n).data(), m, {whole.data(), count}, row0);
      kernels.sum(s.rows(), count, n, {p.data(), count, m}, sum.data(), row0);
      // Integers round the weights of 64 rows of a call together, so for their sums only queries may be split.
      const size_t together = uses_integers(*GetParam(), t, n) ? count : 1;
      for (size_t j = 0; j < m; ++j) {
        const auto one = packed(kernels, q.data() + j * n, 1, n);
        for (size_t r = 0; r < count; ++r) {
          const CacheRows row{s.quants.data() + r * cache_row_bytes(t, n),
                              s.scales.data() + r * cache_row_scales(t, n)};
          kernels.scores(row, 1, n, one.data(), 1, {parts.data() + j * count + r, count}, row0);
          if (r % together == 0)
            kernels.sum(row, together, n, {p.data() + j * count + r, count, 1}, sum_parts.data() + j * n, row0);
        }
      }
      EXPECT_EQ(whole, parts) << traits(t).name << " " << n;
      EXPECT_EQ(sum, sum_parts) << traits(t).name << " " << n;
    }
  }
}

TEST_P(CacheKernelsTest, WhatIsNotFiniteStaysInItsResults) {
  constexpr size_t n = 128, count = 70, m = 3;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType t : kCaches) {
    std::vector<float> x = normal_floats(count * n, 16), q = normal_floats(m * n, 17), p = normal_floats(m * count, 18);
    x[66 * n + 70] = nan;  // becomes that of its group in a quantized cache
    q[n] = nan;
    p[2 * count + 5] = nan;
    const Stored s(t, count, n, x);
    const CacheKernels& kernels = k.of(t);
    std::vector<float> y(m * count), sum(m * n);
    kernels.scores(s.rows(), count, n, packed(kernels, q.data(), m, n).data(), m, {y.data(), count}, s.quants.data());
    kernels.sum(s.rows(), count, n, {p.data(), count, m}, sum.data(), s.quants.data());
    for (size_t j = 0; j < m; ++j) {
      for (size_t r = 0; r < count; ++r)
        ASSERT_EQ(std::isnan(y[j * count + r]), j == 1 || r == 66) << traits(t).name << j << " " << r;
      for (size_t i = 0; i < n; ++i)
        ASSERT_EQ(std::isnan(sum[j * n + i]), j == 2 || std::isnan(element(s, t, n, 66, i))) << traits(t).name << j;
    }
  }
}

TEST(CacheRowsTest, TheErrorOfARowIsBounded) {
  for (const size_t n : kRowSizes) {
    const std::vector<float> x = normal_floats(50 * n, 11);
    for (const DType t : {DType::kQ8_0, DType::kQ4_0}) {
      const Stored s(t, 50, n, x);
      double error = 0, square = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double e = x[i] - element(s, t, n, i / n, i % n);
        const double scale = std::abs(bf16_to_f32(s.scales[i / n * cache_row_scales(t, n) + i % n / 64]));
        error += e * e, square += static_cast<double>(x[i]) * x[i];
        // Half a step; at the ends of Q4_0 up to 0.4 steps are cut on one side (8.4 becomes 8) and 1.4 on the other,
        // where bf16 moved the scale by 2^-9 of 8.4.
        ASSERT_LE(std::abs(e), scale * (t == DType::kQ8_0 ? 0.5 : 1.42) * (1 + 1e-5));
      }
      // Of a normal distribution 64 values have the extreme 2.6 on average: a step of 2.6 / 127 or 2.6 / 8.4, whose
      // rounding error has the deviation step / sqrt(12); 10 % for the spread of the extremes and what is cut.
      const double step = 2.6 / (t == DType::kQ8_0 ? 127 : 8.4);
      EXPECT_LE(std::sqrt(error / square), 1.1 * step / std::sqrt(12.0)) << traits(t).name << " " << n;
    }
  }
}

TEST(CacheRowsTest, WhatIsNotFiniteBecomesNaN) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = normal_floats(128, 12);
    x[70] = bad;
    for (const DType t : {DType::kQ8_0, DType::kQ4_0}) {
      const Stored s(t, 1, 128, x);
      EXPECT_FALSE(std::isnan(element(s, t, 128, 0, 3)));
      EXPECT_TRUE(std::isnan(element(s, t, 128, 0, 70)));
    }
  }
}

// --- the cache -------------------------------------------------------------------------------------------------------

TextConfig one_layer(bool sliding, size_t heads, size_t kv_heads, size_t head_dim, size_t window = 40) {
  TextConfig config;
  config.heads = static_cast<int>(heads);
  config.window = static_cast<int>(window);
  LayerSpec spec;
  spec.sliding = sliding;
  spec.kv_heads = static_cast<int>(kv_heads);
  spec.head_dim = static_cast<int>(head_dim);
  config.layers.push_back(spec);
  return config;
}

TEST(KVCacheTest, QuantizedRowsTakeAHalfAndAQuarter) {
  for (const size_t head_dim : {64, 128, 256, 512}) {
    for (const bool sliding : {false, true}) {
      const TextConfig config = one_layer(sliding, 8, 1, head_dim, 512);
      const auto bytes = [&](DType t) { return static_cast<double>(KVCache(config, t, 4096, 256).bytes()); };
      EXPECT_EQ(bytes(DType::kF32), 2 * bytes(DType::kBF16));
      EXPECT_LE(bytes(DType::kQ8_0), 0.53 * bytes(DType::kBF16)) << head_dim;
      EXPECT_LE(bytes(DType::kQ4_0), 0.28 * bytes(DType::kBF16)) << head_dim;
    }
  }
}

TEST(KVCacheTest, OtherFormatsAreRefused) {
  for (const DType t : {DType::kF16, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
    try {
      KVCache(one_layer(true, 1, 1, 32), t, 64, 8);
      FAIL() << "not refused";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kRequest);
      EXPECT_NE(std::string(e.what()).find(std::string(traits(t).name)), std::string::npos) << e.what();
    }
  }
}

TEST(KVCacheTest, GrowingKeepsTheRows) {
  const TextConfig config = one_layer(true, 2, 2, 40);
  for (const DType t : kCaches) {
    KVCache cache(config, t, 300, 8);
    Lines<float> kept;
    const size_t row = padded_head(40);
    std::vector<float> want(2 * row), got(2 * row);
    const auto read = [&](size_t p, std::vector<float>& to) {
      for (size_t head = 0; head < 2; ++head)
        active_isa().attention.of(t).load(cache.keys(0, head, p), 1, row, to.data() + head * row);
    };
    for (size_t p = 0; p < 100; ++p)
      for (size_t head = 0; head < 2; ++head) {
        const auto x = normal_floats(40, static_cast<uint32_t>(2 * p + head));
        cache.write(active_isa().attention, 0, head, p, x.data(), x.data(), kept);
      }
    std::vector<std::vector<float>> before(100, std::vector<float>(2 * row));
    for (size_t p = 60; p < 100; ++p) read(p, before[p]);
    cache.reserve_chunk(config, 50, 100);
    EXPECT_EQ(cache.chunk(), 50u);
    for (size_t p = 60; p < 100; ++p) {
      read(p, got);
      ASSERT_EQ(got, before[p]) << traits(t).name << " position " << p;
    }
  }
}

TEST(KVCacheTest, RowsHaveTheSameBitsOnEveryInstructionSet) {
  for (const DType t : kCaches) {
    for (const size_t n : {10, 32, 64, 96, 160, 256, 512}) {
      std::vector<float> x = normal_floats(8 * n, 2);
      std::fill_n(x.begin() + n, n, 0.0f);                    // nothing
      for (size_t i = 0; i < n; ++i) x[2 * n + i] *= 1e-38f;  // too small for a scale
      for (size_t i = 0; i < n; ++i) x[3 * n + i] *= 1e36f;
      x[4 * n + 5] = 1000;  // one that stands out
      x[5 * n + 7] = std::numeric_limits<float>::quiet_NaN();
      x[6 * n + n - 1] = -std::numeric_limits<float>::infinity();
      for (size_t i = 0; i < n; ++i) x[7 * n + i] = static_cast<float>(i % 5) - 2.0f;  // ties
      const TextConfig config = one_layer(false, 1, 1, n);
      const size_t row = padded_head(n);
      KVCache want(config, t, 8, 8);
      Lines<float> kept;
      for (size_t p = 0; p < 8; ++p) want.write(isa_by_name("scalar").attention, 0, 0, p, &x[p * n], &x[p * n], kept);
      for (const Isa* k : supported_isas()) {
        KVCache got(config, t, 8, 8);
        for (size_t p = 0; p < 8; ++p) got.write(k->attention, 0, 0, p, &x[p * n], &x[p * n], kept);
        const CacheRows a = got.keys(0, 0, 0), b = want.keys(0, 0, 0);
        EXPECT_EQ(std::memcmp(a.quants, b.quants, 8 * cache_row_bytes(t, row)), 0) << k->name << traits(t).name << n;
        EXPECT_EQ(std::memcmp(a.scales, b.scales, 16 * cache_row_scales(t, row)), 0) << k->name << traits(t).name << n;
      }
    }
  }
}

// --- attention -------------------------------------------------------------------------------------------------------

struct Case {
  size_t heads, kv_heads, head_dim, rows, length;
  bool sliding = false;
};

// Queries at the last `rows` of `length` positions; on a sliding layer the window is 40 and the ring has wrapped.
struct Problem {
  explicit Problem(const Case& c, DType t)
      : shape{0, c.heads, c.kv_heads, c.head_dim},
        rows(c.rows),
        q(normal_floats(c.rows * c.heads * c.head_dim, 21)),
        cache(one_layer(c.sliding, c.heads, c.kv_heads, c.head_dim), t, c.length, c.rows) {
    const float sharpen = 3.0f / std::sqrt(static_cast<float>(c.head_dim));
    for (float& f : q) f *= sharpen;
    Lines<float> kept;
    for (size_t p = 0; p < c.length; ++p) {
      for (size_t head = 0; head < c.kv_heads; ++head) {
        const auto seed = static_cast<uint32_t>(100 + p * c.kv_heads + head);
        cache.write(active_isa().attention, 0, head, p, normal_floats(c.head_dim, seed).data(),
                    normal_floats(c.head_dim, seed + 1000000).data(), kept);
      }
    }
    for (size_t r = 0; r < c.rows; ++r) {
      const size_t position = c.length - c.rows + r;
      visible.push_back({c.sliding && position > 39 ? position - 39 : 0, position + 1});
    }
    // A picture's run: rows that see to its end.
    for (size_t r = c.rows / 3; r < c.rows / 2; ++r) visible[r].last = visible[c.rows / 2].last;
  }

  std::vector<float> run(const Isa& k, int threads) const {
    ThreadPool pool(threads);
    Workspace workspace(pool.size());
    Interrupt never;
    AttentionScratch scratch;
    std::vector<float> out(q.size(), -1.0f);
    const Look look{&cache, rows};
    attend({k, pool, never, workspace}, shape, {&look, 1}, q.data(), visible.data(), scratch, out.data());
    return out;
  }

  AttentionShape shape;
  size_t rows;
  std::vector<float> q;
  KVCache cache;
  std::vector<Visible> visible;
};

// The rows of the cache as they are, rotated back, and a softmax over all of them at once.
std::vector<double> plain(const Problem& p) {
  const size_t dim = p.shape.head_dim, row = padded_head(dim), group = p.shape.heads / p.shape.kv_heads;
  const DType t = p.cache.dtype();
  const auto head_of = [&](CacheRows r) {
    std::vector<float> x(row);
    active_isa().attention.of(t).load(r, 1, row, x.data());
    if (is_quantized_cache(t)) active_isa().attention.hadamard(x.data(), row);
    return x;
  };
  std::vector<double> out;
  for (size_t r = 0; r < p.rows; ++r) {
    for (size_t h = 0; h < p.shape.heads; ++h) {
      const float* q = p.q.data() + (r * p.shape.heads + h) * dim;
      std::vector<double> scores, sum(dim, 0.0);
      double highest = -std::numeric_limits<double>::infinity(), total = 0;
      for (size_t at = p.visible[r].first; at < p.visible[r].last; ++at) {
        const auto key = head_of(p.cache.keys(0, h / group, at));
        double s = 0;
        for (size_t i = 0; i < dim; ++i) s += static_cast<double>(q[i]) * key[i];
        scores.push_back(s);
        highest = std::max(highest, s);
      }
      for (size_t at = p.visible[r].first; at < p.visible[r].last; ++at) {
        const auto value = head_of(p.cache.values(0, h / group, at));
        const double weight = std::exp(scores[at - p.visible[r].first] - highest);
        total += weight;
        for (size_t i = 0; i < dim; ++i) sum[i] += weight * value[i];
      }
      for (const double s : sum) out.push_back(s / total);
    }
  }
  return out;
}

const Case kCases[] = {
    {1, 1, 10, 1, 1},          {4, 2, 16, 1, 50},         {8, 1, 64, 1, 700},  {8, 1, 256, 1, 130},
    {10, 1, 40, 3, 300},       {6, 2, 24, 70, 150, true}, {4, 4, 32, 37, 200}, {4, 1, 14, 1, 90, true},
    {2, 1, 512, 9, 129, true}, {130, 1, 8, 2, 129},       {8, 2, 32, 1, 5000},
};

TEST(AttentionTest, EqualsAPlainSoftmaxInEveryFormatAndInstructionSet) {
  for (const Case& c : kCases) {
    for (const DType t : kCaches) {
      const Problem p(c, t);
      const std::vector<double> want = plain(p);
      for (const Isa* k : supported_isas()) {
        const std::vector<float> got = p.run(*k, 2);
        for (size_t i = 0; i < got.size(); ++i) {
          // Scores are below 20: their error of n u 20 is that of every weight, and values are below 6.
          double bound = 6 * kU * (20.0 * static_cast<double>(padded_head(c.head_dim)) + 200);
          if (c.rows == 1 && uses_integers(*k, t, padded_head(c.head_dim))) {
            // Queries are below 5 * 3 / sqrt(n) and the n elements of a key below 1 on average. Of 64 weights together
            // each is off by half a step of the largest, and all largest ones are in what the sum is divided by.
            bound += 6 * kHalfStep * (15.0 * std::sqrt(static_cast<double>(c.head_dim)) + 64);
          }
          ASSERT_NEAR(got[i], want[i], bound) << k->name << " " << traits(t).name << " heads " << c.heads << " of "
                                              << c.head_dim << ", " << c.rows << " rows at " << c.length;
        }
      }
    }
  }
}

TEST(AttentionTest, TheNumberOfThreadsChangesNoBit) {
  for (const Case& c : kCases) {
    for (const DType t : kCaches) {
      const Problem p(c, t);
      const auto one = p.run(active_isa(), 1);
      EXPECT_EQ(p.run(active_isa(), 2), one) << traits(t).name << " at " << c.length;
      EXPECT_EQ(p.run(active_isa(), 3), one) << traits(t).name << " at " << c.length;
    }
  }
}

TEST(AttentionTest, ANaNReachesTheRowsThatSeeIt) {
  for (const DType t : kCaches) {
    Problem p({2, 1, 64, 3, 600}, t);
    std::vector<float> bad = normal_floats(64, 1);
    bad[3] = std::numeric_limits<float>::quiet_NaN();
    Lines<float> kept;
    p.cache.write(active_isa().attention, 0, 0, 598, bad.data(), normal_floats(64, 2).data(), kept);
    const auto out = p.run(active_isa(), 2);
    for (size_t i = 0; i < 128; ++i) ASSERT_FALSE(std::isnan(out[i])) << traits(t).name;
    for (size_t i = 128; i < out.size(); ++i) ASSERT_TRUE(std::isnan(out[i])) << traits(t).name << " " << i;
  }
}

TEST(AttentionTest, NoRowsIsNoWork) {
  const Problem p({2, 1, 32, 1, 4}, DType::kBF16);
  ThreadPool pool(1);
  Workspace workspace(pool.size());
  Interrupt never;
  AttentionScratch scratch;
  const Look nothing{&p.cache, 0};
  attend({active_isa(), pool, never, workspace}, p.shape, {&nothing, 1}, nullptr, nullptr, scratch, nullptr);
  EXPECT_EQ(scratch.sums.size(), 0u);
}

}  // namespace
}  // namespace gemma4
