#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "kernels/isa.h"
#include "model/quants.h"

namespace gemma4 {
namespace {

using Shape = std::vector<size_t>;

std::string describe(const Shape& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + ")";
}

// What the parts of a quantized matrix are called after the name of its module.
constexpr const char *kPacked = ".weight_packed", *kScale = ".weight_scale", *kShape = ".weight_shape",
                     *kInputStep = ".input_activation_scale", *kOutputStep = ".output_activation_scale",
                     *kEmbedding = ".embedding_quantized", *kEmbeddingScale = ".embedding_scale";

Shape shape_of(const TensorView& t) { return {t.shape.begin(), t.shape.begin() + t.rank}; }

// Takes tensors by name, remembers what was wrong, and reports everything at once.
class Binder {
 public:
  explicit Binder(TensorStore& store) : store_(store) {}

  TensorView tensor(const std::string& name, const Shape& shape) {
    taken_.insert(name);
    const TensorView* t = store_.find(name);
    if (t == nullptr) {
      missing_.push_back(name + " " + describe(shape));
      return {};
    }
    if (shape_of(*t) != shape) {
      misshaped_.push_back(name + ": expected " + describe(shape) + ", found " + describe(shape_of(*t)));
      return {};
    }
    if (is_raw(t->dtype) || is_quants(t->dtype)) {
      misshaped_.push_back(name + ": expected values, found " + std::string(traits(t->dtype).name) +
                           " without a scale of its own");
      return {};
    }
    return *t;
  }

  // A matrix as it is, or as quants where the checkpoint holds those in its place.
  Matrix matrix(const std::string& name, size_t out, size_t in) {
    const std::string module = name.substr(0, name.rfind('.'));
    if (holds(module + kEmbedding)) return quants(module + kEmbedding, module + kEmbeddingScale, out, in);
    if (holds(module + kPacked)) {
      check_shape(module + kShape, out, in);
      return quants(module + kPacked, module + kScale, out, in);
    }
    if (!holds(module + kScale)) return tensor(name, {out, in});
    Matrix w = quants(name, module + kScale, out, in);
    w.scales.input = step(module + kInputStep);
    w.scales.output = step(module + kOutputStep);
    return w;
  }

  RowSource rows(const std::string& name, size_t out, size_t in) {
    const TensorView t = matrix(name, out, in);
    return {t, store_.file_of(t)};
  }

  Vector vector(const std::string& name, size_t n) { return values(name, {n}); }

  // A small tensor as f32, in the file's order. Norms and scales touch every row: one that is not finite leaves
  // nothing.
  Vector values(const std::string& name, const Shape& shape) {
    Vector v = read(name, shape);
    const auto bad = std::ranges::find_if_not(v, [](float x) { return std::isfinite(x); });
    if (bad != v.end()) damaged(name, static_cast<size_t>(bad - v.begin()), "a finite number", *bad);
    return v;
  }

  float scalar(const std::string& name) {
    const Vector v = vector(name, 1);
    return v.empty() ? 0.0f : v[0];
  }

  ClippedMatrix clipped(const std::string& name, size_t out, size_t in, bool with_bounds) {
    ClippedMatrix m;
    m.w = matrix(name + ".linear.weight", out, in);
    if (!with_bounds) {
      for (const char* bound : {".input_min", ".input_max", ".output_min", ".output_max"}) allow(name + bound);
      return m;
    }
    std::tie(m.in_min, m.in_max) = bounds(name + ".input");
    std::tie(m.out_min, m.out_max) = bounds(name + ".output");
    return m;
  }

  LayerNorm layer_norm(const std::string& name, size_t n) {
    return {vector(name + ".weight", n), vector(name + ".bias", n)};
  }

  bool holds(const std::string& name) const { return store_.find(name) != nullptr; }

  // A matrix that a checkpoint may hold although nothing reads it.
  void allow(const std::string& name) {
    taken_.insert(name);
    const std::string module = name.substr(0, name.rfind('.'));
    for (const char* part : {kPacked, kScale, kShape, kInputStep, kOutputStep}) taken_.insert(module + part);
  }

