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
#include "random_weights.h"

namespace gemma4 {
namespace {

// A whole encoder: the weights as the engine sees them and as numbers.
struct RandomClipped {
  RandomTensor w;
  ClippedMatrix matrix() const { return {w.view, in_min, in_max, out_min, out_max}; }

  float in_min = -std::numeric_limits<float>::infinity(), in_max = -in_min;
  float out_min = in_min, out_max = in_max;
};

struct RandomLayer {
  RandomClipped q, k, v, o, gate, up, down;
  Vector attn_norm, q_norm, k_norm, post_attn_norm, ffn_norm, post_ffn_norm;
};

struct RandomVision {
  RandomVision(const VisionConfig& config, size_t text_hidden, DType t, unsigned seed)
      : c(config), text(text_hidden), rng(seed) {
    const size_t h = c.hidden, q = static_cast<size_t>(c.heads) * c.head_dim,
                 kv = static_cast<size_t>(c.kv_heads) * c.head_dim;
    const size_t pixels = 3u * c.patch * c.patch, f = c.ffn;
    // As in the files that converters write: block formats are for the matrices of layers.
    const DType plain = is_block_format(t) ? DType::kF32 : t;
    patch = RandomTensor(plain, {h, pixels}, deviation(pixels), rng);
    positions = RandomTensor(plain, {2, static_cast<size_t>(c.positions), h}, 0.5f, rng);
    for (int i = 0; i < c.layers; ++i) {
      layers.push_back({clipped(t, q, h), clipped(t, kv, h), clipped(t, kv, h), clipped(t, h, q), clipped(t, f, h),
                        clipped(t, f, h), clipped(t, h, f), norm(h), norm(c.head_dim), norm(c.head_dim), norm(h),
                        norm(h), norm(h)});
    }
    // Bounds may be one-sided, and may differ between matrices that share an input.
    if (c.clipped)
      layers[0].k.in_min = layers[0].k.out_max = layers[0].v.in_max = std::numeric_limits<float>::infinity();
    if (c.clipped) layers[0].k.in_min = -layers[0].k.in_min;
    if (c.standardize) {
      std_bias = norm(h);
      std_scale = norm(h);
    }
    projection = RandomTensor(t, {text, h}, deviation(h), rng);
    bind();
  }

  static float deviation(size_t inputs) { return 1 / std::sqrt(static_cast<float>(inputs)); }

  RandomClipped clipped(DType t, size_t rows, size_t cols) {
    RandomClipped m;
    m.w = RandomTensor(t, {rows, cols}, deviation(cols), rng);
    if (!c.clipped) return m;
    // Tight enough that a good part of the values is clamped.
    m.in_min = -0.7f;
    m.in_max = 0.9f;
    m.out_min = -0.8f;
    m.out_max = 0.6f;
    return m;
  }

  Vector norm(size_t n) {
    std::normal_distribution<float> normal(1, 0.3f);
    Vector v(n);
    for (float& x : v) x = normal(rng);
    return v;
  }

  void bind() {
    weights.patch = patch.view;
    weights.positions = positions.view;
    for (const RandomLayer& l : layers) {
      VisionLayerWeights w;
      w.attn_norm = l.attn_norm, w.q_norm = l.q_norm, w.k_norm = l.k_norm, w.post_attn_norm = l.post_attn_norm;
      w.ffn_norm = l.ffn_norm, w.post_ffn_norm = l.post_ffn_norm;
      w.q = l.q.matrix(), w.k = l.k.matrix(), w.v = l.v.matrix(), w.o = l.o.matrix();
      w.gate = l.gate.matrix(), w.up = l.up.matrix(), w.down = l.down.matrix();
      weights.layers.push_back(w);
    }
    weights.std_bias = std_bias;
    weights.std_scale = std_scale;
    weights.projection = projection.view;
  }

  VisionConfig c;
  size_t text;
  std::mt19937 rng;
  RandomTensor patch, positions, projection;
  std::vector<RandomLayer> layers;
  Vector std_bias, std_scale;
  VisionWeights weights;
};

struct Picture {
  Picture(size_t h, size_t w, size_t padding, std::mt19937& rng) : height(h), width(w), stride(w * 3 + padding) {
    for (size_t i = 0; i < h * stride; ++i) rgb.push_back(static_cast<uint8_t>(rng()));
  }
  ImageView view() const { return {rgb.data(), height, width, stride}; }

