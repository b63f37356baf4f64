// The audio encoder: see audio.h for the contract. Published as Gemma4AudioModel and Gemma4MultimodalEmbedder.
// `Encoder::run` is the table of contents. The reference pads a clip, masks the padding wherever it could be seen, and
// cuts sound into overlapping blocks to batch its attention; here a clip ends where it ends, the zeros around it are
// those of the convolutions, and every query reads exactly the keys that it may see. Soft tokens pass through the
// row-wise parts in chunks that bound the wide buffers.
#include "model/audio.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/lines.h"
#include "model/blas.h"
#include "model/rows.h"

namespace gemma4 {
namespace {

// Soft tokens in the row-wise parts at once. The longest clip (30 s, 750 soft tokens) is one chunk.
constexpr size_t kChunk = 768;
// Soft tokens that one item of the convolutions makes; each item also computes one frame that its neighbour computes.
constexpr size_t kTokensPerItem = 8;
// Of the norms for which the reference takes its class's default instead of the config's value.
constexpr float kDefaultEps = 1e-6f;

// Every sized choice of a call, made once.
struct Sizes {
  Sizes(const AudioConfig& config, size_t mel_frames)
      : hidden(config.hidden),
        heads(config.heads),
        head_dim(hidden / heads),
        out(config.out),
        mel_bins(config.mel_bins),
        channels1(config.channels1),
        channels2(config.channels2),
        bins1(blocks(mel_bins, 2)),
        bins2(blocks(bins1, 2)),
        kernel(config.conv_kernel),
        left(config.left),
        future(std::max(config.right - 1, 0)),
        positions((size_t(config.chunk) + left - 1 + config.right) / 2 + 1),
        frames(mel_frames),
        frames1(blocks(frames, 2)),
        tokens(audio_soft_tokens(frames)),
        chunk(std::min(tokens, kChunk)) {}

  size_t window() const { return left - 1 + future; }  // keys that a query sees at most
  size_t flat() const { return bins2 * channels2; }    // values of a token that leave the convolutions
  size_t ffn() const { return 4 * hidden; }

  size_t hidden, heads, head_dim, out;
  size_t mel_bins, channels1, channels2;
  size_t bins1, bins2;             // frequencies after the first and the second convolution
  size_t kernel;                   // of the depthwise convolution, in tokens
  size_t left, future, positions;  // see Encoder::attend
  size_t frames, frames1, tokens;  // at the input, after the first convolution, after the second
  size_t chunk;                    // tokens of the largest chunk
};

// What one thread needs.
struct ThreadScratch {
  explicit ThreadScratch(const Sizes& n)
      : patches1((2 * kTokensPerItem + 1) * n.bins1 * 9),
        conv1((2 * kTokensPerItem + 1) * n.bins1 * n.channels1),
        patches2(kTokensPerItem * n.bins2 * 9 * n.channels1),
        exps(std::max(n.ffn(), n.hidden)),
        scores(n.window()),
        bias(n.window()) {}

  std::vector<float> patches1;  // (frames, bins1, 3 * 3)
  std::vector<float> conv1;     // (frames, bins1, channels1)
  std::vector<float> patches2;  // (tokens, bins2, 3 * 3 * channels1)
  std::vector<float> exps;      // (ffn)
  std::vector<float> scores;    // (window)
  std::vector<float> bias;      // (window)
};

struct Scratch {
  Scratch(const Sizes& n, int threads)
      : h(n.tokens * n.hidden),
        q(n.tokens * n.hidden),
        k(n.tokens * n.hidden),
        v(n.tokens * n.hidden),
        gated(n.tokens * n.hidden),
        x(n.chunk * std::max({n.hidden, n.flat(), n.out})),
        wide(n.chunk * n.ffn()),
        y(n.chunk * n.hidden),
        positions(n.positions * n.hidden),
        relative(n.positions * n.hidden),
        q_scale(n.head_dim),
        threads(threads, ThreadScratch(n)) {}