  // The tensors that nothing reads, but for those that may be there. Throws if others are missing or mis-shaped, and
  // lists them beside: their names may be those of what is missing, spelled otherwise.
  std::vector<std::string> finish(const std::vector<std::string>& ignored_prefixes) const {
    std::vector<std::string> unused;
    for (const auto& [name, view] : store_.tensors()) {
      // For caches that round keys and values, which the reference does not read either.
      bool ignored = taken_.contains(name) || name.ends_with(".k_cache_scale") || name.ends_with(".v_cache_scale");
      for (const std::string& p : ignored_prefixes) ignored = ignored || name.starts_with(p);
      if (!ignored) unused.push_back(name);
    }
    if (!missing_.empty() || !misshaped_.empty()) {
      fail(ErrorKind::kModelFile, "the tensors do not fit the config;" + list("missing", missing_) +
                                      list("mis-shaped", misshaped_) + list("unknown", unused));
    }
    if (!damaged_.empty()) fail(ErrorKind::kModelFile, "the weights are damaged;" + list("impossible", damaged_));
    return unused;
  }

 private:
  Vector read(const std::string& name, const Shape& shape) {
    const TensorView t = tensor(name, shape);
    Vector v(t.empty() ? 0 : t.elements());
    if (!t.empty()) active_isa().k.of(t.dtype).to_f32(t.data, v.data(), v.size());
    return v;
  }

  // The lower and the upper bound of a clamp; an infinite one leaves that side open.
  std::pair<float, float> bounds(const std::string& name) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const Vector low = read(name + "_min", {1}), high = read(name + "_max", {1});
    if (low.empty() || high.empty()) return {-kInfinity, kInfinity};
    if (!(low[0] < kInfinity)) damaged(name + "_min", 0, "a bound below infinity", low[0]);
    if (!(high[0] > -kInfinity)) damaged(name + "_max", 0, "a bound above -infinity", high[0]);
    if (low[0] > high[0]) damaged(name + "_min", 0, "at most the maximum of " + std::to_string(high[0]), low[0]);
    return {low[0], high[0]};
  }

  void damaged(const std::string& name, size_t index, const std::string& expected, float found) {
    damaged_.push_back(name + "[" + std::to_string(index) + "]: expected " + expected + ", found " +
                       std::to_string(found));
  }

  // The quants whose bytes are registered as `name`: 4 bits in 32-bit words, or in bytes as many bits as they have room
  // for. The store's view becomes that of the quants.
  Matrix quants(const std::string& name, const std::string& scale, size_t out, size_t in) {
    taken_.insert(name);
    taken_.insert(scale);
    const TensorView* bytes = store_.find(name);
    const TensorView* scales = store_.find(scale);
    if (bytes == nullptr) missing_.push_back(name + " " + describe({out, in}));
    if (scales == nullptr) missing_.push_back(scale + " (" + std::to_string(out) + ", …)");
    if (bytes == nullptr || scales == nullptr) return {};
    const std::optional<DType> dtype = quant_format(*bytes, out, in);
    if (!dtype) {
      misshaped_.push_back(name + ": expected quants of 2, 4 or 8 bits for " + describe({out, in}) + ", found " +
                           std::string(traits(bytes->dtype).name) + " " + describe(shape_of(*bytes)));
      return {};
    }
    if (!fit(scale, *scales, out, in)) return {};
    const TensorView view{.data = bytes->data,
                          .dtype = *dtype,
                          .rank = 2,
                          .shape = {out, in},
                          .scales = {scales->data, scales->dtype, scales->elements() / out}};
    store_.describe(name, view);
    return view;
  }

  static std::optional<DType> quant_format(const TensorView& t, size_t out, size_t in) {
    if (is_quants(t.dtype) && t.scales.data != nullptr && shape_of(t) == Shape{out, in}) return t.dtype;  // seen before
    if (t.rank != 2 || t.shape[0] != out) return std::nullopt;
    const size_t words = t.shape[1];
    if (t.dtype == DType::kI32 && in % 8 == 0 && words == in / 8) return DType::kI4;
    if (t.dtype == DType::kI8 && words == in) return DType::kI8;
    if (t.dtype == DType::kU8 && words == row_bytes(DType::kI4, in)) return DType::kI4;
    if (t.dtype == DType::kU8 && words == row_bytes(DType::kI2, in)) return DType::kI2;
    return std::nullopt;
  }

