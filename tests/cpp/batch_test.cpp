// Steps of several sequences: whatever is computed together gets the bits that it would get alone.
#include "engine/batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <random>
#include <string>

#include "core/error.h"
#include "model/adapters.h"
#include "model/tensor_store.h"
#include "tiny_model.h"

namespace gemma4 {
namespace {

struct Engine {
  explicit Engine(const Tiny& t, int threads = 1) : pool(threads), workspace(threads), batch(t.config, t.weights) {}
  Compute compute() { return {active_isa(), pool, interrupt, workspace}; }

  ThreadPool pool;
  Workspace workspace;
  Interrupt interrupt;
  Batch batch;
};

// Random changes of every linear of a model.
std::unique_ptr<Adapter> make_adapter(Tiny& t, size_t rank) {
  const auto store = std::make_shared<TensorStore>();
  std::vector<AdapterPart> parts;
  std::normal_distribution<float> normal(0, 0.5f);
  const auto put = [&](const std::string& name, size_t rows, size_t cols) {
    std::vector<float> values(rows * cols);
    for (float& v : values) v = normal(t.random);
    store->add_owned(name, "F32", {rows, cols}, std::as_bytes(std::span(values)));
  };
  const auto change = [&](const std::string& module, const TensorView& w) {
    if (w.empty()) return;
    const size_t experts = w.rank == 3 ? w.shape[0] : 1, out = w.shape[w.rank - 2], in = w.shape[w.rank - 1];
    put(module + ".a", rank * experts, in);
    put(module + ".b", out, rank * experts);
    parts.push_back({module, module + ".a", module + ".b", rank, 0.3f, ""});
  };
  change("lm_head", t.weights.head);
  change("per_layer_model_projection", t.weights.ple_proj);
  for (size_t i = 0; i < t.weights.layers.size(); ++i) {
    const TextLayerWeights& w = t.weights.layers[i];
    const std::string at = "layers." + std::to_string(i) + ".";
    change(at + "self_attn.q_proj", w.q);
    change(at + "self_attn.k_proj", w.k);
    change(at + "self_attn.v_proj", w.v);
    change(at + "self_attn.o_proj", w.o);
    change(at + "mlp.gate_proj", w.gate);
    change(at + "mlp.up_proj", w.up);
    change(at + "mlp.down_proj", w.down);
    change(at + "per_layer_input_gate", w.ple_gate);
    change(at + "per_layer_projection", w.ple_out);
    if (!t.config.layers[i].moe) continue;
    change(at + "router.proj", w.router);
    change(at + "experts.gate_up_proj", w.expert_gate_up[0]);
    change(at + "experts.down_proj", w.expert_down);
  }
  Engine engine(t);
  return std::make_unique<Adapter>(engine.compute(), t.model, t.all, store, parts);
}

// What a sequence is given, one after the other: a prompt, then runs of tokens.
struct Story {
  std::vector<int32_t> prompt;
  std::vector<SoftTokens> soft;
  std::vector<std::vector<int32_t>> runs;
  Logits wanted = Logits::kLast;
  DType cache = DType::kBF16;
  const Adapter* adapter = nullptr;
};

struct Told {
  Told(const Tiny& t, const Story& s, size_t chunk)
      : story(s), sequence(t.config, {200, s.cache, chunk, s.adapter}), tiny(t) {}

  // The next input, whose logits are kept; null at the end.
  Input* next() {
    if (given > story.runs.size()) return nullptr;
    const bool first = given == 0;
    const auto& ids = first ? story.prompt : story.runs[given - 1];
    ++given;
    const size_t rows = story.wanted == Logits::kAll ? ids.size() : story.wanted == Logits::kLast ? 1 : 0;
    logits.emplace_back(rows * tiny.config.vocab);
    input = std::make_unique<Input>(first ? Input::Kind::kPrompt : Input::Kind::kTokens, tiny.config, sequence, ids,
                                    first ? story.soft : std::vector<SoftTokens>{}, story.wanted, logits.back().data());
    return input.get();
  }