  Lines<float> h;                // (tokens, hidden)  the residual stream
  Lines<float> q;                // (tokens, heads * head_dim)  becomes the attention's output
  Lines<float> k;                // (tokens, heads * head_dim)
  Lines<float> v;                // (tokens, heads * head_dim)
  Lines<float> gated;            // (tokens, hidden)  input of the depthwise convolution
  Lines<float> x;                // (chunk, widest)  what a block of the layer reads
  Lines<float> wide;             // (chunk, ffn)
  Lines<float> y;                // (chunk, hidden)  what it adds to the stream
  std::vector<float> positions;  // (positions, hidden)  sinusoids
  Lines<float> relative;         // (positions, heads * head_dim)  their keys in this layer
  std::vector<float> q_scale;    // (head_dim)  of this layer
  std::vector<ThreadScratch> threads;
};

class Encoder {
 public:
  Encoder(const Compute& c, const AudioConfig& config, const AudioWeights& weights, const Adapter* adapter,
          const float* mel, size_t frames)
      : c_(c),
        config_(config),
        weights_(weights),
        adapter_(adapter),
        mel_(mel),
        n_(config, frames),
        s_(n_, c.pool.size()) {}

  void run(float* out) {
    fill_positions();
    for_chunks([&](size_t first, size_t n) { subsample(first, n); });
    for (const AudioLayerWeights& layer : weights_.layers) {
      scale_and_project_positions(layer);
      for_chunks([&](size_t first, size_t n) {
        add_feed_forward(layer.ffn1, first, n);
        project_qkv(layer, first, n);
      });
      attend();
      for_chunks([&](size_t first, size_t n) {
        add_attention(layer, first, n);
        gate(layer, first, n);
      });
      for_chunks([&](size_t first, size_t n) {
        add_convolution(layer, first, n);
        add_feed_forward(layer.ffn2, first, n);
        norm_stream(layer.norm_out, first, n);
      });
    }
    for_chunks([&](size_t first, size_t n) { project(first, n, out); });
  }

 private:
  template <class Body>
  void for_chunks(const Body& body) {
    const size_t size = blocks(n_.tokens, blocks(n_.tokens, n_.chunk));
    for (size_t first = 0; first < n_.tokens; first += size) body(first, std::min(size, n_.tokens - first));
  }

  // y = norm(clamp(x)); y may be x.   x, y: (hidden)
  void clamped_norm(const float* x, const Vector& weight, float* y) const {
    if (y != x) std::memcpy(y, x, n_.hidden * sizeof(float));
    c_.k.clamp(y, n_.hidden, -config_.gradient_clip, config_.gradient_clip);
    c_.k.rms_norm(y, weight.data(), y, n_.hidden, kDefaultEps);
  }

  // y = x * sigmoid(g); y may be x.   exps: scratch of n floats
  void gate_row(const float* x, const float* g, float* y, size_t n, float* exps) const {
    c_.k.scale(-1.0f, g, exps, n);
    c_.k.exp_sum(exps, n, 0);
    for (size_t i = 0; i < n; ++i) y[i] = x[i] / (1.0f + exps[i]);
  }

  void fill_positions();
  void subsample(size_t first, size_t rows);
  void convolve1(size_t begin, size_t end, ThreadScratch& s);
  void convolve2(size_t begin, size_t end, float* out, ThreadScratch& s);
  void norm_channels(float* x, const Vector& weight) const;
  void scale_and_project_positions(const AudioLayerWeights& layer);
  void add_feed_forward(const AudioFeedForwardWeights& w, size_t first, size_t rows);
  void project_qkv(const AudioLayerWeights& layer, size_t first, size_t rows);
  void attend();
  void attend_row(size_t token, size_t head, ThreadScratch& s);
  void add_attention(const AudioLayerWeights& layer, size_t first, size_t rows);
  void gate(const AudioLayerWeights& layer, size_t first, size_t rows);
  void add_convolution(const AudioLayerWeights& layer, size_t first, size_t rows);
  void norm_stream(const Vector& weight, size_t first, size_t rows);
  void project(size_t first, size_t rows, float* out);

