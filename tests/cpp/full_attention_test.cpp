// Attention in which every query sees every key, on every instruction set, against double precision.
// Tolerances are derived: u = 2^-24 is the rounding of one f32 operation. An error e in every weight moves a weighted
// mean by at most 2 e max |v|.
#include "kernels/full_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/lines.h"
#include "kernel_testing.h"
#include "kernels/tiles.h"

namespace gemma4 {
namespace {

struct Case {
  size_t keys, dim, queries;
};

// Around every edge: vectors, groups of keys, blocks of keys, tiles of queries; heads that fill no vector.
const Case kCases[] = {{1, 4, 1},     {2, 8, 5},     {63, 64, 7},  {64, 20, 6},  {65, 64, 12},
                       {127, 32, 3},  {129, 72, 13}, {255, 64, 4}, {256, 64, 8}, {257, 64, 9},
                       {300, 100, 2}, {513, 36, 95}, {600, 64, 96}};

// Rows of `dim` floats, `ld` apart; what lies between them must stay as it is.
struct Rows {
  Rows(size_t rows_, size_t dim_, float size, uint32_t seed)
      : rows(rows_), dim(dim_), ld(dim_ + 3), x(rows_ * ld, 7.0f) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0, size);
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < dim; ++i) at(r)[i] = normal(rng);
  }
  float* at(size_t r) { return x.data() + r * ld; }
  const float* at(size_t r) const { return x.data() + r * ld; }

  size_t rows, dim, ld;
  std::vector<float> x;
};

struct Problem {
  explicit Problem(const Case& c, float size = 1.0f)
      : q(c.queries, c.dim, size, 1), k(c.keys, c.dim, size, 2), v(c.keys, c.dim, 1, 3) {}
  Rows q, k, v;
};

// The queries [first, first + count) of a problem, in place.
void attend(const FullAttention& f, const Problem& p, Rows& q, size_t first, size_t count) {
  const size_t dim = p.k.dim, keys = p.k.rows, bytes = f.block_bytes(dim);
  ASSERT_EQ(bytes % 64, 0u);
  Lines<char> blocks((keys + kFullKeys - 1) / kFullKeys * bytes), scratch(f.scratch_bytes(dim));
  for (auto* memory : {&blocks, &scratch}) std::memset(memory->data(), 0xff, memory->size());  // NaN
  for (size_t r = 0; r < keys; r += kFullKeys)
    f.pack(p.k.at(r), p.v.at(r), p.k.ld, std::min(kFullKeys, keys - r), dim, &blocks[r / kFullKeys * bytes]);
  f.attend(blocks.data(), keys, dim, q.at(first), q.ld, count, scratch.data());
}

Rows result(const FullAttention& f, const Problem& p) {
  Rows q = p.q;
  attend(f, p, q, 0, q.rows);
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t i = q.dim; i < q.ld && r * q.ld + i < q.x.size(); ++i) EXPECT_EQ(q.at(r)[i], 7.0f);
  return q;
}

// The scores of a query, in double.
std::vector<double> scores(const float* q, const Rows& k) {
  std::vector<double> s;
  for (size_t r = 0; r < k.rows; ++r) {
    double sum = 0;
    for (size_t i = 0; i < k.dim; ++i) sum += static_cast<double>(q[i]) * k.at(r)[i];
    s.push_back(sum);
  }
  return s;
}

// softmax, not divided by its sum; the largest is 1.
std::vector<double> weights(std::vector<double> s) {
  const double best = *std::max_element(s.begin(), s.end());
  for (double& x : s) x = std::exp(x - best);
  return s;
}

double total(const std::vector<double>& p) {
  double sum = 0;
  for (double x : p) sum += x;
  return sum;
}

std::vector<double> mean(const std::vector<double>& p, const Rows& v) {
  std::vector<double> out(v.dim, 0);
  for (size_t r = 0; r < v.rows; ++r)
    for (size_t i = 0; i < v.dim; ++i) out[i] += p[r] * v.at(r)[i] / total(p);
  return out;
}