  // Whether these are the scales of quants: a whole number of groups in a row, each finite and not negative.
  bool fit(const std::string& name, const TensorView& t, size_t out, size_t in) {
    const bool values = !is_block_format(t.dtype) && !is_quants(t.dtype) && !is_raw(t.dtype);
    const bool by_row = t.shape[0] == out && (t.rank == 2 || (t.rank == 1 && out > 1));
    const size_t groups = t.elements() / out;
    if (!values || !by_row || groups > in || in % groups != 0) {
      misshaped_.push_back(name + ": expected one scale for each row of " + describe({out, in}) +
                           " or for equal parts of it, found " + std::string(traits(t.dtype).name) + " " +
                           describe(shape_of(t)));
      return false;
    }
    Vector row(groups);
    for (size_t r = 0; r < out; ++r) {
      active_isa().k.of(t.dtype).to_f32(t.data + r * row_bytes(t.dtype, groups), row.data(), groups);
      const auto bad = std::ranges::find_if_not(row, [](float v) { return std::isfinite(v) && v >= 0; });
      if (bad == row.end()) continue;
      damaged(name, r * groups + static_cast<size_t>(bad - row.begin()), "0 or a positive number", *bad);
      return false;
    }
    return true;
  }

  // The step of a lattice; 0 where there is none. A file may spell it as a scalar or as an array of one.
  float step(const std::string& name) {
    if (!holds(name)) return 0;
    const float v = scalar(name);
    if (v < 0) damaged(name, 0, "0 or a positive number", v);
    return v;
  }

  void check_shape(const std::string& name, size_t out, size_t in) {
    taken_.insert(name);
    const TensorView* t = store_.find(name);
    if (t == nullptr) {
      missing_.push_back(name + " (2)");
      return;
    }
    std::array<int64_t, 2> shape{};
    const bool read = t->dtype == DType::kI64 && t->elements() == shape.size();
    if (read) std::memcpy(shape.data(), t->data, sizeof(shape));
    if (!read || shape[0] != static_cast<int64_t>(out) || shape[1] != static_cast<int64_t>(in)) {
      misshaped_.push_back(name + ": expected I64 of " + describe({out, in}) +
                           (read ? ", found (" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + ")"
                                 : ", found " + std::string(traits(t->dtype).name) + " " + describe(shape_of(*t))));
    }
  }

  static std::string list(const std::string& title, const std::vector<std::string>& items) {
    if (items.empty()) return "";
    constexpr size_t kMost = 5;
    std::string s;
    s.append(" ").append(std::to_string(items.size())).append(" ").append(title).append(":");
    for (size_t i = 0; i < items.size() && i < kMost; ++i) s.append(i ? ", " : " ").append(items[i]);
    return s.append(items.size() > kMost ? ", …;" : ";");
  }

