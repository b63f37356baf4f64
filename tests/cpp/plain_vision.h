// A plain implementation of the vision encoder with random weights: loops over all pairs, no blocks, no kernels.
// A template: in double it is the truth; in float its own error says how far an honest f32 computation may be off.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "model/vision.h"
#include "random_weights.h"

namespace gemma4 {

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

}  // namespace gemma4