  size_t height, width, stride;
  std::vector<uint8_t> rgb;
};

// --- the plain implementation
// -----------------------------------------------------------------------------------------

template <class F>
using Row = std::vector<F>;
template <class F>
using Rows = std::vector<Row<F>>;

template <class F>
Row<F> plain_norm(const Row<F>& x, const Vector* weight, F eps) {
  F squares = 0;
  for (F v : x) squares += v * v;
  const F inverse = 1 / std::sqrt(squares / static_cast<F>(x.size()) + eps);
  Row<F> y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * inverse * (weight ? static_cast<F>((*weight)[i]) : F(1)));
  return y;
}

// What int8 leaves of numbers that share a scale.
template <class F>
void round_together(Row<F>& x, size_t begin, size_t end) {
  F most = 0;
  for (size_t i = begin; i < end; ++i) most = std::max(most, std::abs(x[i]));
  for (size_t i = begin; i < end && most > 0; ++i) x[i] = std::nearbyint(x[i] * 127 / most) * most / 127;
}

// `kRounds`: where the engine rounds, for matrices in block formats.
template <class F, bool kRounds = false>
Row<F> plain_product(const RandomTensor& w, Row<F> x) {
  for (size_t i = 0; kRounds && is_block_format(w.view.dtype) && i < x.size(); i += 32) round_together(x, i, i + 32);
  Row<F> y(w.view.rows(), 0);
  for (size_t r = 0; r < y.size(); ++r) {
    for (size_t i = 0; i < x.size(); ++i) y[r] += static_cast<F>(w.values[r * x.size() + i]) * x[i];
  }
  return y;
}

template <class F, bool kRounds>
Row<F> plain_clipped(const RandomClipped& m, Row<F> x) {
  for (F& v : x) v = std::min(std::max(v, static_cast<F>(m.in_min)), static_cast<F>(m.in_max));
  Row<F> y = plain_product<F, kRounds>(m.w, x);
  for (F& v : y) v = std::min(std::max(v, static_cast<F>(m.out_min)), static_cast<F>(m.out_max));
  return y;
}

// One head: channels [0, d/2) turn with x, [d/2, d) with y; in each, channel i pairs with channel i + d/4.
template <class F>
Row<F> plain_rope(Row<F> head, size_t x, size_t y, double theta) {
  const size_t d = head.size(), quarter = d / 4;
  for (size_t axis = 0; axis < 2; ++axis) {
    for (size_t i = 0; i < quarter; ++i) {
      const F frequency =
          static_cast<F>(1 / std::pow(theta, 2.0 * static_cast<double>(i) / (static_cast<double>(d) / 2)));
      const F angle = static_cast<F>(axis == 0 ? x : y) * frequency;
      F& a = head[axis * d / 2 + i];
      F& b = head[axis * d / 2 + quarter + i];
      const F a0 = a, b0 = b;
      a = a0 * std::cos(angle) - b0 * std::sin(angle);
      b = b0 * std::cos(angle) + a0 * std::sin(angle);
    }
  }
  return head;
}

template <class F>
Row<F> part(const Row<F>& x, size_t index, size_t size) {
  return Row<F>(x.begin() + static_cast<long>(index * size), x.begin() + static_cast<long>((index + 1) * size));
}

template <class F>
void add(Row<F>& x, const Row<F>& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

template <class F>
F plain_gelu(F x) {
  return F(0.5) * x * (1 + std::tanh(std::sqrt(F(2) / F(M_PI)) * (x + F(0.044715) * x * x * x)));
}

// softmax(q k^T) v for one query: no scale, every key.
template <class F>
Row<F> plain_attention(const Row<F>& q, const Rows<F>& keys, const Rows<F>& values) {
  Row<F> p;
  for (const Row<F>& k : keys) {
    F score = 0;
    for (size_t i = 0; i < q.size(); ++i) score += q[i] * k[i];
    p.push_back(score);
  }
  const F best = *std::max_element(p.begin(), p.end());
  F sum = 0;
  for (F& v : p) sum += v = std::exp(v - best);
  Row<F> out(q.size(), 0);
  for (size_t j = 0; j < p.size(); ++j) {
    for (size_t i = 0; i < q.size(); ++i) out[i] += p[j] / sum * values[j][i];
  }
  return out;
}

template <class F, bool kRounds>
void plain_layer(const VisionConfig& c, const RandomLayer& l, size_t width, Rows<F>& h) {
  const F eps = c.norm_eps;
  const size_t d = c.head_dim, group = c.heads / c.kv_heads;
  std::vector<Rows<F>> q(c.heads), k(c.kv_heads), v(c.kv_heads);  // (heads)(patches)(head_dim)
  for (size_t p = 0; p < h.size(); ++p) {
    const Row<F> x = plain_norm(h[p], &l.attn_norm, eps);
    const Row<F> qs = plain_clipped<F, kRounds>(l.q, x), ks = plain_clipped<F, kRounds>(l.k, x),
                 vs = plain_clipped<F, kRounds>(l.v, x);
    const auto turned = [&](const Row<F>& head, const Vector& weight) {
      return plain_rope(plain_norm(head, &weight, eps), p % width, p / width, c.rope_theta);
    };
    for (int i = 0; i < c.heads; ++i) q[i].push_back(turned(part(qs, i, d), l.q_norm));
    for (int i = 0; i < c.kv_heads; ++i) {
      k[i].push_back(turned(part(ks, i, d), l.k_norm));
      v[i].push_back(plain_norm<F>(part(vs, i, d), nullptr, eps));
      if (kRounds) round_together(v[i].back(), 0, d);
    }
  }
  for (size_t p = 0; p < h.size(); ++p) {
    Row<F> heads;
    for (size_t i = 0; i < q.size(); ++i) {
      const Row<F> one = plain_attention(q[i][p], k[i / group], v[i / group]);
      heads.insert(heads.end(), one.begin(), one.end());
    }
    add(h[p], plain_norm(plain_clipped<F, kRounds>(l.o, heads), &l.post_attn_norm, eps));
    const Row<F> x = plain_norm(h[p], &l.ffn_norm, eps);
    Row<F> gate = plain_clipped<F, kRounds>(l.gate, x);
    const Row<F> up = plain_clipped<F, kRounds>(l.up, x);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = plain_gelu(gate[i]) * up[i];
    add(h[p], plain_norm(plain_clipped<F, kRounds>(l.down, gate), &l.post_ffn_norm, eps));
  }
}

template <class F>
Row<F> plain_patch(const RandomVision& m, const Picture& image, size_t px, size_t py) {
  const size_t side = m.c.patch, hidden = m.c.hidden;
  Row<F> x;
  for (size_t row = 0; row < side; ++row) {
    for (size_t col = 0; col < side; ++col) {
      for (size_t channel = 0; channel < 3; ++channel) {
        const F byte = image.rgb[(py * side + row) * image.stride + (px * side + col) * 3 + channel];
        x.push_back(2 * (byte / 255 - F(0.5)));
      }
    }
  }
  Row<F> h = plain_product<F>(m.patch, x);
  for (size_t i = 0; i < hidden; ++i) {
    h[i] += static_cast<F>(m.positions.values[px * hidden + i]) +
            static_cast<F>(m.positions.values[(m.c.positions + py) * hidden + i]);
  }
  return h;
}

template <class F, bool kRounds = false>
Row<F> plain_encode(const RandomVision& m, const Picture& image) {
  const size_t width = image.width / m.c.patch, height = image.height / m.c.patch, pool = m.c.pool;
  Rows<F> h;
  for (size_t p = 0; p < width * height; ++p) h.push_back(plain_patch<F>(m, image, p % width, p / width));
  for (const RandomLayer& l : m.layers) plain_layer<F, kRounds>(m.c, l, width, h);

  Row<F> out;
  for (size_t ty = 0; ty < height / pool; ++ty) {
    for (size_t tx = 0; tx < width / pool; ++tx) {
      Row<F> soft(m.c.hidden, 0);
      for (size_t y = 0; y < pool; ++y) {
        for (size_t x = 0; x < pool; ++x) add(soft, h[(ty * pool + y) * width + tx * pool + x]);
      }
      for (size_t i = 0; i < soft.size(); ++i) {
        soft[i] = soft[i] / static_cast<F>(pool * pool) * std::sqrt(static_cast<F>(m.c.hidden));
        if (m.c.standardize) soft[i] = (soft[i] - m.std_bias[i]) * m.std_scale[i];
      }
      const Row<F> token = plain_product<F, kRounds>(m.projection, plain_norm<F>(soft, nullptr, m.c.norm_eps));
      out.insert(out.end(), token.begin(), token.end());
    }
  }
  return out;
}

// --- the tests
// --------------------------------------------------------------------------------------------------------

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
