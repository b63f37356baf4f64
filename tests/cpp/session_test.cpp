// The text decoder against itself: every way to compute a sequence gives the same logits. (Against the reference it is
// compared in tests/python/oracle.)
#include "engine/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "engine/sampler.h"

namespace gemma4 {
namespace {

// A model in memory: random weights, every mechanism, nothing divisible by 8.
struct Tiny {
  explicit Tiny(bool bidirectional) {
    config.vocab = 101;
    config.hidden = 36;
    config.heads = 4;
    config.window = 9;
    config.context = 200;
    config.ple_dim = 5;
    config.ple_vocab = 101;
    config.experts = 5;
    config.experts_used = 2;
    config.expert_ffn = 11;
    config.logit_cap = 30;
    config.bidirectional_images = bidirectional;
    //                       sliding  k_is_v  moe    kv  dim  kvh ffn  theta  pairs
    config.layers.push_back({true, false, true, 0, 10, 2, 23, 1e4, 5, 1});
    config.layers.push_back({false, true, false, 1, 14, 1, 23, 1e6, 2, 1});
    config.layers.push_back({true, false, false, 0, 10, 2, 46, 1e4, 5, 1});
    config.layers.push_back({false, true, true, 1, 14, 1, 46, 1e6, 2, 1});
    validate({.text = config, .vision = {}, .audio = {}, .pixels = {}, .samples = {}});
    fill();
  }

  // Views need an address that stays: every tensor has a block of its own.
  TensorView tensor(std::vector<size_t> shape) {
    size_t n = 1;
    for (const size_t s : shape) n *= s;
    const float spread = 1.0f / std::sqrt(static_cast<float>(shape.back()));
    std::normal_distribution<float> normal(0, spread);
    storage.emplace_back(n);
    for (float& v : storage.back()) v = normal(random);
    TensorView t{
        reinterpret_cast<const std::byte*>(storage.back().data()), DType::kF32, static_cast<int>(shape.size()), {}};
    std::copy(shape.begin(), shape.end(), t.shape.begin());
    return t;
  }

  Vector vector(size_t n) {
    std::uniform_real_distribution<float> around_one(0.5f, 1.5f);
    Vector v(n);
    for (float& x : v) x = around_one(random);
    return v;
  }

  void fill() {
    const size_t hidden = config.hidden, layers = config.layers.size(), ple = config.ple_dim;
    weights.embed = weights.head = tensor({size_t(config.vocab), hidden});
    weights.ple_table = {tensor({size_t(config.ple_vocab), layers * ple}), nullptr};
    weights.ple_proj = tensor({layers * ple, hidden});
    weights.ple_norm = vector(ple);
    weights.norm = vector(hidden);
    for (size_t i = 0; i < layers; ++i) {
      const LayerSpec& spec = config.layers[i];
      const size_t q = size_t(config.heads) * spec.head_dim, kv = size_t(spec.kv_heads) * spec.head_dim, ffn = spec.ffn;
      TextLayerWeights w;
      w.attn_norm = vector(hidden), w.post_attn_norm = vector(hidden), w.ffn_norm = vector(hidden);
      w.post_ffn_norm = vector(hidden), w.post_ple_norm = vector(hidden);
      w.q = tensor({q, hidden}), w.o = tensor({hidden, q}), w.q_norm = vector(spec.head_dim);
      if (config.owns_kv(static_cast<int>(i))) {
        w.k = tensor({kv, hidden}), w.k_norm = vector(spec.head_dim);
        if (!spec.k_is_v) w.v = tensor({kv, hidden});
      }
      w.gate = tensor({ffn, hidden}), w.up = tensor({ffn, hidden}), w.down = tensor({hidden, ffn});
      if (spec.moe) {
        const size_t experts = config.experts, width = config.expert_ffn;
        w.router = tensor({experts, hidden}), w.router_scale = vector(hidden), w.expert_scale = vector(experts);
        w.expert_gate_up = {tensor({experts, 2 * width, hidden})}, w.expert_down = tensor({experts, hidden, width});
        w.dense_post_norm = vector(hidden), w.expert_pre_norm = vector(hidden), w.expert_post_norm = vector(hidden);
      }
      w.ple_gate = tensor({ple, hidden}), w.ple_out = tensor({hidden, ple});
      w.scalar = 0.9f;
      weights.layers.push_back(std::move(w));
    }
  }

  std::vector<int32_t> ids(size_t n) {
    std::uniform_int_distribution<int32_t> any(0, config.vocab - 1);
    std::vector<int32_t> out(n);
    for (auto& id : out) id = any(random);
    return out;
  }