  const Compute& c_;
  const AudioConfig& config_;
  const AudioWeights& weights_;
  const Adapter* adapter_;
  const float* mel_;  // (frames, mel_bins)
  const Sizes n_;
  Scratch s_;
};

// --- convolutions ----------------------------------------------------------------------------------------------------

// h = both convolutions of the frames below a chunk of tokens, flattened as (frequency, channel), and a projection.
void Encoder::subsample(size_t first, size_t rows) {
  {
    const BlasMemory memory(c_.pool.size());
    c_.pool.parallel_for(blocks(rows, kTokensPerItem), [&](size_t item, int thread) {
      if (thread == 0) c_.interrupt.check();
      const size_t begin = item * kTokensPerItem, end = std::min(rows, begin + kTokensPerItem);
      convolve2(first + begin, first + end, &s_.x[begin * n_.flat()], s_.threads[thread]);
    });
  }
  linear(c_, weights_.input, s_.x.data(), rows, &s_.h[first * n_.hidden]);
  adapt(c_, adapter_, weights_.input, s_.x.data(), rows, &s_.h[first * n_.hidden]);
}

// s.conv1 = relu(norm(conv(mel))) at the frames [begin, end) of the halved rate.
void Encoder::convolve1(size_t begin, size_t end, ThreadScratch& s) {
  float* patch = s.patches1.data();
  for (size_t t = begin; t < end; ++t) {
    for (size_t f = 0; f < n_.bins1; ++f) {
      for (size_t i = 0; i < 9; ++i) {
        // An index of -1 wraps around and is out of range like any other beyond the edge: the padding is zero.
        const size_t frame = 2 * t + i / 3 - 1, bin = 2 * f + i % 3 - 1;
        *patch++ = frame < n_.frames && bin < n_.mel_bins ? mel_[frame * n_.mel_bins + bin] : 0.0f;
      }
    }
  }
  const size_t rows = (end - begin) * n_.bins1;
  multiply_transposed({s.patches1.data(), rows, 9, 9}, {weights_.conv1.data(), n_.channels1, 9, 9}, s.conv1.data(),
                      n_.channels1);
  for (size_t r = 0; r < rows; ++r) norm_channels(&s.conv1[r * n_.channels1], weights_.conv1_norm);
}

// out = relu(norm(conv(conv1))) at the tokens [begin, end).   out: (tokens, bins2, channels2)
void Encoder::convolve2(size_t begin, size_t end, float* out, ThreadScratch& s) {
  const size_t channels = n_.channels1;
  const size_t first = begin == 0 ? 0 : 2 * begin - 1, last = std::min(n_.frames1, 2 * end);
  convolve1(first, last, s);
  float* patch = s.patches2.data();
  for (size_t t = begin; t < end; ++t) {
    for (size_t f = 0; f < n_.bins2; ++f) {
      for (size_t i = 0; i < 9; ++i, patch += channels) {
        const size_t frame = 2 * t + i / 3 - 1, bin = 2 * f + i % 3 - 1;
        if (frame < n_.frames1 && bin < n_.bins1) {
          std::memcpy(patch, &s.conv1[((frame - first) * n_.bins1 + bin) * channels], channels * sizeof(float));
        } else {
          std::memset(patch, 0, channels * sizeof(float));
        }
      }
    }
  }
  const size_t rows = (end - begin) * n_.bins2;
  multiply_transposed({s.patches2.data(), rows, 9 * channels, 9 * channels},
                      {weights_.conv2.data(), n_.channels2, 9 * channels, 9 * channels}, out, n_.channels2);
  for (size_t r = 0; r < rows; ++r) norm_channels(out + r * n_.channels2, weights_.conv2_norm);
}

// x = relu(layer norm(x)), without bias: an RMS norm of what is left after the mean is taken away.
void Encoder::norm_channels(float* x, const Vector& weight) const {
  const size_t n = weight.size();
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += x[i];
  const auto mean = static_cast<float>(sum / static_cast<double>(n));
  for (size_t i = 0; i < n; ++i) x[i] -= mean;
  c_.k.rms_norm(x, weight.data(), x, n, config_.norm_eps);
  c_.k.clamp(x, n, 0.0f, std::numeric_limits<float>::infinity());
}

// --- attention -------------------------------------------------------------------------------------------------------

// Row c holds the sines and then the cosines of the position `positions - 1 - c`, rounded to f32 where the reference
// rounds.
void Encoder::fill_positions() {
  const size_t half = n_.hidden / 2;
  const auto step = static_cast<float>(-std::log(10000.0) / std::max<double>(1.0, static_cast<double>(half) - 1.0));
  for (size_t i = 0; i < half; ++i) {
    const auto frequency = static_cast<float>(std::exp(static_cast<double>(static_cast<float>(i) * step)));
    for (size_t c = 0; c < n_.positions; ++c) {
      const float angle = static_cast<float>(n_.positions - 1 - c) * frequency;
      s_.positions[c * n_.hidden + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
      s_.positions[c * n_.hidden + half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    }
  }
}

void Encoder::scale_and_project_positions(const AudioLayerWeights& layer) {
  linear(c_, layer.relative_k, s_.positions.data(), n_.positions, s_.relative.data());
  adapt(c_, adapter_, layer.relative_k, s_.positions.data(), n_.positions, s_.relative.data());
  const double scale = 1.0 / (std::sqrt(static_cast<double>(n_.head_dim)) * std::log(2.0));
  for (size_t i = 0; i < n_.head_dim; ++i) {
    const double x = layer.per_dim_scale[i];
    s_.q_scale[i] = static_cast<float>(scale * (x > 20 ? x : std::log1p(std::exp(x))));  // softplus
  }
}

void Encoder::project_qkv(const AudioLayerWeights& layer, size_t first, size_t rows) {
  const size_t at = first * n_.hidden;
  for_rows(c_, rows,
           [&](size_t r, int) { clamped_norm(&s_.h[at + r * n_.hidden], layer.attn_norm, &s_.x[r * n_.hidden]); });
  clipped_linear(c_, adapter_, {{layer.q, &s_.q[at]}, {layer.k, &s_.k[at]}, {layer.v, &s_.v[at]}}, s_.x.data(), rows);
  const auto k_scale = static_cast<float>(std::log1p(std::exp(1.0)) / std::log(2.0));
  for_rows(c_, rows, [&](size_t r, int) {
    float* q = &s_.q[at + r * n_.hidden];
    float* k = &s_.k[at + r * n_.hidden];
    for (size_t head = 0; head < n_.heads; ++head) {
      c_.k.mul(q + head * n_.head_dim, s_.q_scale.data(), q + head * n_.head_dim, n_.head_dim);
    }
    c_.k.scale(k_scale, k, k, n_.hidden);
  });
}

// q = softmax(cap(q k^T + q relative^T)) v over the last left - 1 tokens, the own one included, and `future` later
// ones.
void Encoder::attend() {
  for_rows(c_, n_.tokens, [&](size_t token, int thread) {
    for (size_t head = 0; head < n_.heads; ++head) attend_row(token, head, s_.threads[thread]);
  });
}

// The key at distance d (tokens into the past) meets row left - 1 - d of the relative keys, whose sinusoids are of
// position d if the blocks of the reference are as wide as their past; beyond the last row nothing is added.
// Only this row reads this query, so its output can take its place.
void Encoder::attend_row(size_t token, size_t head, ThreadScratch& s) {
  const FormatKernels& f32 = c_.k.of(DType::kF32);
  const size_t dim = n_.head_dim, stride = n_.hidden * sizeof(float), past = std::min(token, n_.left - 2);
  const size_t first = token - past, keys = std::min(n_.tokens, token + n_.future + 1) - first;
  const size_t row = n_.left - 1 - past, biased = row < n_.positions ? std::min(keys, n_.positions - row) : 0;
  float* q = &s_.q[token * n_.hidden + head * dim];
  const size_t at = first * n_.hidden + head * dim;

  f32.rows_dot({&s_.k[at], stride, keys, dim}, {q, dim, 1}, {s.scores.data(), keys});
  if (biased > 0) {
    f32.rows_dot({&s_.relative[row * n_.hidden + head * dim], stride, biased, dim}, {q, dim, 1},
                 {s.bias.data(), biased});
    c_.k.axpy(1.0f, s.bias.data(), s.scores.data(), biased);
  }
  c_.k.soft_cap(s.scores.data(), keys, config_.logit_cap);
  const float sum = c_.k.exp_sum(s.scores.data(), keys, c_.k.max(s.scores.data(), keys));
  std::memset(q, 0, dim * sizeof(float));
  f32.rows_axpy({&s_.v[at], stride, keys, dim}, {s.scores.data(), keys, 1}, {q, dim});
  c_.k.scale(1.0f / sum, q, q, dim);
}

void Encoder::add_attention(const AudioLayerWeights& layer, size_t first, size_t rows) {
  clipped_linear(c_, adapter_, {{layer.o, s_.y.data()}}, &s_.q[first * n_.hidden], rows);
  for_rows(c_, rows, [&](size_t r, int) {
    float* y = &s_.y[r * n_.hidden];
    clamped_norm(y, layer.post_attn_norm, y);
    c_.k.axpy(1.0f, y, &s_.h[(first + r) * n_.hidden], n_.hidden);
  });
}

// --- feed-forward, convolution in time, output -----------------------------------------------------------------------

// h += weight * norm(w2 silu(w1 norm(h)))
void Encoder::add_feed_forward(const AudioFeedForwardWeights& w, size_t first, size_t rows) {
  for_rows(c_, rows,
           [&](size_t r, int) { clamped_norm(&s_.h[(first + r) * n_.hidden], w.norm, &s_.x[r * n_.hidden]); });
  clipped_linear(c_, adapter_, {{w.up, s_.wide.data()}}, s_.x.data(), rows);
  for_rows(c_, rows, [&](size_t r, int thread) {
    float* x = &s_.wide[r * n_.ffn()];
    gate_row(x, x, x, n_.ffn(), s_.threads[thread].exps.data());
  });
  clipped_linear(c_, adapter_, {{w.down, s_.y.data()}}, s_.wide.data(), rows);
  for_rows(c_, rows, [&](size_t r, int) {
    float* y = &s_.y[r * n_.hidden];
    clamped_norm(y, w.post_norm, y);
    c_.k.axpy(config_.residual_weight, y, &s_.h[(first + r) * n_.hidden], n_.hidden);
  });
}

// gated = a * sigmoid(b), where a and b are the halves of a projection of norm(h).
void Encoder::gate(const AudioLayerWeights& layer, size_t first, size_t rows) {
  for_rows(c_, rows, [&](size_t r, int) {
    c_.k.rms_norm(&s_.h[(first + r) * n_.hidden], layer.conv_pre_norm.data(), &s_.x[r * n_.hidden], n_.hidden,
                  config_.norm_eps);
  });
  clipped_linear(c_, adapter_, {{layer.conv_in, s_.wide.data()}}, s_.x.data(), rows);
  for_rows(c_, rows, [&](size_t r, int thread) {
    const float* x = &s_.wide[r * 2 * n_.hidden];
    gate_row(x, x + n_.hidden, &s_.gated[(first + r) * n_.hidden], n_.hidden, s_.threads[thread].exps.data());
  });
}

// h += w silu(norm(depthwise convolution of `gated` over this and the kernel - 1 tokens before))
void Encoder::add_convolution(const AudioLayerWeights& layer, size_t first, size_t rows) {
  for_rows(c_, rows, [&](size_t r, int thread) {
    float* x = &s_.x[r * n_.hidden];
    std::fill_n(x, n_.hidden, 0.0f);
    for (size_t i = 0; i < n_.kernel; ++i) {
      if (first + r + i + 1 < n_.kernel) continue;  // before the clip began
      const float* w = &layer.conv[i * n_.hidden];
      const float* input = &s_.gated[(first + r + i + 1 - n_.kernel) * n_.hidden];
      for (size_t j = 0; j < n_.hidden; ++j) x[j] += w[j] * input[j];
    }
    c_.k.clamp(x, n_.hidden, -config_.gradient_clip, config_.gradient_clip);
    c_.k.rms_norm(x, layer.conv_norm.data(), x, n_.hidden, config_.norm_eps);
    gate_row(x, x, x, n_.hidden, s_.threads[thread].exps.data());
  });
  clipped_linear(c_, adapter_, {{layer.conv_out, s_.y.data()}}, s_.x.data(), rows);
  for_rows(c_, rows,
           [&](size_t r, int) { c_.k.axpy(1.0f, &s_.y[r * n_.hidden], &s_.h[(first + r) * n_.hidden], n_.hidden); });
}

// h = norm(h)
void Encoder::norm_stream(const Vector& weight, size_t first, size_t rows) {
  for_rows(c_, rows, [&](size_t r, int) {
    float* h = &s_.h[(first + r) * n_.hidden];
    clamped_norm(h, weight, h);
  });
}

// out = projection of norm(output(h) + bias)
void Encoder::project(size_t first, size_t rows, float* out) {
  linear(c_, weights_.output, &s_.h[first * n_.hidden], rows, s_.x.data());
  adapt(c_, adapter_, weights_.output, &s_.h[first * n_.hidden], rows, s_.x.data());
  for_rows(c_, rows, [&](size_t r, int) {
    float* x = &s_.x[r * n_.out];
    c_.k.axpy(1.0f, weights_.output_bias.data(), x, n_.out);
    if (weights_.output_step > 0) c_.k.to_lattice(x, x, n_.out, weights_.output_step, weights_.output_step);
    c_.k.rms_norm(x, nullptr, x, n_.out, config_.norm_eps);
  });
  float* soft = out + first * weights_.projection.rows();
  linear(c_, weights_.projection, s_.x.data(), rows, soft);
  adapt(c_, adapter_, weights_.projection, s_.x.data(), rows, soft);
}

}  // namespace

void encode_audio(const Compute& c, const AudioConfig& config, const AudioWeights& weights, const float* mel,
                  size_t frames, float* out, const Adapter* adapter) {
  if (frames > 0) Encoder(c, config, weights, adapter, mel, frames).run(out);
}

}  // namespace gemma4