// The magnitudes of a score's products, summed: of the key where that is the most.
double largest_products(const float* q, const Rows& k) {
  double size = 0;
  for (size_t r = 0; r < k.rows; ++r) {
    double sum = 0;
    for (size_t i = 0; i < k.dim; ++i) sum += std::abs(q[i] * k.at(r)[i]);
    size = std::max(size, sum);
  }
  return size;
}

double largest(const Rows& x) {
  float most = 0;
  for (size_t r = 0; r < x.rows; ++r)
    for (size_t i = 0; i < x.dim; ++i) most = std::max(most, std::abs(x.at(r)[i]));
  return most;
}

// What rounding to int8 makes of rows, and their quants.
struct Rounded {
  explicit Rounded(const Rows& from) : rows(from), quants(from) {
    for (size_t r = 0; r < from.rows; ++r) {
      float most = 0;
      for (size_t i = 0; i < from.dim; ++i) most = std::max(most, std::abs(from.at(r)[i]));
      scale.push_back(most / 127.0f);
      for (size_t i = 0; i < from.dim; ++i) {
        quants.at(r)[i] = std::nearbyint(from.at(r)[i] * (127.0f / most));
        rows.at(r)[i] = quants.at(r)[i] * scale[r];
      }
    }
  }
  Rows rows, quants;
  std::vector<float> scale;
};

class FullAttentionTest : public testing::TestWithParam<const Isa*> {
 protected:
  const FullAttentionKernels& k = GetParam()->full_attention;
  const bool tiled = GetParam()->tiles != nullptr;  // weights and values in bf16, not in int8
  const bool scores_in_bf16 = tiled || GetParam()->name == "avx512bf16";
};