  TextConfig config;
  TextWeights weights;
  std::vector<std::vector<float>> storage;
  std::mt19937 random{7};
};

struct Run {
  size_t chunk = 512;
  int threads = 1;
  Logits wanted = Logits::kAll;
  size_t context = 200;
};

std::vector<float> logits(const Tiny& t, const std::vector<int32_t>& ids, const std::vector<SoftTokens>& soft,
                          Run run) {
  ThreadPool pool(run.threads);
  Workspace workspace(pool.size());
  Interrupt never;
  Session s(t.config, t.weights, {run.context, DType::kF32, run.chunk});
  std::vector<float> out((run.wanted == Logits::kAll ? ids.size() : 1) * t.config.vocab);
  s.prefill({active_isa(), pool, never, workspace}, ids.data(), ids.size(), soft, run.wanted, out.data());
  EXPECT_EQ(s.position(), ids.size());
  return out;
}

// Sums of at most ~100 products in another order, through four layers, in logits below 30: 2^-24 * 100 * 30 < 2e-4.
constexpr float kTolerance = 2e-4f;

void expect_close(const std::vector<float>& a, const std::vector<float>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], kTolerance) << what << " at " << i;
}

TEST(Session, EveryChunkSizeAgrees) {
  Tiny t(false);
  const auto ids = t.ids(41);
  const auto whole = logits(t, ids, {}, {});
  for (size_t chunk = 1; chunk <= 41; ++chunk) {
    expect_close(logits(t, ids, {}, {chunk}), whole, "chunk " + std::to_string(chunk));
  }
}

void expect_images_whole(bool on_every_layer) {
  Tiny t(true);
  t.config.whole_images = on_every_layer;
  const auto ids = t.ids(60);
  std::vector<float> rows(23 * t.config.hidden);
  std::normal_distribution<float> normal;
  for (float& v : rows) v = normal(t.random);
  // One run longer than the window, one shorter, two that touch, one at the end.
  const size_t h = t.config.hidden;
  const std::vector<SoftTokens> soft{{3, 12, rows.data(), true},
                                     {20, 4, rows.data() + 12 * h, true},
                                     {24, 3, rows.data() + 16 * h, true},
                                     {57, 3, rows.data() + 20 * h, true}};
  const auto whole = logits(t, ids, soft, {});
  for (size_t chunk = 1; chunk <= 60; ++chunk) {
    expect_close(logits(t, ids, soft, {chunk}), whole, "chunk " + std::to_string(chunk));
  }
  std::vector<SoftTokens> causal = soft;
  for (auto& s : causal) s.image = false;
  const auto other = logits(t, ids, causal, {});
  float difference = 0;
  for (size_t i = 0; i < whole.size(); ++i) difference = std::max(difference, std::abs(whole[i] - other[i]));
  EXPECT_GT(difference, 100 * kTolerance) << "the bidirectional runs change nothing";
}

TEST(Session, ImagesAreNeverCut) { expect_images_whole(false); }

TEST(Session, ImagesThatAreSeenWholeAreNeverCut) { expect_images_whole(true); }

TEST(Session, ThreadsDoNotChangeABit) {
  Tiny t(false);
  const auto ids = t.ids(33);
  EXPECT_EQ(logits(t, ids, {}, {512, 1}), logits(t, ids, {}, {512, 2}));
  EXPECT_EQ(logits(t, ids, {}, {5, 1}), logits(t, ids, {}, {5, 3}));
}

TEST(Session, SkippedPositionsDoNotChangeTheLastLogits) {
  Tiny t(false);
  for (const size_t n : {1, 2, 9, 10, 40}) {
    const auto ids = t.ids(n);
    const auto all = logits(t, ids, {}, {});
    const std::vector<float> last(all.end() - t.config.vocab, all.end());
    expect_close(logits(t, ids, {}, {512, 1, Logits::kLast}), last, "length " + std::to_string(n));
  }
}

TEST(Session, APromptThatDoesNotFitIsRefusedBeforeAnyWork) {
  Tiny t(false);
  ThreadPool pool(1);
  Workspace workspace(pool.size());
  Interrupt never;
  Session s(t.config, t.weights, {20, DType::kBF16, 8});
  const auto ids = t.ids(21);
  try {
    s.prefill({active_isa(), pool, never, workspace}, ids.data(), ids.size(), {}, Logits::kNone, nullptr);
    FAIL() << "not refused";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kContextLength);
  }
  EXPECT_EQ(s.position(), 0u);
  s.prefill({active_isa(), pool, never, workspace}, ids.data(), 20, {}, Logits::kNone, nullptr);
  EXPECT_EQ(s.position(), 20u);
}

