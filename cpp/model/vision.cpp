// The vision encoder: see vision.h for the contract. Published as Gemma4VisionModel and Gemma4MultimodalEmbedder.
// `Encoder::run` is the table of contents. Everything but attention works row by row, so patches pass through it in
// chunks that bound the wide buffers of the MLP; attention sees all patches, one head after the other.
#include "model/vision.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/lines.h"
#include "model/rows.h"

namespace gemma4 {
namespace {

// Patches in the row-wise parts at once: several of the blocks that a product is made of.
constexpr size_t kChunk = 1024;

// Every sized choice of a call, made once.
struct Sizes {
  Sizes(const VisionConfig& config, const ImageView& image)
      : hidden(config.hidden),
        ffn(config.ffn),
        head_dim(config.head_dim),
        heads(config.heads),
        kv_heads(config.kv_heads),
        patch(config.patch),
        pool(config.pool),
        width(image.width / patch),
        height(image.height / patch),
        patches(width * height),
        soft_tokens(patches / (pool * pool)),
        chunk(std::min(patches, kChunk)) {}

  size_t q_width() const { return heads * head_dim; }
  size_t kv_width() const { return kv_heads * head_dim; }
  size_t patch_values() const { return 3 * patch * patch; }

  size_t hidden, ffn, head_dim, heads, kv_heads;
  size_t patch, pool;    // pixels of a patch, patches of a soft token, on a side
  size_t width, height;  // of the image, in patches
  size_t patches, soft_tokens;
  size_t chunk;  // patches of the largest chunk
};

struct Scratch {
  Scratch(const Sizes& n, const FullAttentionKernels& attention, int threads)
      : h(n.patches * n.hidden),
        q(n.patches * n.q_width()),
        k(n.patches * n.kv_width()),
        v(n.patches * n.kv_width()),
        x(n.chunk * std::max(n.hidden, n.patch_values())),
        gate(n.chunk * n.ffn),
        up(n.chunk * n.ffn),
        y(n.chunk * n.hidden),
        soft(n.soft_tokens * n.hidden),
        cos(std::max(n.width, n.height) * n.head_dim / 4),
        sin(cos.size()),
        position(threads, std::vector<float>(2 * n.hidden)),
        head(blocks(n.patches, kFullKeys) * most(attention, &FullAttention::block_bytes, n.head_dim)),
        work(threads) {
    for (auto& bytes : work) bytes.room(most(attention, &FullAttention::scratch_bytes, n.head_dim));
  }

  Lines<float> h;           // (patches, hidden)  the residual stream
  Lines<float> q;           // (patches, heads * head_dim)  becomes the attention's output
  Lines<float> k;           // (patches, kv_heads * head_dim)
  Lines<float> v;           // (patches, kv_heads * head_dim)
  Lines<float> x;           // (chunk, hidden or patch values)  what a block of the layer reads
  Lines<float> gate;        // (chunk, ffn)
  Lines<float> up;          // (chunk, ffn)
  Lines<float> y;           // (chunk, hidden)  what it adds to the stream
  std::vector<float> soft;  // (soft tokens, hidden)
  std::vector<float> cos;   // (longer side in patches, head_dim / 4)  row p: the rotation of coordinate p
  std::vector<float> sin;   // the same
  std::vector<std::vector<float>> position;  // (threads)(2, hidden)  one row of each position table
  Lines<std::byte> head;                     // keys and values of one head, packed
  std::vector<Lines<std::byte>> work;        // (threads)  what attention works in

 private:
  // Bytes that either way of attention needs.
  static size_t most(const FullAttentionKernels& a, size_t (*FullAttention::*bytes)(size_t dim), size_t dim) {
    return std::max((a.exact.*bytes)(dim), (a.rounded.*bytes)(dim));
  }
};

class Encoder {
 public:
  Encoder(const Compute& c, const VisionConfig& config, const VisionWeights& weights, const Adapter* adapter,
          const ImageView& image)
      : c_(c),
        config_(config),
        weights_(weights),
        adapter_(adapter),
        image_(image),
        n_(config, image),
        attention_(c.isa.full_attention),
        s_(n_, attention_, c.pool.size()) {}

