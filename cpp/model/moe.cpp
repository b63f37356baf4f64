#include "model/moe.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace gemma4 {
namespace {

struct Visit {
  size_t row;
  float weight;
};

// scores (rows, experts): router logits in, nothing kept. Returns for each expert the rows that visit it.
std::vector<std::vector<Visit>> route(const Compute& c, const TextConfig& config, const TextLayerWeights& w,
                                      float* scores, size_t rows) {
  const size_t experts = config.experts, used = config.experts_used;
  std::vector<std::vector<Visit>> visits(experts);
  std::vector<size_t> order(experts);
  for (size_t r = 0; r < rows; ++r) {
    float* p = scores + r * experts;
    c.k.exp_sum(p, experts, c.k.max(p, experts));  // the softmax's denominator cancels in the renormalisation
    std::iota(order.begin(), order.end(), size_t{0});
    std::partial_sort(order.begin(), order.begin() + used, order.end(),
                      [p](size_t a, size_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); });
    float sum = 0;
    for (size_t i = 0; i < used; ++i) sum += p[order[i]];
    for (size_t i = 0; i < used; ++i) {
      visits[order[i]].push_back({r, p[order[i]] / sum * w.expert_scale[order[i]]});
    }
  }
  return visits;
}

}  // namespace

void mix_experts(const Compute& c, const TextConfig& config, const TextLayerWeights& w, const float* x,
                 const float* expert_in, size_t rows, MoeScratch& s, float* out) {
  const size_t hidden = config.hidden, width = config.expert_ffn, experts = config.experts;
  s.router_in.resize(rows * hidden);
  s.scores.resize(rows * experts);
  const float root = 1.0f / std::sqrt(static_cast<float>(hidden));
  for (size_t r = 0; r < rows; ++r) {
    float* y = s.router_in.data() + r * hidden;
    c.k.rms_norm(x + r * hidden, w.router_scale.data(), y, hidden, config.norm_eps);
    c.k.scale(root, y, y, hidden);
  }
  linear(c, w.router, s.router_in.data(), rows, s.scores.data());
  const auto visits = route(c, config, w, s.scores.data(), rows);

  s.gathered.resize(rows * hidden);
  s.result.resize(rows * hidden);
  s.gate_up.resize(rows * 2 * width);
  s.product.resize(rows * width);
  std::fill_n(out, rows * hidden, 0.0f);
  for (size_t e = 0; e < experts; ++e) {
    const size_t n = visits[e].size();
    if (n == 0) continue;
    for (size_t i = 0; i < n; ++i) {
      std::copy_n(expert_in + visits[e][i].row * hidden, hidden, s.gathered.data() + i * hidden);
    }
    linear(c, w.expert_gate_up.matrix(e), s.gathered.data(), n, s.gate_up.data());
    for (size_t i = 0; i < n; ++i) {
      const float* gate = s.gate_up.data() + i * 2 * width;
      c.k.gelu_mul(gate, gate + width, s.product.data() + i * width, width);
    }
    linear(c, w.expert_down.matrix(e), s.product.data(), n, s.result.data());
    for (size_t i = 0; i < n; ++i) {
      c.k.axpy(visits[e][i].weight, s.result.data() + i * hidden, out + visits[e][i].row * hidden, hidden);
    }
  }
}

}  // namespace gemma4