TEST(Session, BadIdsAndSoftTokensAreRefused) {
  Tiny t(false);
  ThreadPool pool(1);
  Workspace workspace(pool.size());
  Interrupt never;
  Session s(t.config, t.weights, {50, DType::kF32, 8});
  std::vector<float> rows(10 * t.config.hidden), out(t.config.vocab);
  for (const int32_t id : {-1, 101, INT32_MAX, INT32_MIN}) {
    EXPECT_THROW(s.prefill({active_isa(), pool, never, workspace}, &id, 1, {}, Logits::kLast, out.data()), Error) << id;
  }
  const auto ids = t.ids(10);
  for (const SoftTokens bad : {SoftTokens{8, 3, rows.data(), true}, SoftTokens{SIZE_MAX, 2, rows.data(), true},
                               SoftTokens{2, SIZE_MAX, rows.data(), true}}) {
    EXPECT_THROW(s.prefill({active_isa(), pool, never, workspace}, ids.data(), 10, {bad}, Logits::kLast, out.data()),
                 Error);
  }
  EXPECT_EQ(s.position(), 0u);
}

// A picture in the middle makes the rings grow, so that some positions are missing from the larger ones.
TEST(Session, WhatIsComputedAfterARewindIsAsIfNothingHadBeenForgotten) {
  for (const bool picture : {false, true}) {
    Tiny t(picture);
    ThreadPool pool(1);
    Workspace workspace(pool.size());
    Interrupt never;
    constexpr size_t kLength = 70, kChunk = 4, kTail = 25;
    const auto ids = t.ids(kLength), tail = t.ids(kTail);
    std::vector<float> rows(16 * t.config.hidden, 0.25f), out(t.config.vocab);
    std::vector<SoftTokens> soft;
    if (picture) soft.push_back({31, 16, rows.data(), true});
    size_t possible = 0;
    for (size_t to = 0; to <= kLength; ++to) {
      if (picture && to > 31 && to < 47) continue;
      Session s(t.config, t.weights, {200, DType::kF32, kChunk});
      s.prefill({active_isa(), pool, never, workspace}, ids.data(), kLength, soft, Logits::kNone, nullptr);
      if (!s.rewind(to)) {
        EXPECT_EQ(s.position(), kLength);
        EXPECT_LT(to + kChunk, kLength) << "what a chunk wrote can always be forgotten";
        continue;
      }
      ++possible;
      EXPECT_EQ(s.position(), to);
      s.prefill({active_isa(), pool, never, workspace}, tail.data(), kTail, {}, Logits::kLast, out.data());
      std::vector<int32_t> joined(ids.begin(), ids.begin() + to);
      joined.insert(joined.end(), tail.begin(), tail.end());
      const auto before = to > 31 ? soft : std::vector<SoftTokens>{};
      expect_close(out, logits(t, joined, before, {512, 1, Logits::kLast}), "rewound to " + std::to_string(to));
    }
    EXPECT_GT(possible, kChunk);
    EXPECT_LT(possible, kLength - kTail) << "the rings never overwrote anything";
  }
}

TEST(Session, ARewindCannotGoForward) {
  Tiny t(false);
  Session s(t.config, t.weights, {20, DType::kF32, 8});
  EXPECT_TRUE(s.rewind(0));
  EXPECT_THROW(s.rewind(1), Error);
}

TEST(Session, StopsWhenAsked) {
  Tiny t(false);
  ThreadPool pool(2);
  Workspace workspace(pool.size());
  const auto ids = t.ids(100);
  Session s(t.config, t.weights, {200, DType::kF32, 1});
  int asked = 0;
  Interrupt stop([&] { return ++asked == 1; });
  std::vector<float> out(t.config.vocab);
  EXPECT_THROW(
      {
        for (int i = 0; i < 100000; ++i) {
          Session fresh(t.config, t.weights, {200, DType::kF32, 4});
          fresh.prefill({active_isa(), pool, stop, workspace}, ids.data(), ids.size(), {}, Logits::kLast, out.data());
        }
      },
      Error);
  EXPECT_EQ(asked, 1);
}

TEST(KVCache, SlidingLayersAreBoundedByTheirWindow) {
  Tiny t(false);
  const KVCache small(t.config, DType::kBF16, 100, 8), large(t.config, DType::kBF16, 200, 8);
  // Keys and values of the one full layer that owns them, 14 elements padded to 32, in bf16.
  const size_t per_position = 2 * 32 * 2;
  EXPECT_EQ(large.bytes() - small.bytes(), 100 * per_position);
}

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
