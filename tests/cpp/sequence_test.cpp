// The text decoder against itself: every way to compute a sequence gives the same logits. (Against the reference it is
// compared in tests/python/oracle.)
#include "engine/sequence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "core/error.h"
#include "engine/batch.h"
#include "tiny_model.h"

namespace gemma4 {
namespace {

struct Run {
  size_t chunk = 512;
  int threads = 1;
  Logits wanted = Logits::kAll;
  size_t context = 200;
};

// A sequence, and what computes it.
struct Session {
  Session(const Tiny& t, const SequenceOptions& options)
      : config(t.config), sequence(t.config, options), batch(t.config, t.weights) {}

  void prefill(const Compute& c, const int32_t* ids, size_t n, const std::vector<SoftTokens>& soft, Logits wanted,
               float* out) {
    Input input(Input::Kind::kPrompt, config, sequence, {ids, n}, soft, wanted, out);
    batch.run(c, input);
  }
  size_t position() const { return sequence.position(); }
  bool rewind(size_t to) { return sequence.rewind(to); }

  const TextConfig& config;
  Sequence sequence;
  Batch batch;
};

std::vector<float> logits(const Tiny& t, const std::vector<int32_t>& ids, const std::vector<SoftTokens>& soft,
                          Run run) {
  ThreadPool pool(run.threads);
  Workspace workspace(pool.size());
  Interrupt never;
  Session s(t, {run.context, DType::kF32, run.chunk});
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

TEST(Sequence, EveryChunkSizeAgrees) {
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

TEST(Sequence, ImagesAreNeverCut) { expect_images_whole(false); }

TEST(Sequence, ImagesThatAreSeenWholeAreNeverCut) { expect_images_whole(true); }

TEST(Sequence, ThreadsDoNotChangeABit) {
  Tiny t(false);
  const auto ids = t.ids(33);
  EXPECT_EQ(logits(t, ids, {}, {512, 1}), logits(t, ids, {}, {512, 2}));
  EXPECT_EQ(logits(t, ids, {}, {5, 1}), logits(t, ids, {}, {5, 3}));
}

TEST(Sequence, SkippedPositionsDoNotChangeTheLastLogits) {
  Tiny t(false);
  for (const size_t n : {1, 2, 9, 10, 40}) {
    const auto ids = t.ids(n);
    const auto all = logits(t, ids, {}, {});
    const std::vector<float> last(all.end() - t.config.vocab, all.end());
    expect_close(logits(t, ids, {}, {512, 1, Logits::kLast}), last, "length " + std::to_string(n));
  }
}

TEST(Sequence, APromptThatDoesNotFitIsRefusedBeforeAnyWork) {
  Tiny t(false);
  ThreadPool pool(1);
  Workspace workspace(pool.size());
  Interrupt never;
  Session s(t, {20, DType::kBF16, 8});
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

TEST(Sequence, BadIdsAndSoftTokensAreRefused) {
  Tiny t(false);
  ThreadPool pool(1);
  Workspace workspace(pool.size());
  Interrupt never;
  Session s(t, {50, DType::kF32, 8});
  std::vector<float> rows(10 * t.config.hidden), out(t.config.vocab);
  for (const int32_t id : {-1, 101, INT32_MAX, INT32_MIN}) {
    EXPECT_THROW(s.prefill({active_isa(), pool, never, workspace}, &id, 1, {}, Logits::kLast, out.data()), Error) << id;
  }
  const auto ids = t.ids(10);
  for (const SoftTokens bad : {SoftTokens{8, 3, rows.data(), true}, SoftTokens{SIZE_MAX, 2, rows.data(), true},
                               SoftTokens{2, SIZE_MAX, rows.data(), true}, SoftTokens{0, 0, rows.data(), true}}) {
    EXPECT_THROW(s.prefill({active_isa(), pool, never, workspace}, ids.data(), 10, {bad}, Logits::kLast, out.data()),
                 Error);
  }
  EXPECT_EQ(s.position(), 0u);
}

// A picture in the middle makes the rings grow, so that some positions are missing from the larger ones.
TEST(Sequence, WhatIsComputedAfterARewindIsAsIfNothingHadBeenForgotten) {
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
      Session s(t, {200, DType::kF32, kChunk});
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

TEST(Sequence, ARewindCannotGoForward) {
  Tiny t(false);
  Session s(t, {20, DType::kF32, 8});
  EXPECT_TRUE(s.rewind(0));
  EXPECT_THROW(s.rewind(1), Error);
}

TEST(Sequence, StopsWhenAsked) {
  Tiny t(false);
  ThreadPool pool(2);
  Workspace workspace(pool.size());
  const auto ids = t.ids(100);
  Session s(t, {200, DType::kF32, 1});
  int asked = 0;
  Interrupt stop([&] { return ++asked == 1; });
  std::vector<float> out(t.config.vocab);
  EXPECT_THROW(
      {
        for (int i = 0; i < 100000; ++i) {
          Session fresh(t, {200, DType::kF32, 4});
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

// Growing rings copies no layer that is no ring: of a long context that would take longer than the picture.
TEST(KVCache, ALongerChunkLeavesFullLayersWhereTheyAre) {
  Tiny t(false);
  KVCache cache(t.config, DType::kBF16, 200, 8);
  const auto before = cache.memory();
  cache.reserve_chunk(t.config, 50, 100);
  const auto after = cache.memory();
  ASSERT_EQ(after.size(), before.size());
  size_t stayed = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    const bool same = after[i].data() == before[i].data();
    EXPECT_EQ(same, after[i].size() == before[i].size());
    stayed += same ? 1 : 0;
  }
  EXPECT_EQ(stayed, 2u);  // keys and values of the one full layer that owns them
  EXPECT_EQ(cache.bytes(), KVCache(t.config, DType::kBF16, 200, 50).bytes());
}

}  // namespace
}  // namespace gemma4
