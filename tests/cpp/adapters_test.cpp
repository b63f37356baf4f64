// Adapters: the low-rank products against a sum in double precision, and how a file's parts meet a model's matrices.
#include "model/adapters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernel_testing.h"
#include "random_weights.h"

namespace gemma4 {
namespace {

class AdaptersTest : public testing::Test {
 protected:
  std::vector<float> add(const Isa& isa, int threads, const LowRank& part, const std::vector<float>& x, size_t rows,
                         std::vector<float> y, size_t ldy) {
    ThreadPool pool(threads);
    Workspace workspace(pool.size());
    Interrupt never;
    add_low_rank({isa, pool, never, workspace}, part, x.data(), rows, y.data(), ldy);
    return y;
  }

  std::mt19937 rng{3};
};

TEST_F(AdaptersTest, EqualsADoubleSumInEveryFormatAndInstructionSet) {
  const size_t shapes[][3] = {{1, 1, 1}, {5, 3, 17}, {72, 16, 100}, {130, 33, 1500}};  // in, rank, out
  for (const Isa* isa : supported_isas()) {
    for (DType t : kAllFormats) {
      for (const auto& [in, rank, out] : shapes) {
        const RandomTensor a(t, {rank, in}, 1, rng, 1), b(t, {out, rank}, 1, rng, 1);
        const std::vector<float> factors = random_rows(out, rng);
        for (const bool decomposed : {false, true}) {
          const LowRank part{a.view, b.view, 0.7f, decomposed ? factors.data() : nullptr};
          const size_t rows = 19, ldy = out + 3;
          const std::vector<float> x = random_rows(rows * in, rng), before = random_rows(rows * ldy, rng);
          const std::vector<float> y = add(*isa, 2, part, x, rows, before, ldy);
          for (size_t j = 0; j < rows; ++j) {
            for (size_t o = 0; o < out; ++o) {
              double sum = 0, magnitude = std::abs(static_cast<double>(before[j * ldy + o]));
              for (size_t r = 0; r < rank; ++r) {
                double inner = 0, inner_magnitude = 0;
                for (size_t i = 0; i < in; ++i) {
                  const double product = static_cast<double>(a.values[r * in + i]) * x[j * in + i];
                  inner += product, inner_magnitude += std::abs(product);
                }
                sum += inner * b.values[o * rank + r], magnitude += inner_magnitude * std::abs(b.values[o * rank + r]);
              }
              const double factor = decomposed ? factors[o] : 1.0;
              const double k = static_cast<double>(in + rank + 4);
              ASSERT_NEAR(y[j * ldy + o], factor * (before[j * ldy + o] + static_cast<double>(part.scale) * sum),
                          std::abs(factor) * magnitude * k * kU * (1 + k * kU))
                  << isa->name << " " << traits(t).name << " row " << j << ", column " << o;
            }
            for (size_t o = out; o < ldy; ++o) ASSERT_EQ(y[j * ldy + o], before[j * ldy + o]);
          }
        }
      }
    }
  }
}

// The bits of a row are those of the row alone, with any number of threads.
TEST_F(AdaptersTest, ARowDoesNotDependOnItsCompany) {
  const size_t in = 300, rank = 20, out = 1100, most = 40;
  for (const Isa* isa : supported_isas()) {
    for (DType t : kAllFormats) {
      const RandomTensor a(t, {rank, in}, 1, rng), b(t, {out, rank}, 1, rng);
      const LowRank part{a.view, b.view, 1.3f};
      const std::vector<float> x = random_rows(most * in, rng), before = random_rows(most * out, rng);
      const std::vector<float> whole = add(*isa, 3, part, x, most, before, out);
      for (const size_t rows : {1, 2, 5, 16, 17}) {
        for (size_t first = 0; first + rows <= most; first += rows) {
          const std::vector<float> own(x.begin() + first * in, x.begin() + (first + rows) * in);
          const std::vector<float> y(before.begin() + first * out, before.begin() + (first + rows) * out);
          const std::vector<float> got = add(*isa, 1, part, own, rows, y, out);
          ASSERT_TRUE(std::equal(got.begin(), got.end(), whole.begin() + first * out)) << isa->name << " " << rows;
        }
      }
    }
  }
}

// A model of one layer with experts, and a store with an adapter's tensors.
struct Model {
  explicit Model(std::mt19937& rng)
      : q(DType::kF32, {12, 8}, 1, rng),
        gate_up(DType::kF32, {3, 10, 8}, 1, rng),
        down(DType::kF32, {3, 8, 5}, 1, rng) {
    config.text.hidden = 8;
    config.text.experts = 3;
    config.text.expert_ffn = 5;
    config.text.layers.push_back({true, false, true, 0, 4, 1, 6, 1e4, 2, 1});
    weights.text.layers.resize(1);
    TextLayerWeights& layer = weights.text.layers[0];
    layer.q = q.view;
    layer.expert_gate_up = {gate_up.view};
    layer.expert_down = down.view;
  }

  void put(const std::string& name, const std::vector<size_t>& shape, const std::vector<float>& values) {
    store->add_owned(name, "F32", {shape.begin(), shape.end()}, std::as_bytes(std::span(values)));
  }

