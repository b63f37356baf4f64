// encode_image() against a plain implementation of the same model: loops over all pairs, no blocks, no kernels.
// The reference is a template. In double it is the truth; in float its own error says how far an honest f32
// computation of this very model may be off, which is what the tolerance is made of.
#include "model/vision.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/tiles.h"
#include "plain_vision.h"

namespace gemma4 {
namespace {

VisionConfig small() {
  VisionConfig c;
  c.hidden = 24;
  c.layers = 2;
  c.heads = c.kv_heads = 3;
  c.head_dim = 8;
  c.ffn = 40;
  c.patch = 4;
  c.pool = 3;
  c.positions = 64;
  return c;
}

std::vector<float> encode(const Isa& k, int threads, const RandomVision& m, const Picture& image) {
  ThreadPool pool(threads);
  Workspace workspace(pool.size());
  Interrupt never;
  const size_t tokens = soft_token_count(m.c, image.height, image.width);
  std::vector<float> out(tokens * m.text, std::numeric_limits<float>::quiet_NaN());
  encode_image({k, pool, never, workspace}, m.c, m.weights, image.view(), out.data());
  return out;
}

struct Case {
  std::string name;
  std::function<void(VisionConfig&)> change;
  size_t tokens_high, tokens_wide;
  DType dtype = DType::kF32;
  size_t padding = 0;  // bytes after each row of pixels
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class VisionTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { single_threaded_blas(); }
};

TEST_P(VisionTest, EqualsThePlainImplementation) {
  const Case& test = GetParam();
  VisionConfig config = small();
  test.change(config);
  RandomVision m(config, 20, test.dtype, 3);
  const size_t side = static_cast<size_t>(config.patch) * config.pool;
  const Picture image(test.tokens_high * side, test.tokens_wide * side, test.padding, m.rng);

  const Row<double> truth = plain_encode<double>(m, image);
  const Row<float> rounded = plain_encode<float>(m, image);
  double largest = 0, error = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    largest = std::max(largest, std::abs(truth[i]));
    error = std::max(error, std::abs(truth[i] - rounded[i]));
  }
  // Sums in another order and kernels with another exp err alike, not equally: some multiple of it, and not below the
  // last bits of the result.
  const double tolerance = 8 * std::max(error, largest * 0x1p-22);
  ASSERT_LT(tolerance, 1e-3 * largest) << "the model is too sensitive to test anything";

  for (const Isa* k : supported_isas()) {
    SCOPED_TRACE(std::string(k->name));
    const std::vector<float> one = encode(*k, 1, m, image);
    ASSERT_EQ(one.size(), truth.size());
    for (size_t i = 0; i < one.size(); ++i) {
      ASSERT_NEAR(one[i], truth[i], tolerance) << "soft token " << i / m.text << ", channel " << i % m.text;
    }
    for (int threads : {2, 5}) {
      const std::vector<float> many = encode(*k, threads, m, image);
      ASSERT_EQ(std::memcmp(one.data(), many.data(), one.size() * sizeof(float)), 0) << threads << " threads";
    }
  }
}

const auto same = [](VisionConfig&) {};
INSTANTIATE_TEST_SUITE_P(
    All, VisionTest,
    testing::Values(Case{"plain", same, 3, 5}, Case{"one_token", same, 1, 1}, Case{"one_row", same, 1, 9},
                    Case{"one_column", same, 9, 1}, Case{"padded_rows", same, 2, 3, DType::kF32, 7},
                    Case{"bf16", same, 3, 5, DType::kBF16}, Case{"f16", same, 5, 3, DType::kF16},
                    Case{"clipped", [](VisionConfig& c) { c.clipped = true; }, 3, 5},
                    Case{"clipped_bf16", [](VisionConfig& c) { c.clipped = true; }, 2, 2, DType::kBF16},
                    Case{"standardize", [](VisionConfig& c) { c.standardize = true; }, 3, 5},
                    Case{"grouped_heads",
                         [](VisionConfig& c) {
                           c.heads = 6;
                           c.kv_heads = 2;
                           c.clipped = true;
                         },
                         3, 5},
                    Case{"one_kv_head",
                         [](VisionConfig& c) {
                           c.heads = 4;
                           c.kv_heads = 1;
                         },
                         2, 3},
                    Case{"heads_wider_than_hidden", [](VisionConfig& c) { c.head_dim = 20; }, 2, 3},
                    Case{"smallest_head", [](VisionConfig& c) { c.head_dim = 4; }, 2, 3},
                    Case{"patch_wider_than_hidden", [](VisionConfig& c) { c.patch = 9; }, 2, 2},
                    Case{"no_pooling", [](VisionConfig& c) { c.pool = 1; }, 3, 5},
                    Case{"one_pixel_patches",
                         [](VisionConfig& c) {
                           c.patch = 1;
                           c.pool = 2;
                         },
                         3, 4},
                    Case{"other_theta", [](VisionConfig& c) { c.rope_theta = 10000; }, 3, 5},
                    // 2688 patches: several blocks of queries and keys, two chunks, none of them full.
                    Case{"many_patches",
                         [](VisionConfig& c) {
                           c.hidden = 12;
                           c.layers = 1;
                           c.heads = 2;
                           c.kv_heads = 1;
                           c.head_dim = 4;
                           c.ffn = 16;
                           c.patch = 2;
                           c.pool = 2;
                           c.clipped = c.standardize = true;
                         },
                         24, 28}),
    [](const testing::TestParamInfo<Case>& test) { return test.param.name; });

// Root mean square of the difference over that of the truth.
double relative(const Row<double>& x, const Row<double>& truth) {
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(x[i] - truth[i], 2);
    size += truth[i] * truth[i];
  }
  return std::sqrt(error / size);
}

