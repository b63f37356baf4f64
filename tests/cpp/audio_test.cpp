// encode_audio() against a plain implementation of the same model: loops over all pairs with a mask, no kernels.
// The reference is a template. In double it is the truth; in float its own error says how far an honest f32
// computation of this very model may be off, which is what the tolerance is made of.
#include "model/audio.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "random_weights.h"

namespace gemma4 {
namespace {

AudioConfig small() {
  AudioConfig c;
  c.mel_bins = 10;
  c.hidden = 18;
  c.layers = 2;
  c.heads = 3;
  c.channels1 = 13;
  c.channels2 = 5;
  c.conv_kernel = 4;
  c.chunk = 6;
  c.left = 7;
  c.right = 0;
  c.out = 11;
  return c;
}

struct RandomClipped {
  RandomTensor w;
  ClippedMatrix bound;
};

struct RandomFeedForward {
  RandomClipped up, down;
  Vector norm, post_norm;
};

struct RandomLayer {
  RandomFeedForward ffn1, ffn2;
  RandomClipped q, k, v, o, conv_in, conv_out;
  RandomTensor relative_k;
  Vector per_dim_scale, attn_norm, post_attn_norm, conv_pre_norm, conv, conv_norm, norm_out;
};

// A whole encoder: the weights as the engine sees them and as numbers.
struct RandomAudio {
  RandomAudio(const AudioConfig& config, size_t text_hidden, DType t, unsigned seed)
      : c(config), text(text_hidden), dtype(t), rng(seed) {
    const size_t h = c.hidden, first = c.channels1, second = c.channels2, flat = first / 4 * second;
    w.conv1 = normal(first * 9, 0.3f), w.conv2 = normal(second * 9 * first, 0.1f);
    w.conv1_norm = around_one(first), w.conv2_norm = around_one(second);
    input = matrix(h, flat), output = matrix(c.out, h), projection = matrix(text, c.out);
    w.output_bias = normal(c.out, 0.5f);
    for (int i = 0; i < c.layers; ++i) {
      RandomLayer layer{feed_forward(),    feed_forward(),
                        clipped(h, h),     clipped(h, h),
                        clipped(h, h),     clipped(h, h),
                        clipped(2 * h, h), clipped(h, h),
                        matrix(h, h),      normal(h / c.heads, 1),
                        around_one(h),     around_one(h),
                        around_one(h),     normal(c.conv_kernel * h, 0.5f),
                        around_one(h),     around_one(h)};
      layers.push_back(std::move(layer));
    }
    bind();
  }

  void bind() {
    w.input = input.view, w.output = output.view, w.projection = projection.view;
    const auto ffn = [](const RandomFeedForward& f) {
      return AudioFeedForwardWeights{f.norm, f.up.bound, f.down.bound, f.post_norm};
    };
    for (const RandomLayer& l : layers) {
      w.layers.push_back({ffn(l.ffn1), l.attn_norm, l.q.bound, l.k.bound, l.v.bound, l.o.bound, l.relative_k.view,
                          l.per_dim_scale, l.post_attn_norm, l.conv_pre_norm, l.conv_in.bound, l.conv, l.conv_norm,
                          l.conv_out.bound, ffn(l.ffn2), l.norm_out});
    }
  }

  RandomTensor matrix(size_t rows, size_t cols) {
    return RandomTensor(dtype, {rows, cols}, 1 / std::sqrt(static_cast<float>(cols)), rng);
  }

  RandomClipped clipped(size_t rows, size_t cols) {
    RandomClipped m{matrix(rows, cols), {}};
    m.bound.w = m.w.view;
    if (!c.clipped) return m;
    m.bound.in_min = -0.7f, m.bound.in_max = 0.9f, m.bound.out_min = -0.8f, m.bound.out_max = 0.6f;
    return m;
  }

  RandomFeedForward feed_forward() {
    const size_t h = c.hidden;
    return {clipped(4 * h, h), clipped(h, 4 * h), around_one(h), around_one(h)};
  }

