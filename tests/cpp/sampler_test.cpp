#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "core/error.h"

namespace gemma4 {
namespace {

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  Sampler s({}, 1);
  const float logits[] = {1, 3, 3, 2};
  EXPECT_EQ(s.sample(logits, 4, nullptr, 0).id, 1);
}

TEST(Sampler, FollowsTheDistribution) {
  SamplingOptions o;
  o.temperature = 1;
  Sampler s(o, 5);
  const float logits[] = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  int count[3] = {};
  constexpr int kDraws = 30000;
  for (int i = 0; i < kDraws; ++i) ++count[s.sample(logits, 3, nullptr, 0).id];
  // Five standard deviations of a binomial count.
  const double p[] = {0.5, 0.3, 0.2};
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(count[i], kDraws * p[i], 5 * std::sqrt(kDraws * p[i] * (1 - p[i]))) << i;
}

TEST(Sampler, FiltersAndPenalties) {
  const float logits[] = {2, 1, 0, -1};
  for (int i = 0; i < 100; ++i) {
    SamplingOptions k, p, m;
    k.temperature = p.temperature = m.temperature = 5;
    k.top_k = 1, p.top_p = 0.01f, m.min_p = 1;
    for (const auto& o : {k, p, m}) EXPECT_EQ(Sampler(o, i).sample(logits, 4, nullptr, 0).id, 0);
  }
  SamplingOptions penalised;
  penalised.repetition_penalty = 4;
  const int32_t history[] = {0, 0, 99, -5};
  const Choice c = Sampler(penalised, 0).sample(logits, 4, history, 4);
  EXPECT_EQ(c.id, 1);
  EXPECT_NEAR(c.logprob, -1.4402f, 1e-3f);  // under the unmodified logits
}

TEST(Sampler, RefusesBadOptionsAndDamagedLogits) {
  for (const float bad : {NAN, INFINITY, -1.0f}) {
    SamplingOptions o;
    o.temperature = bad;
    EXPECT_THROW(Sampler(o, 0), Error);
  }
  SamplingOptions o;
  o.top_p = 0;
  EXPECT_THROW(Sampler(o, 0), Error);
  const float nan[] = {1, NAN, 2};
  EXPECT_THROW(Sampler({}, 0).sample(nan, 3, nullptr, 0), Error);
  const float nothing[] = {-INFINITY, -INFINITY};
  EXPECT_THROW(Sampler({}, 0).sample(nothing, 2, nullptr, 0), Error);
}

TEST(Sampler, ChoosesOnlyWhatAMaskAllows) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 3);
  for (const size_t vocab : {1, 31, 32, 33, 64, 101}) {
    std::vector<float> logits(vocab);
    for (float& x : logits) x = normal(random);
    std::vector<uint32_t> all((vocab + 31) / 32, ~0u), one(all.size());
    SamplingOptions warm;
    warm.temperature = 2;
    for (uint64_t seed = 0; seed < 20; ++seed) {  // a mask that allows all changes nothing; bits beyond are ignored
      EXPECT_EQ(Sampler(warm, seed).sample(logits.data(), vocab, nullptr, 0, all.data()).id,
                Sampler(warm, seed).sample(logits.data(), vocab, nullptr, 0).id);
    }
    EXPECT_EQ(Sampler({}, 0).sample(logits.data(), vocab, nullptr, 0, all.data()).id,
              Sampler({}, 0).sample(logits.data(), vocab, nullptr, 0).id);
    for (size_t id = 0; id < vocab; ++id) {
      one.assign(all.size(), 0);
      if (vocab % 32 != 0) one.back() = ~0u << vocab % 32;
      EXPECT_THROW(Sampler({}, 0).sample(logits.data(), vocab, nullptr, 0, one.data()), Error);
      one[id / 32] |= 1u << id % 32;
      const Choice greedy = Sampler({}, 0).sample(logits.data(), vocab, nullptr, 0, one.data());
      const Choice drawn = Sampler(warm, id).sample(logits.data(), vocab, nullptr, 0, one.data());
      EXPECT_EQ(greedy.id, static_cast<int32_t>(id));
      EXPECT_EQ(drawn.id, greedy.id);
      EXPECT_EQ(drawn.logprob, greedy.logprob);  // under all of the logits
      EXPECT_LE(greedy.logprob, 0);
    }
  }
}

TEST(Sampler, TopLogprobsAreTheSortedOnes) {
  std::mt19937 random(4);
  std::vector<float> logits(5000);
  for (float& x : logits) x = static_cast<float>(random() % 300) / 16;  // with many equals
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (const size_t n : {0, 1, 7, 4999, 5000, 6000}) {
    const std::vector<Choice> best = top_logprobs(logits.data(), logits.size(), n);
    ASSERT_EQ(best.size(), std::min(n, logits.size()));
    for (size_t i = 0; i < best.size(); ++i) {
      EXPECT_EQ(best[i].id, ids[i]);
      EXPECT_NEAR(best[i].logprob, logits[ids[i]] - std::log(sum), 1e-5);
    }
  }
}

}  // namespace
}  // namespace gemma4