// Block formats compute in int8. What that costs is what rounding costs in the plain implementation; beside it, ours
// rounds the weights of attention, to half a quant of 127, and breaks ties by f32. Tiles round to bf16 instead, weights
// too: a float to one part in 512 at most, where int8 rounds the largest of 32 to one in 254 and the others as
// coarsely.
TEST(VisionRoundingTest, BlockFormatsCostWhatRoundingCosts) {
  single_threaded_blas();
  VisionConfig config = small();
  config.hidden = 64;
  config.heads = config.kv_heads = 4;
  config.head_dim = 40;  // heads that fill neither a block nor a vector, projections that do
  config.ffn = 96;
  config.clipped = true;
  for (DType t : {DType::kQ8_0, DType::kQ4_0}) {
    RandomVision m(config, 20, t, 3);
    const Picture image(7 * 12, 5 * 12, 0, m.rng);
    const Row<double> truth = plain_encode<double>(m, image), rounded = plain_encode<double, true>(m, image);
    const double cost = relative(rounded, truth);
    for (const Isa* k : supported_isas()) {
      SCOPED_TRACE(std::string(k->name));
      const std::vector<float> one = encode(*k, 1, m, image);
      const double error = relative(Row<double>(one.begin(), one.end()), truth);
      std::printf("%s %s: error %.4f, of rounding alone %.4f\n", traits(t).name.data(), k->name.data(), error, cost);
      const bool tiled = k->tiles != nullptr;
      EXPECT_LT(error, (tiled ? 1 : 1.25) * cost);
      EXPECT_GT(error, (tiled ? 0.25 : 0.75) * cost);
      for (int threads : {2, 5}) {
        const std::vector<float> many = encode(*k, threads, m, image);
        ASSERT_EQ(std::memcmp(one.data(), many.data(), one.size() * sizeof(float)), 0) << threads << " threads";
      }
    }
  }
}

TEST(VisionSizeTest, CountsSoftTokens) {
  VisionConfig c = small();  // 12 pixels on a side of a soft token, at most 64 patches (21 soft tokens) on a side
  EXPECT_EQ(soft_token_count(c, 12, 12), 1u);
  EXPECT_EQ(soft_token_count(c, 36, 60), 15u);
  EXPECT_EQ(soft_token_count(c, 252, 252), 441u);
}

TEST(VisionSizeTest, RefusesOtherSizes) {
  VisionConfig c = small();
  const size_t huge = std::numeric_limits<size_t>::max();
  const size_t sizes[][2] = {{0, 12},   {12, 0},   {11, 12},   {12, 16},
                             {264, 12}, {12, 264}, {huge, 12}, {huge / 12 * 12, 12}};
  for (const auto& [height, width] : sizes) {
    try {
      soft_token_count(c, height, width);
      ADD_FAILURE() << height << " x " << width << " was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kMedia);
    }
  }
  const uint8_t nothing = 0;
  ThreadPool pool(1);
  Workspace workspace(pool.size());
  Interrupt never;
  float out = 0;
  EXPECT_THROW(encode_image({active_isa(), pool, never, workspace}, c, VisionWeights{}, {&nothing, 12, 13, 39}, &out),
               Error);
}

TEST(VisionInterruptTest, StopsSoon) {
  VisionConfig config = small();
  config.layers = 200;
  RandomVision m(config, 20, DType::kF32, 4);
  const Picture image(240, 240, 0, m.rng);
  std::vector<float> out(400 * 20);
  ThreadPool pool(2);
  Workspace workspace(pool.size());
  Interrupt stop([] { return true; });
  const auto start = std::chrono::steady_clock::now();
  try {
    encode_image({active_isa(), pool, stop, workspace}, config, m.weights, image.view(), out.data());
    FAIL() << "ran to its end";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kCancelled);
  }
  // 20 ms between questions plus a tile; the bound is generous because test machines stall.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

}  // namespace
}  // namespace gemma4