  const Story& story;
  Sequence sequence;
  const Tiny& tiny;
  size_t given = 0;
  std::unique_ptr<Input> input;
  std::deque<std::vector<float>> logits;
};

std::deque<std::vector<float>> alone(const Tiny& t, const Story& story, size_t chunk) {
  Engine engine(t);
  Told told(t, story, chunk);
  while (Input* input = told.next()) engine.batch.run(engine.compute(), *input);
  return told.logits;
}

std::vector<Story> stories(Tiny& t, const std::vector<float>& soft, std::span<const Adapter* const> adapters,
                           size_t count) {
  std::vector<Story> out(count);
  for (size_t i = 0; i < count; ++i) {
    Story& s = out[i];
    s.prompt = t.ids(1 + t.random() % 50);
    if (s.prompt.size() > 20) s.soft = {{2, 12, soft.data(), i % 2 == 0}};
    for (size_t runs = t.random() % 6; runs > 0; --runs) s.runs.push_back(t.ids(1 + t.random() % 5));
    s.wanted = std::array{Logits::kLast, Logits::kAll, Logits::kLast, Logits::kNone}[t.random() % 4];
    s.cache = std::array{DType::kBF16, DType::kF32, DType::kQ8_0, DType::kQ4_0}[t.random() % 4];
    s.adapter = adapters[t.random() % adapters.size()];
  }
  return out;
}

// Sequences that join and leave at random, and at random wait for a step; with adapters and without.
void expect_bits_of_alone(bool bidirectional) {
  Tiny t(bidirectional);
  std::vector<float> soft(12 * t.config.hidden);
  std::normal_distribution<float> normal;
  for (float& v : soft) v = normal(t.random);
  const auto one = make_adapter(t, 3), other = make_adapter(t, 1);
  const std::array<const Adapter*, 4> adapters{nullptr, one.get(), nullptr, other.get()};
  for (int round = 0; round < 40; ++round) {
    const auto some = round % 4 == 0 ? std::span(adapters).first(1) : std::span(adapters);
    const size_t chunk = 1 + t.random() % 20;
    const std::vector<Story> all = stories(t, soft, some, 1 + t.random() % 7);
    Engine engine(t, 1 + round % 3);
    std::deque<Told> told;
    for (const Story& s : all) told.emplace_back(t, s, chunk);
    std::vector<Input*> active(told.size(), nullptr);
    std::vector<bool> ended(told.size(), false);
    while (std::ranges::find(ended, false) != ended.end()) {
      std::vector<Input*> step;
      for (size_t i = 0; i < told.size(); ++i) {
        if (!ended[i] && (active[i] == nullptr || active[i]->done())) {
          active[i] = told[i].next();
          ended[i] = active[i] == nullptr;
        }
        if (!ended[i] && t.random() % 4 != 0) step.push_back(active[i]);
      }
      std::ranges::shuffle(step, t.random);
      engine.batch.step(engine.compute(), step);
    }
    for (size_t i = 0; i < told.size(); ++i) ASSERT_EQ(told[i].logits, alone(t, all[i], chunk)) << round << " " << i;
  }
}

TEST(Batch, CompanyDoesNotChangeABit) { expect_bits_of_alone(false); }

TEST(Batch, CompanyDoesNotChangeABitOfPictures) { expect_bits_of_alone(true); }

TEST(Batch, AnAdapterChangesWhatItsSequenceGets) {
  Tiny t(false);
  const auto one = make_adapter(t, 3), other = make_adapter(t, 3);
  Story story;
  story.prompt = t.ids(20);
  story.runs = {t.ids(3)};
  std::vector<std::deque<std::vector<float>>> told;
  for (const Adapter* adapter : {static_cast<const Adapter*>(nullptr), static_cast<const Adapter*>(one.get()),
                                 static_cast<const Adapter*>(other.get())}) {
    story.adapter = adapter;
    told.push_back(alone(t, story, 8));
  }
  for (size_t input : {0, 1}) {
    EXPECT_NE(told[0][input], told[1][input]);
    EXPECT_NE(told[0][input], told[2][input]);
    EXPECT_NE(told[1][input], told[2][input]);
  }
  Engine engine(t);
  Sequence changed(t.config, {200, DType::kBF16, 8, one.get()}), plain(t.config, {200, DType::kBF16, 8});
  Input prompt(Input::Kind::kPrompt, t.config, changed, story.prompt, {}, Logits::kNone, nullptr);
  engine.batch.run(engine.compute(), prompt);
  EXPECT_THROW(plain.begin_as(changed, 8), Error);
}

TEST(Batch, TokensGivenAtOnceHaveTheBitsOfThoseGivenOneByOne) {
  Tiny t(false);
  const auto ids = t.ids(60);
  Story at_once;
  at_once.prompt.assign(ids.begin(), ids.begin() + 20);
  at_once.runs.emplace_back(ids.begin() + 20, ids.end());
  at_once.wanted = Logits::kAll;
  Story one_by_one = at_once;
  one_by_one.runs.clear();
  for (size_t i = 20; i < ids.size(); ++i) one_by_one.runs.push_back({ids[i]});
  const auto whole = alone(t, at_once, 8), steps = alone(t, one_by_one, 8);
  std::vector<float> joined;
  for (size_t i = 1; i < steps.size(); ++i) joined.insert(joined.end(), steps[i].begin(), steps[i].end());
  EXPECT_EQ(whole[1], joined);
}

TEST(Batch, TakenBackTokensAreAsIfTheyHadNeverBeen) {
  Tiny t(false);
  const auto ids = t.ids(80);
  Engine engine(t);
  Sequence first(t.config, {200, DType::kBF16, 8}), second(t.config, {200, DType::kBF16, 8});
  const auto run = [&](Sequence& sequence, std::span<const int32_t> some, Input::Kind kind) {
    std::vector<float> out(t.config.vocab);
    Input input(kind, t.config, sequence, some, {}, Logits::kLast, out.data());
    engine.batch.run(engine.compute(), input);
    return out;
  };
  std::vector<std::vector<float>> drafted, plain;
  for (Sequence* sequence : {&first, &second}) run(*sequence, std::span(ids).first(30), Input::Kind::kPrompt);
  for (size_t i = 30; i < 70; ++i) {
    const auto next = std::span(ids).subspan(i, 1);
    run(first, t.ids(5), Input::Kind::kTokens);
    ASSERT_TRUE(first.rewind(i));
    drafted.push_back(run(first, next, Input::Kind::kTokens));
    plain.push_back(run(second, next, Input::Kind::kTokens));
  }
  EXPECT_EQ(drafted, plain);
}

// What the rings have lost does not depend on how many logits were wanted.
TEST(Batch, WhatIsKeptIsKnown) {
  Tiny t(false);
  const auto ids = t.ids(60);
  for (const Logits wanted : {Logits::kNone, Logits::kLast, Logits::kAll}) {
    Engine engine(t);
    Sequence sequence(t.config, {200, DType::kBF16, 8});
    std::vector<float> out(ids.size() * t.config.vocab);
    Input input(Input::Kind::kTokens, t.config, sequence, ids, {}, wanted, out.data());
    engine.batch.run(engine.compute(), input);
    EXPECT_EQ(sequence.saved().kept_from, ids.size() - sequence.cache().ring(t.config.window));
  }
}

TEST(Batch, ASequenceTakesOneInputAtATime) {
  Tiny t(false);
  const auto ids = t.ids(5);
  Engine engine(t);
  Sequence sequence(t.config, {20, DType::kBF16, 8});
  Input a(Input::Kind::kPrompt, t.config, sequence, ids, {}, Logits::kNone, nullptr);
  Input b(Input::Kind::kTokens, t.config, sequence, ids, {}, Logits::kNone, nullptr);
  Input* both[] = {&a, &b};
  EXPECT_THROW(engine.batch.step(engine.compute(), both), Error);
  EXPECT_EQ(sequence.position(), 0u);
  engine.batch.run(engine.compute(), a);
  EXPECT_THROW(engine.batch.run(engine.compute(), b), Error) << "it was made for another position";
}

TEST(Batch, ACancelledStepMovesNothing) {
  Tiny t(false);
  const auto ids = t.ids(40);
  Engine engine(t);
  Sequence first(t.config, {200, DType::kF32, 4}), second(t.config, {200, DType::kF32, 4});
  std::vector<float> out(2 * t.config.vocab);
  Input prompt(Input::Kind::kPrompt, t.config, first, ids, {}, Logits::kLast, out.data());
  Input tokens(Input::Kind::kTokens, t.config, second, std::span(ids).first(3), {}, Logits::kLast,
               out.data() + t.config.vocab);
  Input* both[] = {&prompt, &tokens};
  Interrupt stop([] { return true; });
  const Compute c{active_isa(), engine.pool, stop, engine.workspace};
  int cancelled = 0;
  for (int i = 0; i < 2000 && !prompt.done(); ++i) {
    const size_t at = first.position(), other = second.position();
    try {
      engine.batch.step(c, both);
    } catch (const Error&) {
      ++cancelled;
      EXPECT_EQ(first.position(), at);
      EXPECT_EQ(second.position(), other);
    }
  }
  if (!prompt.done()) engine.batch.run(engine.compute(), prompt);
  Story story;
  story.prompt = ids;
  story.cache = DType::kF32;
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + t.config.vocab), alone(t, story, 4)[0]);
}

}  // namespace
}  // namespace gemma4
