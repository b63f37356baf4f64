#include "model/moe.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "model/rows.h"

namespace gemma4 {
namespace {

// scores (rows, experts): router logits in, nothing kept. Leaves in s.visits, for each expert, the rows that visit it.
void route(const Compute& c, const TextConfig& config, const TextLayerWeights& w, float* scores, size_t rows,
           MoeScratch& s) {
  const size_t experts = config.experts, used = config.experts_used;
  // A NaN comes first: numbers alone have an order, and a row that meets one must show it.
  const auto likelier = [](float a, float b) { return a > b || (std::isnan(a) && !std::isnan(b)); };
  s.visits.resize(experts);
  for (auto& visits : s.visits) visits.clear();
  std::vector<size_t>& order = s.order;
  order.resize(experts);
  for (size_t r = 0; r < rows; ++r) {
    float* p = scores + r * experts;
    c.k.exp_sum(p, experts, c.k.max(p, experts));  // the softmax's denominator cancels in the renormalisation
    std::iota(order.begin(), order.end(), size_t{0});
    std::partial_sort(order.begin(), order.begin() + used, order.end(),
                      [&](size_t a, size_t b) { return likelier(p[a], p[b]) || (!likelier(p[b], p[a]) && a < b); });
    float sum = 0;
    for (size_t i = 0; i < used; ++i) sum += p[order[i]];
    for (size_t i = 0; i < used; ++i) {
      s.visits[order[i]].push_back({r, p[order[i]] / sum * w.expert_scale[order[i]]});
    }
  }
}

// The products that give gate and up of one expert side by side.   gate_up: (visits, 2 * expert_ffn)
void add_gate_up(const TextLayerWeights& w, size_t expert, float* gate_up, std::vector<Product>& products) {
  size_t width = 0;
  for (const TensorView& matrices : w.expert_gate_up) width += matrices.shape[1];
  for (const TensorView& matrices : w.expert_gate_up) {
    products.push_back({.w = matrices.matrix(expert), .y = gate_up, .ldy = width});
    gate_up += matrices.shape[1];
  }
}

// product = gelu(gate) * up, for every visit.
void activate(const Compute& c, const TextConfig& config, MoeScratch& s, size_t visits) {
  const size_t width = config.expert_ffn;
  float* product = s.product.room(visits * width);
  for_rows(c, visits, [&](size_t i, int) {
    const float* gate = &s.gate_up[i * 2 * width];
    c.k.gelu_mul(gate, gate + width, product + i * width, width);
  });
}

// y, which is what an expert's matrix makes of the rows that visit it, as the adapters of those rows have it.
//   visits: in the order of their rows; x: (visits, in); y: (visits, out)
void adapt_visits(const Compute& c, Adapted adapted, const TensorView& experts, size_t expert,
                  const std::vector<Visit>& visits, const float* x, float* y) {
  const auto before = [](const Visit& v, size_t row) { return v.row < row; };
  for (const AdaptedRows& own : adapted.rows) {
    const LowRank* part = own.adapter->of(experts);
    if (part == nullptr || own.first + own.count <= adapted.from) continue;
    const size_t first = std::max(own.first, adapted.from) - adapted.from;
    const size_t last = own.first + own.count - adapted.from;
    const auto begin = std::lower_bound(visits.begin(), visits.end(), first, before);
    const auto end = std::lower_bound(begin, visits.end(), last, before);
    if (begin == end) continue;
    const LowRank change = part->expert(expert);
    const auto at = static_cast<size_t>(begin - visits.begin());
    const size_t in = change.a.cols(), width = change.b.rows();
    add_low_rank(c, change, x + at * in, static_cast<size_t>(end - begin), y + at * width, width);
  }
}

// One row: its experts share two loops over the threads. The same bits as by `mix_in`.
void mix_one(const Compute& c, const TextConfig& config, const TextLayerWeights& w, Adapted adapted,
             const float* expert_in, MoeScratch& s, float* out) {
  const size_t hidden = config.hidden, width = config.expert_ffn, used = config.experts_used;
  float* gate_up = s.gate_up.room(used * 2 * width);
  float* result = s.result.room(used * hidden);
  s.first.clear();
  s.second.clear();
  s.weights.clear();
  for (size_t e = 0; e < s.visits.size(); ++e) {
    if (s.visits[e].empty()) continue;
    const size_t i = s.second.size();
    add_gate_up(w, e, gate_up + i * 2 * width, s.first);
    s.second.push_back({.w = w.expert_down.matrix(e), .y = result + i * hidden, .row = i});
    s.weights.push_back(s.visits[e][0].weight);
  }
  // Once for each expert that is used: i counts them.
  const auto adapt_used = [&](const TensorView& experts, const float* x, size_t in, float* y, size_t out_width) {
    if (adapted.rows.empty()) return;
    for (size_t e = 0, i = 0; e < s.visits.size(); ++e) {
      if (s.visits[e].empty()) continue;
      adapt_visits(c, adapted, experts, e, s.visits[e], x + i * in, y + i * out_width);
      ++i;
    }
  };
  linear(c, s.first, expert_in, 1);
  adapt_used(w.expert_gate_up[0], expert_in, 0, gate_up, 2 * width);
  activate(c, config, s, used);
  linear(c, s.second, s.product.data(), 1);
  adapt_used(w.expert_down, s.product.data(), width, result, hidden);
  for (size_t i = 0; i < used; ++i) c.k.axpy(s.weights[i], result + i * hidden, out, hidden);
}

// The rows that visit one expert, of which the first `together` belong together.
void mix_in(const Compute& c, const TextConfig& config, const TextLayerWeights& w, Adapted adapted, size_t expert,
            const float* expert_in, size_t together, MoeScratch& s, float* out) {
  const std::vector<Visit>& visits = s.visits[expert];
  const size_t hidden = config.hidden, n = visits.size();
  RowCounts rows;
  for (const Visit& visit : visits) ++(visit.row < together ? rows.together : rows.single);
  float* gathered = s.gathered.room(n * hidden);
  float* result = s.result.room(n * hidden);
  for_rows(c, n,
           [&](size_t i, int) { std::copy_n(expert_in + visits[i].row * hidden, hidden, gathered + i * hidden); });
  s.first.clear();
  add_gate_up(w, expert, s.gate_up.room(n * 2 * config.expert_ffn), s.first);
  linear(c, s.first, gathered, rows);
  adapt_visits(c, adapted, w.expert_gate_up[0], expert, visits, gathered, s.gate_up.data());
  activate(c, config, s, n);
  linear(c, w.expert_down.matrix(expert), s.product.data(), rows, result);
  adapt_visits(c, adapted, w.expert_down, expert, visits, s.product.data(), result);
  for_rows(c, n, [&](size_t i, int) {
    c.k.axpy(visits[i].weight, result + i * hidden, out + visits[i].row * hidden, hidden);
  });
}

}  // namespace

void mix_experts(const Compute& c, const TextConfig& config, const TextLayerWeights& w, Adapted adapted,
                 const Mixture& mixture, MoeScratch& s) {
  const auto& [rows, x, expert_in, out] = mixture;
  const size_t all = rows.all();
  const size_t hidden = config.hidden, experts = config.experts;
  float* router_in = s.router_in.room(all * hidden);
  float* scores = s.scores.room(all * experts);
  const float root = 1.0f / std::sqrt(static_cast<float>(hidden));
  for_rows(c, all, [&](size_t r, int) {
    float* y = router_in + r * hidden;
    c.k.rms_norm(x + r * hidden, w.router_scale.data(), y, hidden, config.norm_eps);
    c.k.scale(root, y, y, hidden);
  });
  linear(c, w.router, router_in, rows, scores);
  adapt(c, adapted, w.router, router_in, all, scores);
  route(c, config, w, scores, all, s);

  std::fill_n(out, all * hidden, 0.0f);
  if (all == 1) return mix_one(c, config, w, adapted, expert_in, s, out);
  for (size_t e = 0; e < experts; ++e) {
    if (!s.visits[e].empty()) mix_in(c, config, w, adapted, e, expert_in, rows.together, s, out);
  }
}

}  // namespace gemma4