  TensorStore& store_;
  std::set<std::string> taken_;
  std::vector<std::string> missing_;
  std::vector<std::string> misshaped_;
  std::vector<std::string> damaged_;
};

void bind_attention(Binder& b, const TextConfig& c, int index, const std::string& at, TextLayerWeights& w) {
  const LayerSpec& spec = c.layers[index];
  const size_t hidden = c.hidden, q_width = size_t(c.heads) * spec.head_dim,
               kv_width = size_t(spec.kv_heads) * spec.head_dim;
  w.attn_norm = b.vector(at + "input_layernorm.weight", hidden);
  w.q = b.matrix(at + "self_attn.q_proj.weight", q_width, hidden);
  w.q_norm = b.vector(at + "self_attn.q_norm.weight", spec.head_dim);
  w.o = b.matrix(at + "self_attn.o_proj.weight", hidden, q_width);
  w.post_attn_norm = b.vector(at + "post_attention_layernorm.weight", hidden);
  if (c.owns_kv(index)) {
    w.k = b.matrix(at + "self_attn.k_proj.weight", kv_width, hidden);
    if (!spec.k_is_v) w.v = b.matrix(at + "self_attn.v_proj.weight", kv_width, hidden);
    w.k_norm = b.vector(at + "self_attn.k_norm.weight", spec.head_dim);
  } else {
    // The published checkpoints carry the weights that training left behind in layers that share keys and values.
    for (const char* name : {"k_proj", "v_proj", "k_norm"}) b.allow(at + "self_attn." + name + ".weight");
  }
}

void bind_experts(Binder& b, const TextConfig& c, const std::string& at, TextLayerWeights& w) {
  const size_t hidden = c.hidden, experts = c.experts, width = c.expert_ffn;
  w.router = b.matrix(at + "router.proj.weight", experts, hidden);
  w.router_scale = b.vector(at + "router.scale", hidden);
  w.expert_scale = b.vector(at + "router.per_expert_scale", experts);
  if (b.holds(at + "experts.gate_proj")) {
    w.expert_gate_up = {b.tensor(at + "experts.gate_proj", {experts, width, hidden}),
                        b.tensor(at + "experts.up_proj", {experts, width, hidden})};
  } else {
    w.expert_gate_up = {b.tensor(at + "experts.gate_up_proj", {experts, 2 * width, hidden})};
  }
  w.expert_down = b.tensor(at + "experts.down_proj", {experts, hidden, width});
  w.dense_post_norm = b.vector(at + "post_feedforward_layernorm_1.weight", hidden);
  w.expert_pre_norm = b.vector(at + "pre_feedforward_layernorm_2.weight", hidden);
  w.expert_post_norm = b.vector(at + "post_feedforward_layernorm_2.weight", hidden);
}

TextLayerWeights bind_text_layer(Binder& b, const TextConfig& c, int index, const std::string& at) {
  const LayerSpec& spec = c.layers[index];
  const size_t hidden = c.hidden;
  TextLayerWeights w;
  bind_attention(b, c, index, at, w);
  w.ffn_norm = b.vector(at + "pre_feedforward_layernorm.weight", hidden);
  w.gate = b.matrix(at + "mlp.gate_proj.weight", spec.ffn, hidden);
  w.up = b.matrix(at + "mlp.up_proj.weight", spec.ffn, hidden);
  w.down = b.matrix(at + "mlp.down_proj.weight", hidden, spec.ffn);
  w.post_ffn_norm = b.vector(at + "post_feedforward_layernorm.weight", hidden);
  if (spec.moe) bind_experts(b, c, at, w);
  if (c.ple_dim > 0) {
    w.ple_gate = b.matrix(at + "per_layer_input_gate.weight", c.ple_dim, hidden);
    w.ple_out = b.matrix(at + "per_layer_projection.weight", hidden, c.ple_dim);
    w.post_ple_norm = b.vector(at + "post_per_layer_input_norm.weight", hidden);
  }
  w.scalar = b.scalar(at + "layer_scalar");
  return w;
}

TextWeights bind_text(Binder& b, const TextConfig& c, const std::string& at) {
  TextWeights w;
  const size_t layers = c.layers.size();
  w.embed = b.matrix(at + "embed_tokens.weight", c.vocab, c.hidden);
  if (c.ple_dim > 0) {
    w.ple_table = b.rows(at + "embed_tokens_per_layer.weight", c.ple_vocab, layers * c.ple_dim);
    w.ple_proj = b.matrix(at + "per_layer_model_projection.weight", layers * c.ple_dim, c.hidden);
    w.ple_norm = b.vector(at + "per_layer_projection_norm.weight", c.ple_dim);
  }
  for (size_t i = 0; i < layers; ++i) {
    w.layers.push_back(bind_text_layer(b, c, static_cast<int>(i), at + "layers." + std::to_string(i) + "."));
  }
  w.norm = b.vector(at + "norm.weight", c.hidden);
  if (c.tied_embeddings && !b.holds(std::string("lm_head") + kScale)) {
    w.head = w.embed;
    b.allow("lm_head.weight");
  } else {
    w.head = b.matrix("lm_head.weight", c.vocab, c.hidden);
  }
  return w;
}

VisionLayerWeights bind_vision_layer(Binder& b, const VisionConfig& c, const std::string& at) {
  const size_t hidden = c.hidden, q_width = size_t(c.heads) * c.head_dim, kv_width = size_t(c.kv_heads) * c.head_dim;
  VisionLayerWeights w;
  w.attn_norm = b.vector(at + "input_layernorm.weight", hidden);
  w.q = b.clipped(at + "self_attn.q_proj", q_width, hidden, c.clipped);
  w.k = b.clipped(at + "self_attn.k_proj", kv_width, hidden, c.clipped);
  w.v = b.clipped(at + "self_attn.v_proj", kv_width, hidden, c.clipped);
  w.o = b.clipped(at + "self_attn.o_proj", hidden, q_width, c.clipped);
  w.q_norm = b.vector(at + "self_attn.q_norm.weight", c.head_dim);
  w.k_norm = b.vector(at + "self_attn.k_norm.weight", c.head_dim);
  w.post_attn_norm = b.vector(at + "post_attention_layernorm.weight", hidden);
  w.ffn_norm = b.vector(at + "pre_feedforward_layernorm.weight", hidden);
  w.gate = b.clipped(at + "mlp.gate_proj", c.ffn, hidden, c.clipped);
  w.up = b.clipped(at + "mlp.up_proj", c.ffn, hidden, c.clipped);
  w.down = b.clipped(at + "mlp.down_proj", hidden, c.ffn, c.clipped);
  w.post_ffn_norm = b.vector(at + "post_feedforward_layernorm.weight", hidden);
  return w;
}

VisionWeights bind_vision(Binder& b, const VisionConfig& c, size_t text_hidden) {
  const std::string at = "model.vision_tower.";
  const size_t hidden = c.hidden;
  VisionWeights w;
  w.patch = b.matrix(at + "patch_embedder.input_proj.weight", hidden, 3 * size_t(c.patch) * c.patch);
  w.positions = b.tensor(at + "patch_embedder.position_embedding_table", {2, size_t(c.positions), hidden});
  for (int i = 0; i < c.layers; ++i) {
    w.layers.push_back(bind_vision_layer(b, c, at + "encoder.layers." + std::to_string(i) + "."));
  }
  if (c.standardize) {
    w.std_bias = b.vector(at + "std_bias", hidden);
    w.std_scale = b.vector(at + "std_scale", hidden);
  }
  w.projection = b.matrix("model.embed_vision.embedding_projection.weight", text_hidden, hidden);
  return w;
}

// (outer, inner, last) -> (outer, last, inner): the convolutions are stored with the kernel's place last.
Vector move_last_inward(const Vector& v, size_t outer, size_t inner, size_t last) {
  Vector out(v.size());
  if (v.empty()) return out;  // missing, which is reported at the end
  for (size_t o = 0; o < outer; ++o)
    for (size_t i = 0; i < inner; ++i)
      for (size_t l = 0; l < last; ++l) out[(o * last + l) * inner + i] = v[(o * inner + i) * last + l];
  return out;
}

AudioFeedForwardWeights bind_audio_ffn(Binder& b, const AudioConfig& c, const std::string& at) {
  const size_t hidden = c.hidden;
  AudioFeedForwardWeights w;
  w.norm = b.vector(at + "pre_layer_norm.weight", hidden);
  w.up = b.clipped(at + "ffw_layer_1", 4 * hidden, hidden, c.clipped);
  w.down = b.clipped(at + "ffw_layer_2", hidden, 4 * hidden, c.clipped);
  w.post_norm = b.vector(at + "post_layer_norm.weight", hidden);
  return w;
}

AudioLayerWeights bind_audio_layer(Binder& b, const AudioConfig& c, const std::string& at) {
  const size_t hidden = c.hidden, kernel = c.conv_kernel;
  AudioLayerWeights w;
  w.ffn1 = bind_audio_ffn(b, c, at + "feed_forward1.");
  w.attn_norm = b.vector(at + "norm_pre_attn.weight", hidden);
  w.q = b.clipped(at + "self_attn.q_proj", hidden, hidden, c.clipped);
  w.k = b.clipped(at + "self_attn.k_proj", hidden, hidden, c.clipped);
  w.v = b.clipped(at + "self_attn.v_proj", hidden, hidden, c.clipped);
  w.o = b.clipped(at + "self_attn.post", hidden, hidden, c.clipped);
  w.relative_k = b.matrix(at + "self_attn.relative_k_proj.weight", hidden, hidden);
  w.per_dim_scale = b.vector(at + "self_attn.per_dim_scale", hidden / c.heads);
  w.post_attn_norm = b.vector(at + "norm_post_attn.weight", hidden);
  w.conv_pre_norm = b.vector(at + "lconv1d.pre_layer_norm.weight", hidden);
  w.conv_in = b.clipped(at + "lconv1d.linear_start", 2 * hidden, hidden, c.clipped);
  w.conv = move_last_inward(b.values(at + "lconv1d.depthwise_conv1d.weight", {hidden, 1, kernel}), 1, hidden, kernel);
  w.conv_norm = b.vector(at + "lconv1d.conv_norm.weight", hidden);
  w.conv_out = b.clipped(at + "lconv1d.linear_end", hidden, hidden, c.clipped);
  w.ffn2 = bind_audio_ffn(b, c, at + "feed_forward2.");
  w.norm_out = b.vector(at + "norm_out.weight", hidden);
  return w;
}

AudioWeights bind_audio(Binder& b, const AudioConfig& c, size_t text_hidden) {
  const std::string at = "model.audio_tower.", conv = at + "subsample_conv_projection.";
  const size_t hidden = c.hidden, channels1 = c.channels1, channels2 = c.channels2;
  AudioWeights w;
  w.conv1 = b.values(conv + "layer0.conv.weight", {channels1, 1, 3, 3});
  w.conv1_norm = b.vector(conv + "layer0.norm.weight", channels1);
  w.conv2 =
      move_last_inward(b.values(conv + "layer1.conv.weight", {channels2, channels1, 3, 3}), channels2, channels1, 9);
  w.conv2_norm = b.vector(conv + "layer1.norm.weight", channels2);
  w.input = b.matrix(conv + "input_proj_linear.weight", hidden, channels1 / 4 * channels2);
  for (int i = 0; i < c.layers; ++i) {
    w.layers.push_back(bind_audio_layer(b, c, at + "layers." + std::to_string(i) + "."));
  }
  w.output = b.matrix(at + "output_proj.weight", c.out, hidden);
  w.output_bias = b.vector(at + "output_proj.bias", c.out);
  std::swap(w.output_step, w.output.scales.output);  // the lattice is that of the sum
  w.projection = b.matrix("model.embed_audio.embedding_projection.weight", text_hidden, c.out);
  return w;
}

PixelWeights bind_pixels(Binder& b, const PixelConfig& c, size_t text_hidden) {
  // The published names, or those of the reference's modules.
  const bool published = !b.holds("model.embed_vision.patch_dense.weight");
  const std::string at = published ? "model.vision_embedder." : "model.embed_vision.";
  const std::string to_text = published ? "model.embed_vision." : "model.embed_vision.multimodal_embedder.";
  const size_t values = 3 * size_t(c.side) * c.side, width = c.width;
  PixelWeights w;
  w.pixel_norm = b.layer_norm(at + "patch_ln1", values);
  w.dense = b.matrix(at + "patch_dense.weight", width, values);
  w.dense_bias = b.vector(at + "patch_dense.bias", width);
  w.dense_norm = b.layer_norm(at + "patch_ln2", width);
  w.positions = b.tensor(at + "pos_embedding", {size_t(c.positions), 2, width});
  w.position_norm = b.layer_norm(at + "pos_norm", width);
  w.projection = b.matrix(to_text + "embedding_projection.weight", text_hidden, width);
  return w;
}

}  // namespace

Weights bind_weights(const ModelConfig& config, TensorStore& store, const std::string& text_prefix,
                     const std::vector<std::string>& ignored_prefixes) {
  Binder b(store);
  Weights w;
  w.text = bind_text(b, config.text, text_prefix);
  if (config.vision) w.vision = bind_vision(b, *config.vision, config.text.hidden);
  if (config.audio) w.audio = bind_audio(b, *config.audio, config.text.hidden);
  if (config.pixels) w.pixels = bind_pixels(b, *config.pixels, config.text.hidden);
  if (config.samples) {
    w.samples.projection =
        b.matrix("model.embed_audio.embedding_projection.weight", config.text.hidden, config.samples->frame);
  }
  w.unused = b.finish(ignored_prefixes);
  return w;
}

}  // namespace gemma4