  void run(float* out) {
    fill_rotations();
    for_chunks([&](size_t first, size_t n) { embed_patches(first, n); });
    for (const VisionLayerWeights& layer : weights_.layers) {
      for_chunks([&](size_t first, size_t n) { project_qkv(layer, first, n); });
      attend(layer);
      for_chunks([&](size_t first, size_t n) {
        add_attention(layer, first, n);
        add_mlp(layer, first, n);
      });
    }
    pool_patches();
    linear(c_, weights_.projection, s_.soft.data(), n_.soft_tokens, out);
    adapt(c_, adapter_, weights_.projection, s_.soft.data(), n_.soft_tokens, out);
  }

 private:
  // --- rows ---------------------------------------------------------------------------------------------------------

  template <class Body>
  void for_chunks(const Body& body) {
    const size_t count = blocks(n_.patches, n_.chunk), size = blocks(n_.patches, count);
    for (size_t first = 0; first < n_.patches; first += size) body(first, std::min(size, n_.patches - first));
  }

  // s.x = norm(h) for a chunk.
  void norm_stream(const Vector& weight, size_t first, size_t rows) {
    for_rows(c_, rows, [&](size_t r, int) {
      c_.k.rms_norm(&s_.h[(first + r) * n_.hidden], weight.data(), &s_.x[r * n_.hidden], n_.hidden, config_.norm_eps);
    });
  }

  // h += norm(s.y) for a chunk.
  void add_to_stream(const Vector& weight, size_t first, size_t rows) {
    for_rows(c_, rows, [&](size_t r, int) {
      float* y = &s_.y[r * n_.hidden];
      c_.k.rms_norm(y, weight.data(), y, n_.hidden, config_.norm_eps);
      c_.k.axpy(1.0f, y, &s_.h[(first + r) * n_.hidden], n_.hidden);
    });
  }

  void fill_rotations();
  void embed_patches(size_t first, size_t rows);
  void project_qkv(const VisionLayerWeights& layer, size_t first, size_t rows);
  void rotate(float* head, size_t patch);
  void attend(const VisionLayerWeights& layer);
  void add_attention(const VisionLayerWeights& layer, size_t first, size_t rows);
  void add_mlp(const VisionLayerWeights& layer, size_t first, size_t rows);
  void pool_patches();