  RandomTensor q, gate_up, down;
  ModelConfig config;
  Weights weights;
  std::shared_ptr<TensorStore> store = std::make_shared<TensorStore>();
  ThreadPool pool{2};
  Workspace workspace{2};
  Interrupt never;
  Compute compute{active_isa(), pool, never, workspace};
};

TEST_F(AdaptersTest, OnlyTheRowsOfARequestAreChanged) {
  Model m(rng);
  m.put("a", {2, 8}, random_rows(16, rng));
  m.put("b", {12, 2}, random_rows(24, rng));
  const Adapter adapter(m.compute, m.config, m.weights, m.store, {{"layers.0.self_attn.q_proj", "a", "b", 2, 1, ""}});
  const Matrix& q = m.weights.text.layers[0].q;
  ASSERT_NE(adapter.of(q), nullptr);
  EXPECT_EQ(adapter.of(m.weights.text.layers[0].expert_down), nullptr);
  const std::vector<float> x = random_rows(6 * 8, rng);
  std::vector<float> all(6 * 12), some(6 * 12);
  adapt(m.compute, &adapter, q, x.data(), 6, all.data());
  // The product is of rows 4 to 9 of a step whose rows 0 to 5 and 8 have adapters.
  const AdaptedRows rows[] = {{0, 6, &adapter}, {8, 1, &adapter}};
  adapt(m.compute, {rows, 4}, q, x.data(), 6, some.data());
  for (size_t j = 0; j < 6; ++j) {
    const bool changed = j < 2 || j == 4;
    for (size_t o = 0; o < 12; ++o) EXPECT_EQ(some[j * 12 + o], changed ? all[j * 12 + o] : 0.0f) << j;
  }
}

// The file has the experts last, the model first.
TEST_F(AdaptersTest, ExpertsAreRegrouped) {
  Model m(rng);
  const std::vector<float> a = random_rows(6 * 5, rng), b = random_rows(8 * 6, rng);
  m.put("a", {6, 5}, a);
  m.put("b", {8, 6}, b);
  const Adapter adapter(m.compute, m.config, m.weights, m.store, {{"layers.0.experts.down_proj", "a", "b", 2, 1, ""}});
  const LowRank* part = adapter.of(m.weights.text.layers[0].expert_down);
  ASSERT_NE(part, nullptr);
  for (size_t e = 0; e < 3; ++e) {
    const LowRank own = part->expert(e);
    ASSERT_EQ(own.a.rows(), 2u);
    ASSERT_EQ(own.b.rows(), 8u);
    const auto* of_a = reinterpret_cast<const float*>(own.a.data);
    const auto* of_b = reinterpret_cast<const float*>(own.b.data);
    for (size_t i = 0; i < 10; ++i) EXPECT_EQ(of_a[i], a[e * 10 + i]);
    for (size_t o = 0; o < 8; ++o)
      for (size_t r = 0; r < 2; ++r) EXPECT_EQ(of_b[o * 2 + r], b[o * 6 + r * 3 + e]);
  }
}

// Rows become as long as the magnitudes say.
TEST_F(AdaptersTest, Magnitudes) {
  Model m(rng);
  const std::vector<float> a = random_rows(2 * 8, rng), b = random_rows(12 * 2, rng);
  std::vector<float> magnitude(12);
  for (size_t o = 0; o < 12; ++o) magnitude[o] = 1.0f + static_cast<float>(o);
  m.put("a", {2, 8}, a);
  m.put("b", {12, 2}, b);
  m.put("m", {12}, magnitude);
  const Adapter adapter(m.compute, m.config, m.weights, m.store,
                        {{"layers.0.self_attn.q_proj", "a", "b", 2, 0.5f, "m"}});
  const LowRank* part = adapter.of(m.weights.text.layers[0].q);
  ASSERT_NE(part, nullptr);
  for (size_t o = 0; o < 12; ++o) {
    double squares = 0;
    for (size_t i = 0; i < 8; ++i) {
      const double w = m.q.values[o * 8 + i] + 0.5 * (static_cast<double>(b[o * 2]) * a[i] + b[o * 2 + 1] * a[8 + i]);
      squares += w * w;
    }
    EXPECT_NEAR(part->factors[o], magnitude[o] / std::sqrt(squares), 1e-5 * part->factors[o]);
  }
}

TEST_F(AdaptersTest, WhatDoesNotFitIsNamed) {
  Model m(rng);
  m.put("a", {2, 8}, random_rows(16, rng));
  m.put("b", {11, 2}, random_rows(22, rng));
  const auto message = [&](const AdapterPart& part) -> std::string {
    try {
      const Adapter adapter(m.compute, m.config, m.weights, m.store, {part});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kModelFile);
      return error.what();
    }
    return "";
  };
  const auto holds = [](const std::string& text, const std::string& part) { return text.find(part) != text.npos; };
  EXPECT_TRUE(holds(message({"layers.0.self_attn.q_proj", "a", "b", 2, 1, ""}), "b: expected (12, 2), found (11, 2)"));
  EXPECT_TRUE(holds(message({"layers.0.self_attn.q_proj", "a", "c", 2, 1, ""}), "c: expected (12, 2), found none"));
  EXPECT_TRUE(holds(message({"layers.0.self_attn.q_proj", "a", "b", 3, 1, ""}), "a: expected (3, 8), found (2, 8)"));
  EXPECT_TRUE(holds(message({"layers.1.self_attn.q_proj", "a", "b", 2, 1, ""}), "layers.1.self_attn.q_proj (a)"));
  EXPECT_TRUE(holds(message({"layers.0.self_attn.q_proj", "a", "b", size_t{1} << 63, 1, ""}), "expected"));
}

}  // namespace
}  // namespace gemma4