  Vector normal(size_t n, float deviation, float mean = 0) {
    std::normal_distribution<float> distribution(mean, deviation);
    Vector v(n);
    for (float& x : v) x = distribution(rng);
    return v;
  }

  Vector around_one(size_t n) { return normal(n, 0.3f, 1); }

  AudioConfig c;
  size_t text;
  DType dtype;
  std::mt19937 rng;
  RandomTensor input, output, projection;
  std::vector<RandomLayer> layers;
  AudioWeights w;
};

// --- the plain implementation ----------------------------------------------------------------------------------------

template <class Real>
using Row = std::vector<Real>;
template <class Real>
using Rows = std::vector<Row<Real>>;

template <class Real>
Real clamp(Real x, double lo, double hi) {
  return std::min<Real>(std::max<Real>(x, static_cast<Real>(lo)), static_cast<Real>(hi));
}

template <class Real>
Real sigmoid(Real x) {
  return 1 / (1 + std::exp(-x));
}

template <class Real>
Row<Real> product(const RandomTensor& w, const Row<Real>& x) {
  Row<Real> y(w.view.rows(), 0);
  for (size_t r = 0; r < y.size(); ++r)
    for (size_t i = 0; i < x.size(); ++i) y[r] += static_cast<Real>(w.values[r * x.size() + i]) * x[i];
  return y;
}

template <class Real>
Row<Real> product(const RandomClipped& m, Row<Real> x) {
  for (Real& v : x) v = clamp(v, m.bound.in_min, m.bound.in_max);
  Row<Real> y = product(m.w, x);
  for (Real& v : y) v = clamp(v, m.bound.out_min, m.bound.out_max);
  return y;
}

template <class Real>
Row<Real> norm(Row<Real> x, const Vector* weight, double eps, double bound = 1e30) {
  Real sum = 0;
  for (Real& v : x) v = clamp(v, -bound, bound);
  for (Real v : x) sum += v * v;
  const Real scale = 1 / std::sqrt(sum / static_cast<Real>(x.size()) + static_cast<Real>(eps));
  for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * (weight ? static_cast<Real>((*weight)[i]) : 1);
  return x;
}

// x: (frames)(bins * channels) -> half of both, rounded up. w: (out, time, frequency, channels)
template <class Real>
Rows<Real> convolve(const Rows<Real>& x, size_t bins, size_t channels, const Vector& w, const Vector& weight,
                    double eps) {
  const size_t out = weight.size(), frames = (x.size() + 1) / 2, half = (bins + 1) / 2;
  Rows<Real> y(frames, Row<Real>(half * out));
  for (size_t t = 0; t < frames; ++t) {
    for (size_t f = 0; f < half; ++f) {
      Row<Real> cell(out, 0);
      for (size_t i = 0; i < 9; ++i) {
        const long frame = 2 * static_cast<long>(t) + static_cast<long>(i / 3) - 1;
        const long bin = 2 * static_cast<long>(f) + static_cast<long>(i % 3) - 1;
        if (frame < 0 || bin < 0 || frame >= static_cast<long>(x.size()) || bin >= static_cast<long>(bins)) continue;
        for (size_t o = 0; o < out; ++o)
          for (size_t c = 0; c < channels; ++c)
            cell[o] += static_cast<Real>(w[(o * 9 + i) * channels + c]) * x[frame][bin * channels + c];
      }
      Real mean = 0;
      for (Real v : cell) mean += v / static_cast<Real>(out);
      for (Real& v : cell) v -= mean;
      cell = norm(cell, &weight, eps);
      for (size_t o = 0; o < out; ++o) y[t][f * out + o] = std::max<Real>(cell[o], 0);
    }
  }
  return y;
}

template <class Real>
void feed_forward(const RandomAudio& m, const RandomFeedForward& w, Rows<Real>& h) {
  for (Row<Real>& row : h) {
    Row<Real> x = product(w.up, norm(row, &w.norm, 1e-6, m.c.gradient_clip));
    for (Real& v : x) v *= sigmoid(v);
    x = norm(product(w.down, x), &w.post_norm, 1e-6, m.c.gradient_clip);
    for (size_t i = 0; i < row.size(); ++i) row[i] += static_cast<Real>(m.c.residual_weight) * x[i];
  }
}

template <class Real>
Row<Real> sinusoids(size_t hidden, size_t position) {
  Row<Real> x(hidden);
  const double step = std::log(10000.0) / std::max(1.0, static_cast<double>(hidden / 2) - 1);
  for (size_t i = 0; i < hidden / 2; ++i) {
    const double angle = static_cast<double>(position) * std::exp(-step * static_cast<double>(i));
    x[i] = static_cast<Real>(std::sin(angle));
    x[hidden / 2 + i] = static_cast<Real>(std::cos(angle));
  }
  return x;
}

template <class Real>
void attention(const RandomAudio& m, const RandomLayer& l, Rows<Real>& h) {
  const long tokens = static_cast<long>(h.size()), left = m.c.left, right = m.c.right;
  const long positions = (m.c.chunk + left - 1 + right) / 2 + 1;
  const size_t dim = m.c.hidden / m.c.heads;
  Rows<Real> q, k, v, relative, out = h;
  for (const Row<Real>& row : h) {
    const Row<Real> x = norm(row, &l.attn_norm, 1e-6, m.c.gradient_clip);
    q.push_back(product(l.q, x)), k.push_back(product(l.k, x)), v.push_back(product(l.v, x));
  }
  for (long c = 0; c < positions; ++c)
    relative.push_back(product(l.relative_k, sinusoids<Real>(m.c.hidden, positions - 1 - c)));
  const Real q_scale = static_cast<Real>(1 / (std::sqrt(static_cast<double>(dim)) * std::log(2.0)));
  const Real k_scale = static_cast<Real>(std::log(1 + std::exp(1.0)) / std::log(2.0)), cap = m.c.logit_cap;
  for (long t = 0; t < tokens; ++t) {
    for (size_t i = 0; i < q[t].size(); ++i)
      q[t][i] *= q_scale * static_cast<Real>(std::log1p(std::exp(static_cast<double>(l.per_dim_scale[i % dim]))));
    for (size_t at = 0; at < q[t].size(); at += dim) {
      Row<Real> sum(dim, 0);
      Real total = 0;
      for (long s = 0; s < tokens; ++s) {
        const long distance = t - s;
        if (distance > left - 2 || distance < -std::max(right - 1, 0L)) continue;
        const long c = left - 1 - distance;
        Real score = 0;
        for (size_t i = at; i < at + dim; ++i)
          score += q[t][i] * (k_scale * k[s][i] + (c < positions ? relative[c][i] : 0));
        const Real p = std::exp(cap * std::tanh(score / cap));
        total += p;
        for (size_t i = 0; i < dim; ++i) sum[i] += p * v[s][at + i];
      }
      for (size_t i = 0; i < dim; ++i) out[t][at + i] = sum[i] / total;
    }
  }
  for (long t = 0; t < tokens; ++t) {
    const Row<Real> y = norm(product(l.o, out[t]), &l.post_attn_norm, 1e-6, m.c.gradient_clip);
    for (size_t i = 0; i < y.size(); ++i) h[t][i] += y[i];
  }
}

template <class Real>
void convolution(const RandomAudio& m, const RandomLayer& l, Rows<Real>& h) {
  const size_t n = m.c.hidden, kernel = m.c.conv_kernel;
  Rows<Real> gated;
  for (const Row<Real>& row : h) {
    const Row<Real> x = product(l.conv_in, norm(row, &l.conv_pre_norm, m.c.norm_eps));
    gated.emplace_back(n);
    for (size_t i = 0; i < n; ++i) gated.back()[i] = x[i] * sigmoid(x[n + i]);
  }
  for (size_t t = 0; t < h.size(); ++t) {
    Row<Real> x(n, 0);
    for (size_t back = 0; back < kernel && back <= t; ++back)
      for (size_t i = 0; i < n; ++i)
        x[i] += static_cast<Real>(l.conv[(kernel - 1 - back) * n + i]) * gated[t - back][i];
    x = norm(x, &l.conv_norm, m.c.norm_eps, m.c.gradient_clip);
    for (Real& v : x) v *= sigmoid(v);
    x = product(l.conv_out, x);
    for (size_t i = 0; i < n; ++i) h[t][i] += x[i];
  }
}

template <class Real>
Row<Real> plain_encode(const RandomAudio& m, const std::vector<float>& mel) {
  const size_t bins = m.c.mel_bins;
  Rows<Real> x;
  for (size_t at = 0; at < mel.size(); at += bins) x.emplace_back(mel.begin() + at, mel.begin() + at + bins);
  x = convolve(x, bins, 1, m.w.conv1, m.w.conv1_norm, m.c.norm_eps);
  x = convolve(x, (bins + 1) / 2, m.c.channels1, m.w.conv2, m.w.conv2_norm, m.c.norm_eps);
  Rows<Real> h;
  for (const Row<Real>& row : x) h.push_back(product(m.input, row));
  for (const RandomLayer& l : m.layers) {
    feed_forward(m, l.ffn1, h);
    attention(m, l, h);
    convolution(m, l, h);
    feed_forward(m, l.ffn2, h);
    for (Row<Real>& row : h) row = norm(row, &l.norm_out, 1e-6, m.c.gradient_clip);
  }
  Row<Real> out;
  for (const Row<Real>& row : h) {
    Row<Real> y = product(m.output, row);
    for (size_t i = 0; i < y.size(); ++i) y[i] += m.w.output_bias[i];
    y = product(m.projection, norm(y, nullptr, m.c.norm_eps));
    out.insert(out.end(), y.begin(), y.end());
  }
  return out;
}

// --- tests -----------------------------------------------------------------------------------------------------------

std::vector<float> encode(const Isa& k, int threads, const RandomAudio& m, const std::vector<float>& mel) {
  const size_t frames = mel.size() / m.c.mel_bins;
  std::vector<float> out(audio_soft_tokens(frames) * m.text, std::numeric_limits<float>::quiet_NaN());
  ThreadPool pool(threads);
  Workspace workspace(pool.size());
  Interrupt never;
  encode_audio({k, pool, never, workspace}, m.c, m.w, mel.data(), frames, out.data());
  return out;
}

struct Case {
  const char* name;
  void (*change)(AudioConfig&);
  std::vector<size_t> frames;
  DType dtype = DType::kF32;
};

class AudioTest : public testing::TestWithParam<Case> {};

TEST_P(AudioTest, EqualsThePlainImplementation) {
  const Case& test = GetParam();
  AudioConfig config = small();
  test.change(config);
  validate([&] {
    ModelConfig whole;
    whole.text.vocab = whole.text.hidden = whole.text.heads = whole.text.window = whole.text.context = 1;
    LayerSpec layer;
    layer.head_dim = 2, layer.kv_heads = layer.ffn = 1, layer.rope_theta = 1;
    whole.text.layers = {layer};
    whole.audio = config;
    return whole;
  }());
  RandomAudio m(config, 20, test.dtype, 5);
  for (size_t frames : test.frames) {
    SCOPED_TRACE(std::to_string(frames) + " frames");
    const std::vector<float> mel = m.normal(frames * config.mel_bins, 2);
    const Row<double> truth = plain_encode<double>(m, mel);
    const Row<float> rounded = plain_encode<float>(m, mel);
    double largest = 0, error = 0;
    for (size_t i = 0; i < truth.size(); ++i) {
      largest = std::max(largest, std::abs(truth[i]));
      error = std::max(error, std::abs(truth[i] - rounded[i]));
    }
    const double tolerance = 8 * std::max(error, largest * 0x1p-22);
    ASSERT_LT(tolerance, 1e-3 * largest) << "the model is too sensitive to test anything";
    for (const Isa* k : supported_isas()) {
      SCOPED_TRACE(std::string(k->name));
      const std::vector<float> one = encode(*k, 1, m, mel);
      ASSERT_EQ(one.size(), truth.size());
      for (size_t i = 0; i < one.size(); ++i) {
        ASSERT_NEAR(one[i], truth[i], tolerance) << "soft token " << i / m.text << ", channel " << i % m.text;
      }
      const std::vector<float> many = encode(*k, 3, m, mel);
      ASSERT_EQ(std::memcmp(one.data(), many.data(), one.size() * sizeof(float)), 0) << "3 threads";
    }
  }
}

const auto same = [](AudioConfig&) {};
INSTANTIATE_TEST_SUITE_P(
    All, AudioTest,
    testing::Values(Case{"plain", same, {1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100}},
                    Case{"bf16", same, {40}, DType::kBF16}, Case{"f16", same, {40}, DType::kF16},
                    Case{"clipped", [](AudioConfig& c) { c.clipped = true; }, {1, 90}},
                    Case{"tight", [](AudioConfig& c) { c.gradient_clip = 0.8f, c.logit_cap = 1.5f; }, {90}},
                    Case{"future", [](AudioConfig& c) { c.right = 4; }, {3, 90}},
                    Case{"one_key", [](AudioConfig& c) { c.left = 2; }, {50}},
                    Case{"wide_past", [](AudioConfig& c) { c.left = 40, c.chunk = 3; }, {90}},
                    Case{"wide_blocks", [](AudioConfig& c) { c.chunk = 50; }, {90}},
                    Case{"short_kernel", [](AudioConfig& c) { c.conv_kernel = 1; }, {30}},
                    Case{"long_kernel", [](AudioConfig& c) { c.conv_kernel = 20; }, {30, 120}},
                    Case{"one_channel_heads", [](AudioConfig& c) { c.heads = 18; }, {30}},
                    Case{"one_bin", [](AudioConfig& c) { c.mel_bins = 1, c.channels1 = 4; }, {30}},
                    Case{"wide_output", [](AudioConfig& c) { c.out = 200, c.residual_weight = -0.3f; }, {30}},
                    // Three chunks of soft tokens, none of them full.
                    Case{"several_chunks", [](AudioConfig& c) { c.layers = 1; }, {4 * 1700 + 1}}),
    [](const testing::TestParamInfo<Case>& test) { return test.param.name; });

TEST(AudioCountTest, FourFramesAreOneToken) {
  for (size_t frames = 0; frames < 100; ++frames) {
    EXPECT_EQ(audio_soft_tokens(frames), ((frames + 1) / 2 + 1) / 2) << frames;
  }
  EXPECT_EQ(audio_soft_tokens(2999), 750u);
}

TEST(AudioCountTest, NoFramesNoWork) {
  RandomAudio m(small(), 20, DType::kF32, 1);
  EXPECT_TRUE(encode(active_isa(), 1, m, {}).empty());
}

TEST(AudioInterruptTest, StopsSoon) {
  AudioConfig config = small();
  config.layers = 100;
  RandomAudio m(config, 20, DType::kF32, 4);
  const std::vector<float> mel = m.normal(2999 * config.mel_bins, 2);
  std::vector<float> out(750 * m.text);
  ThreadPool pool(2);
  Workspace workspace(pool.size());
  Interrupt stop([] { return true; });
  const auto start = std::chrono::steady_clock::now();
  try {
    encode_audio({active_isa(), pool, stop, workspace}, config, m.w, mel.data(), 2999, out.data());
    FAIL() << "ran to its end";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kCancelled);
  }
  // 20 ms between questions plus a tile; the bound is generous because test machines stall.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

}  // namespace
}  // namespace gemma4