INSTANTIATE_TEST_SUITE_P(Isa, FullAttentionTest, testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(FullAttentionTest, ExactEqualsTheSoftmax) {
  for (const Case& c : kCases) {
    const Problem p(c);
    const Rows got = result(k.exact, p);
    const double v = largest(p.v);
    for (size_t j = 0; j < c.queries; ++j) {
      const double size = largest_products(p.q.at(j), p.k);
      // A score, its distance to the largest, exp; then the sums of weights and of values.
      const double weight = static_cast<double>(c.dim) * kU * size + 2 * size * kU + 8 * kU;
      const double tolerance = v * (2 * weight + 2 * static_cast<double>(c.keys + 16) * kU);
      const std::vector<double> want = mean(weights(scores(p.q.at(j), p.k)), p.v);
      for (size_t i = 0; i < c.dim; ++i)
        ASSERT_NEAR(got.at(j)[i], want[i], tolerance) << c.keys << " keys of " << c.dim << ", query " << j;
    }
  }
}

// Rounded to bfloat16, ties to even.
Rows in_bfloat16(Rows rows) {
  for (float& x : rows.x) x = bf16_to_f32(f32_to_bf16(x));
  return rows;
}

// Against the softmax over what int8 leaves of the values, and bfloat16 of queries and keys where scores are made of
// that: their products are exact in f32, and only the weights are rounded then.
TEST_P(FullAttentionTest, RoundedEqualsTheSoftmaxOfRoundedValues) {
  if (tiled) return;  // see the next
  for (const Case& c : kCases) {
    const Problem p(c);
    const Rows got = result(k.rounded, p);
    const Rounded rv(p.v);
    const Rows q = scores_in_bf16 ? in_bfloat16(p.q) : p.q, keys = scores_in_bf16 ? in_bfloat16(p.k) : p.k;
    for (size_t j = 0; j < c.queries; ++j) {
      const std::vector<double> weight = weights(scores(q.at(j), keys)), want = mean(weight, rv.rows);
      const double size = largest_products(q.at(j), keys);
      for (size_t i = 0; i < c.dim; ++i) {
        // Half a quant of every weight; a quant is 1/127 of the largest weight and of the largest scale in the block.
        double bound = 0;
        for (size_t g = 0; g < c.keys; g += kFullKeys) {
          const size_t end = std::min(c.keys, g + kFullKeys);
          const double quant =
              *std::max_element(weight.begin() + static_cast<long>(g), weight.begin() + static_cast<long>(end)) *
              *std::max_element(rv.scale.begin() + static_cast<long>(g), rv.scale.begin() + static_cast<long>(end)) /
              127;
          for (size_t r = g; r < end; ++r) bound += 0.5 * quant * std::abs(rv.quants.at(r)[i]);
        }
        // exp is within 5e-5 in every weight and in what scales a group; scores within a few roundings.
        const double rest =
            largest(p.v) * (4 * 5e-5 + 2 * (static_cast<double>(c.dim + 8) * size + static_cast<double>(c.keys)) * kU);
        ASSERT_NEAR(got.at(j)[i], want[i], 1.01 * bound / total(weight) + rest)
            << c.keys << " keys of " << c.dim << ", query " << j;
      }
    }
  }
}

// Tiles: products of queries and keys in bfloat16 are exact in f32; a weight and a value are off by 2^-9 of themselves
// at most.
TEST_P(FullAttentionTest, TilesRoundToBfloat16) {
  if (!tiled) return;
  for (const Case& c : kCases) {
    const Problem p(c);
    const Rows got = result(k.rounded, p), q = in_bfloat16(p.q), keys = in_bfloat16(p.k);
    for (size_t j = 0; j < c.queries; ++j) {
      const std::vector<double> weight = weights(scores(q.at(j), keys)), want = mean(weight, p.v);
      const double size = largest_products(q.at(j), keys);
      for (size_t i = 0; i < c.dim; ++i) {
        double magnitude = 0;
        for (size_t r = 0; r < c.keys; ++r) magnitude += weight[r] * std::abs(p.v.at(r)[i]) / total(weight);
        const double rest =
            largest(p.v) * (4 * 5e-5 + 2 * (static_cast<double>(c.dim + 8) * size + static_cast<double>(c.keys)) * kU);
        ASSERT_NEAR(got.at(j)[i], want[i], 2.01 * 0x1p-9 * magnitude + rest)
            << c.keys << " keys of " << c.dim << ", query " << j;
      }
    }
  }
}

// How far int8 is from f32, in root mean square: half a quant of the largest at most, of values and of weights.
// The squared error is at most what rounding weights and values evenly within a quant makes of it, a twelfth of the
// quant's square each; the many weights far below half a quant lose less.
TEST_P(FullAttentionTest, RoundedIsNearTheSoftmax) {
  const Case c{600, 64, 96};
  const Problem p(c, 0.5f);
  const Rows got = result(k.rounded, p);
  const Rounded rv(p.v);
  double error = 0, expected = 0;
  for (size_t j = 0; j < c.queries; ++j) {
    const std::vector<double> weight = weights(scores(p.q.at(j), p.k)), want = mean(weight, p.v);
    double squares = 0;  // summed over the elements
    for (size_t g = 0; g < c.keys; g += kFullKeys) {
      const size_t end = std::min(c.keys, g + kFullKeys);
      double most = 0, largest_scale = 0;
      for (size_t r = g; r < end; ++r) {
        most = std::max(most, weight[r]);
        largest_scale = std::max(largest_scale, static_cast<double>(rv.scale[r]));
      }
      const double quant = most * largest_scale / 127;
      for (size_t r = g; r < end; ++r) {
        for (size_t i = 0; i < c.dim; ++i) {
          squares += std::pow(quant * rv.quants.at(r)[i], 2) + std::pow(weight[r] * rv.scale[r], 2);
        }
      }
    }
    expected += squares / 12 / std::pow(total(weight), 2);
    for (size_t i = 0; i < c.dim; ++i) error += std::pow(got.at(j)[i] - want[i], 2);
  }
  EXPECT_LT(error, expected);
  EXPECT_GT(error, (tiled ? 0.001 : 0.1) * expected);
}

TEST_P(FullAttentionTest, QueriesDoNotDependOnEachOther) {
  const Problem p({300, 64, 20});
  for (const FullAttention* f : {&k.exact, &k.rounded}) {
    const Rows all = result(*f, p);
    Rows parts = p.q;
    size_t first = 0;
    for (size_t count : {1, 7, 12}) {
      attend(*f, p, parts, first, count);
      first += count;
    }
    EXPECT_EQ(std::memcmp(all.x.data(), parts.x.data(), all.x.size() * sizeof(float)), 0);
  }
}

// A value of zeros takes nothing from the precision of the others.
TEST_P(FullAttentionTest, ZeroValuesDoNotCoarsenOthers) {
  Problem p({100, 64, 4}, 0.1f);
  std::fill_n(p.v.at(17), 64, 0.0f);
  const Rows got = result(k.rounded, p);
  double error = 0, size = 0;
  for (size_t j = 0; j < 4; ++j) {
    const std::vector<double> want = mean(weights(scores(p.q.at(j), p.k)), p.v);
    for (size_t i = 0; i < 64; ++i) {
      error += std::pow(got.at(j)[i] - want[i], 2);
      size += std::pow(want[i], 2);
    }
  }
  EXPECT_LT(std::sqrt(error / size), 0.02);  // 1 / 127 / sqrt(12) for each of weights and values, of their largest
}

// Scores of thousands; a query of zeros, which sees all keys alike, beside them; keys and values of zeros.
TEST_P(FullAttentionTest, LargeAndZeroRows) {
  const Case c{70, 64, 3};
  Problem p(c, 20.0f);
  std::fill_n(p.q.at(1), c.dim, 0.0f);
  std::fill_n(p.k.at(5), c.dim, 0.0f);
  std::fill_n(p.v.at(69), c.dim, 0.0f);
  for (const FullAttention* f : {&k.exact, &k.rounded}) {
    const Rows got = result(*f, p);
    const std::vector<double> alike = mean(std::vector<double>(c.keys, 1), p.v);
    for (size_t i = 0; i < c.dim; ++i) {
      EXPECT_NEAR(got.at(1)[i], alike[i], largest(p.v) / 127);
      for (size_t j : {0, 2}) EXPECT_LE(std::abs(got.at(j)[i]), 1.02 * largest(p.v));
    }
  }
  std::fill(p.v.x.begin(), p.v.x.end(), 0.0f);
  for (const FullAttention* f : {&k.exact, &k.rounded}) {
    const Rows got = result(*f, p);
    for (size_t j = 0; j < c.queries; ++j)
      for (size_t i = 0; i < c.dim; ++i) ASSERT_EQ(got.at(j)[i], 0.0f);
  }
}

TEST_P(FullAttentionTest, WhatIsNotANumberShows) {
  const float bad[] = {kNaN, kInf};
  for (const FullAttention* f : {&k.exact, &k.rounded}) {
    for (float x : bad) {
      Problem key({70, 64, 7}), value({70, 64, 7}), query({70, 64, 7});
      key.k.at(66)[3] = x;
      value.v.at(1)[63] = x;
      query.q.at(2)[0] = x;
      const Rows a = result(*f, key), b = result(*f, value), c = result(*f, query);
      for (size_t j = 0; j < 7; ++j) {
        // A key at infinity may also repel.
        if (std::isnan(x)) {
          EXPECT_TRUE(std::isnan(a.at(j)[0]));
        }
        EXPECT_FALSE(std::isfinite(b.at(j)[63]));
        EXPECT_EQ(std::isfinite(c.at(j)[0]), j != 2);
      }
    }
  }
}

}  // namespace
}  // namespace gemma4
