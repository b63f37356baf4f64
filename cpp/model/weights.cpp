#include "model/weights.h"

#include <algorithm>
#include <utility>

#include "model/binder.h"

namespace gemma4 {
namespace {

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

DrafterWeights bind_drafter(const DrafterConfig& config, TensorStore& store) {
  Binder b(store);
  const size_t hidden = config.text.hidden, target = config.target_hidden, centroids = config.centroids;
  DrafterWeights w;
  w.text = bind_text(b, config.text, "model.");
  w.before = b.matrix("pre_projection.weight", hidden, 2 * target);
  w.after = b.matrix("post_projection.weight", target, hidden);
  if (centroids > 0) {
    w.centroids = b.matrix("masked_embedding.centroids.weight", centroids, hidden);
    w.ordering = b.indices("masked_embedding.token_ordering", config.text.vocab, config.text.vocab);
  }
  w.unused = b.finish({});
  return w;
}

}  // namespace gemma4
