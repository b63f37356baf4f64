// A text model in memory for tests of sequences and steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "model/config.h"
#include "model/weights.h"

namespace gemma4 {

// A model in memory: random weights, every mechanism, nothing divisible by 8.
struct Tiny {
  Tiny(const Tiny&) = delete;
  Tiny& operator=(const Tiny&) = delete;

  explicit Tiny(bool bidirectional) {
    config.vocab = 101;
    config.hidden = 36;
    config.heads = 4;
    config.window = 9;
    config.context = 200;
    config.ple_dim = 5;
    config.ple_vocab = 101;
    config.experts = 5;
    config.experts_used = 2;
    config.expert_ffn = 11;
    config.logit_cap = 30;
    config.bidirectional_images = bidirectional;
    //                       sliding  k_is_v  moe    kv  dim  kvh ffn  theta  pairs
    config.layers.push_back({true, false, true, 0, 10, 2, 23, 1e4, 5, 1});
    config.layers.push_back({false, true, false, 1, 14, 1, 23, 1e6, 2, 1});
    config.layers.push_back({true, false, false, 0, 10, 2, 46, 1e4, 5, 1});
    config.layers.push_back({false, true, true, 1, 14, 1, 46, 1e6, 2, 1});
    validate({.text = config, .vision = {}, .audio = {}, .pixels = {}, .samples = {}});
    fill();
  }

  // Views need an address that stays: every tensor has a block of its own.
  TensorView tensor(std::vector<size_t> shape) {
    size_t n = 1;
    for (const size_t s : shape) n *= s;
    const float spread = 1.0f / std::sqrt(static_cast<float>(shape.back()));
    std::normal_distribution<float> normal(0, spread);
    storage.emplace_back(n);
    for (float& v : storage.back()) v = normal(random);
    TensorView t{
        reinterpret_cast<const std::byte*>(storage.back().data()), DType::kF32, static_cast<int>(shape.size()), {}};
    std::copy(shape.begin(), shape.end(), t.shape.begin());
    return t;
  }

  Vector vector(size_t n) {
    std::uniform_real_distribution<float> around_one(0.5f, 1.5f);
    Vector v(n);
    for (float& x : v) x = around_one(random);
    return v;
  }

  void fill() {
    const size_t hidden = config.hidden, layers = config.layers.size(), ple = config.ple_dim;
    weights.embed = weights.head = tensor({size_t(config.vocab), hidden});
    weights.ple_table = {tensor({size_t(config.ple_vocab), layers * ple}), nullptr};
    weights.ple_proj = tensor({layers * ple, hidden});
    weights.ple_norm = vector(ple);
    weights.norm = vector(hidden);
    for (size_t i = 0; i < layers; ++i) {
      const LayerSpec& spec = config.layers[i];
      const size_t q = size_t(config.heads) * spec.head_dim, kv = size_t(spec.kv_heads) * spec.head_dim, ffn = spec.ffn;
      TextLayerWeights w;
      w.attn_norm = vector(hidden), w.post_attn_norm = vector(hidden), w.ffn_norm = vector(hidden);
      w.post_ffn_norm = vector(hidden), w.post_ple_norm = vector(hidden);
      w.q = tensor({q, hidden}), w.o = tensor({hidden, q}), w.q_norm = vector(spec.head_dim);
      if (config.owns_kv(static_cast<int>(i))) {
        w.k = tensor({kv, hidden}), w.k_norm = vector(spec.head_dim);
        if (!spec.k_is_v) w.v = tensor({kv, hidden});
      }
      w.gate = tensor({ffn, hidden}), w.up = tensor({ffn, hidden}), w.down = tensor({hidden, ffn});
      if (spec.moe) {
        const size_t experts = config.experts, width = config.expert_ffn;
        w.router = tensor({experts, hidden}), w.router_scale = vector(hidden), w.expert_scale = vector(experts);
        w.expert_gate_up = {tensor({experts, 2 * width, hidden})}, w.expert_down = tensor({experts, hidden, width});
        w.dense_post_norm = vector(hidden), w.expert_pre_norm = vector(hidden), w.expert_post_norm = vector(hidden);
      }
      w.ple_gate = tensor({ple, hidden}), w.ple_out = tensor({hidden, ple});
      w.scalar = 0.9f;
      weights.layers.push_back(std::move(w));
    }
  }

  std::vector<int32_t> ids(size_t n) {
    std::uniform_int_distribution<int32_t> any(0, config.vocab - 1);
    std::vector<int32_t> out(n);
    for (auto& id : out) id = any(random);
    return out;
  }

  ModelConfig model;
  TextConfig& config = model.text;
  Weights all;
  TextWeights& weights = all.text;
  std::vector<std::vector<float>> storage;
  std::mt19937 random{7};
};

}  // namespace gemma4