  const Compute& c_;
  const VisionConfig& config_;
  const VisionWeights& weights_;
  const Adapter* adapter_;
  const ImageView& image_;
  const Sizes n_;
  const FullAttentionKernels& attention_;
  Scratch s_;
};

// --- patches and positions
// --------------------------------------------------------------------------------------------

// Angle of coordinate p at pair i: p * theta^(-2 i / (head_dim / 2)), rounded to f32 like the reference's before its
// cosine is taken: the product can be hundreds of radians, where the rounding shows.
void Encoder::fill_rotations() {
  const size_t pairs = n_.head_dim / 4;
  for (size_t i = 0; i < pairs; ++i) {
    const auto frequency =
        static_cast<float>(std::pow(config_.rope_theta, -2.0 * static_cast<double>(i) / (config_.head_dim / 2.0)));
    for (size_t p = 0; p < std::max(n_.width, n_.height); ++p) {
      const float angle = static_cast<float>(p) * frequency;
      s_.cos[p * pairs + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      s_.sin[p * pairs + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

// h = projection of the pixels in (row, column, channel) order, plus the rows of both position tables.
void Encoder::embed_patches(size_t first, size_t rows) {
  std::array<float, 256> value;  // of a byte: -1 ... 1
  for (int i = 0; i < 256; ++i) value[i] = 2.0f * (static_cast<float>(i) / 255.0f - 0.5f);

  for_rows(c_, rows, [&](size_t r, int) {
    const size_t py = (first + r) / n_.width, px = (first + r) % n_.width;
    float* x = &s_.x[r * n_.patch_values()];
    for (size_t line = 0; line < n_.patch; ++line) {
      const uint8_t* rgb = image_.rgb + (py * n_.patch + line) * image_.stride + px * n_.patch * 3;
      for (size_t i = 0; i < n_.patch * 3; ++i) *x++ = value[rgb[i]];
    }
  });
  float* h = &s_.h[first * n_.hidden];
  linear(c_, weights_.patch, s_.x.data(), rows, h);
  adapt(c_, adapter_, weights_.patch, s_.x.data(), rows, h);

  const TensorView& tables = weights_.positions;
  const auto to_f32 = c_.k.of(tables.dtype).to_f32;
  for_rows(c_, rows, [&](size_t r, int thread) {
    const size_t py = (first + r) / n_.width, px = (first + r) % n_.width;
    float* x_row = s_.position[thread].data();
    float* y_row = x_row + n_.hidden;
    to_f32(tables.row(px), x_row, n_.hidden);
    to_f32(tables.row(config_.positions + py), y_row, n_.hidden);
    c_.k.axpy(1.0f, y_row, x_row, n_.hidden);
    c_.k.axpy(1.0f, x_row, h + r * n_.hidden, n_.hidden);
  });
}

// --- attention
// --------------------------------------------------------------------------------------------------------

void Encoder::project_qkv(const VisionLayerWeights& layer, size_t first, size_t rows) {
  norm_stream(layer.attn_norm, first, rows);
  float* q = &s_.q[first * n_.q_width()];
  float* k = &s_.k[first * n_.kv_width()];
  float* v = &s_.v[first * n_.kv_width()];
  clipped_linear(c_, adapter_, {{layer.q, q}, {layer.k, k}, {layer.v, v}}, s_.x.data(), rows);

  for_rows(c_, rows, [&](size_t r, int) {
    const size_t patch = first + r;
    for (size_t head = 0; head < n_.heads; ++head) {
      float* q = &s_.q[patch * n_.q_width() + head * n_.head_dim];
      c_.k.rms_norm(q, layer.q_norm.data(), q, n_.head_dim, config_.norm_eps);
      rotate(q, patch);
    }
    for (size_t head = 0; head < n_.kv_heads; ++head) {
      float* k = &s_.k[patch * n_.kv_width() + head * n_.head_dim];
      float* v = &s_.v[patch * n_.kv_width() + head * n_.head_dim];
      c_.k.rms_norm(k, layer.k_norm.data(), k, n_.head_dim, config_.norm_eps);
      rotate(k, patch);
      c_.k.rms_norm(v, nullptr, v, n_.head_dim, config_.norm_eps);
    }
  });
}

// The first half of the head turns with x, the second with y.
void Encoder::rotate(float* head, size_t patch) {
  const size_t pairs = n_.head_dim / 4, x = patch % n_.width * pairs, y = patch / n_.width * pairs;
  c_.k.rope(head, &s_.cos[x], &s_.sin[x], pairs, pairs);
  c_.k.rope(head + n_.head_dim / 2, &s_.cos[y], &s_.sin[y], pairs, pairs);
}

// q = softmax(q k^T) v: every patch sees every patch, scale 1. Only one block of queries reads these queries, so its
// output can take their place. Where the projections round what they read to int8, attention does so with its values.
void Encoder::attend(const VisionLayerWeights& layer) {
  const FullAttention& f = is_block_format(layer.q.w.dtype) ? attention_.rounded : attention_.exact;
  const size_t dim = n_.head_dim, group = n_.heads / n_.kv_heads, block_bytes = f.block_bytes(dim);
  const size_t query_blocks = blocks(n_.patches, kFullQueries);
  for (size_t kv_head = 0; kv_head < n_.kv_heads; ++kv_head) {
    c_.pool.parallel_for(blocks(n_.patches, kFullKeys), [&](size_t block, int) {
      const size_t first = block * kFullKeys, at = first * n_.kv_width() + kv_head * dim;
      f.pack(&s_.k[at], &s_.v[at], n_.kv_width(), std::min(kFullKeys, n_.patches - first), dim,
             &s_.head[block * block_bytes]);
    });
    c_.pool.parallel_for(group * query_blocks, [&](size_t item, int thread) {
      if (thread == 0) c_.interrupt.check();
      const size_t head = kv_head * group + item / query_blocks, first = item % query_blocks * kFullQueries;
      f.attend(s_.head.data(), n_.patches, dim, &s_.q[first * n_.q_width() + head * dim], n_.q_width(),
               std::min(kFullQueries, n_.patches - first), s_.work[thread].data());
    });
  }
}

void Encoder::add_attention(const VisionLayerWeights& layer, size_t first, size_t rows) {
  clipped_linear(c_, adapter_, {{layer.o, s_.y.data()}}, &s_.q[first * n_.q_width()], rows);
  add_to_stream(layer.post_attn_norm, first, rows);
}

// --- mlp and pooling
// --------------------------------------------------------------------------------------------------

void Encoder::add_mlp(const VisionLayerWeights& layer, size_t first, size_t rows) {
  norm_stream(layer.ffn_norm, first, rows);
  clipped_linear(c_, adapter_, {{layer.gate, s_.gate.data()}, {layer.up, s_.up.data()}}, s_.x.data(), rows);
  for_rows(c_, rows, [&](size_t r, int) {
    float* gate = &s_.gate[r * n_.ffn];
    c_.k.gelu_mul(gate, &s_.up[r * n_.ffn], gate, n_.ffn);
  });
  clipped_linear(c_, adapter_, {{layer.down, s_.y.data()}}, s_.gate.data(), rows);
  add_to_stream(layer.post_ffn_norm, first, rows);
}

// s.soft = norm(standardize(sqrt(hidden) * mean of pool x pool patches)).
void Encoder::pool_patches() {
  const size_t across = n_.width / n_.pool;  // soft tokens in a row of the image
  const auto factor =
      static_cast<float>(std::sqrt(static_cast<double>(n_.hidden)) / static_cast<double>(n_.pool * n_.pool));
  for_rows(c_, n_.soft_tokens, [&](size_t token, int) {
    float* out = &s_.soft[token * n_.hidden];  // zero from the start
    for (size_t i = 0; i < n_.pool * n_.pool; ++i) {
      const size_t py = token / across * n_.pool + i / n_.pool, px = token % across * n_.pool + i % n_.pool;
      c_.k.axpy(1.0f, &s_.h[(py * n_.width + px) * n_.hidden], out, n_.hidden);
    }
    c_.k.scale(factor, out, out, n_.hidden);
    if (config_.standardize) {
      c_.k.axpy(-1.0f, weights_.std_bias.data(), out, n_.hidden);
      c_.k.mul(out, weights_.std_scale.data(), out, n_.hidden);
    }
    c_.k.rms_norm(out, nullptr, out, n_.hidden, config_.norm_eps);
  });
}

}  // namespace

size_t square_count(size_t height, size_t width, size_t side, size_t most) {
  const auto check = [&](const char* name, size_t pixels) {
    const std::string what = std::string("image ") + name + " of " + std::to_string(pixels) + " pixels ";
    require(pixels > 0 && pixels % side == 0, ErrorKind::kMedia,
            what + "is not a positive multiple of " + std::to_string(side));
    require(pixels <= most, ErrorKind::kMedia, what + "is more than the " + std::to_string(most) + " of this model");
  };
  check("height", height);
  check("width", width);
  return (height / side) * (width / side);
}

size_t soft_token_count(const VisionConfig& config, size_t height, size_t width) {
  const size_t patch = config.patch;
  return square_count(height, width, patch * config.pool, patch * config.positions);
}

void encode_image(const Compute& c, const VisionConfig& config, const VisionWeights& weights, const ImageView& image,
                  float* out, const Adapter* adapter) {
  soft_token_count(config, image.height, image.width);
  Encoder(c, config, weights, adapter, image).run(out);
}

}  // namespace gemma4
