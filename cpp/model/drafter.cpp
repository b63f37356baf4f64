#include "model/drafter.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/linear.h"
#include "model/quants.h"

namespace gemma4 {
namespace {

// Logits of the tokens of the likeliest groups.
void masked_head(const Compute& c, const Drafter& d, const float* state, DrafterScratch& s) {
  const size_t groups = d.config.centroids, used = d.config.centroids_used, hidden = d.config.text.hidden;
  const size_t group = static_cast<size_t>(d.config.text.vocab) / groups;
  linear(c, d.weights.centroids, state, RowCounts{.single = 1}, s.centroids.data());
  std::iota(s.order.begin(), s.order.end(), 0);
  // NaN would be no order: such a state gives some groups, and no guess that anybody keeps.
  const auto score = [&](int32_t i) { return std::isnan(s.centroids.data()[i]) ? 0.0f : s.centroids.data()[i]; };
  std::ranges::nth_element(s.order, s.order.begin() + static_cast<std::ptrdiff_t>(used) - 1,
                           [&](int32_t a, int32_t b) { return score(a) != score(b) ? score(a) > score(b) : a < b; });
  const TensorView& head = d.weights.text.head;
  const auto threads = static_cast<size_t>(c.pool.size());
  if (s.rows.size() < threads) s.rows.resize(threads);
  c.pool.parallel_for(used, [&](size_t g, int thread) {
    float* row = s.rows[static_cast<size_t>(thread)].room(hidden);
    const int32_t* ids = d.weights.ordering.data() + static_cast<size_t>(s.order[g]) * group;
    for (size_t i = 0; i < group; ++i) {
      row_to_f32(c.k, head, static_cast<size_t>(ids[i]), row);
      s.ids[g * group + i] = ids[i];
      c.k.of(DType::kF32)
          .rows_dot({row, hidden * sizeof(float), 1, hidden}, {state, hidden, 1}, {s.logits.data() + g * group + i, 1});
    }
  });
}

}  // namespace

DrafterScratch::DrafterScratch(const DrafterConfig& config)
    : text(config.text, 1),
      joined(2 * static_cast<size_t>(config.target_hidden)),
      centroids(static_cast<size_t>(config.centroids)),
      order(static_cast<size_t>(config.centroids)) {
  const size_t vocab = config.text.vocab, groups = config.centroids;
  if (groups > 0) ids.resize(static_cast<size_t>(config.centroids_used) * (vocab / groups));
  logits = Lines<float>(groups > 0 ? ids.size() : vocab);
}

void Drafter::step(const Compute& c, KVCache& cache, size_t position, int32_t token, float* state,
                   DrafterScratch& s) const {
  const size_t width = config.target_hidden;
  constexpr RowCounts kOne{.single = 1};
  // A token that the target would embed as padding is embedded as what it is, as in the reference.
  row_to_f32(c.k, embed, static_cast<size_t>(token), s.joined.data());
  c.k.scale(static_cast<float>(std::sqrt(static_cast<double>(width))), s.joined.data(), s.joined.data(), width);
  std::copy_n(state, width, s.joined.data() + width);
  linear(c, weights.before, s.joined.data(), kOne, s.text.x.data());
  // It ends before its own place, which the cache does not hold.
  const Place place{&cache, position, token, nullptr, position, position};
  read_layers(c, config.text, weights.text, {{&place, 1}, 0, 0}, s.text);
  const float* normed = s.text.normed.data();
  linear(c, weights.after, normed, kOne, state);
  if (config.centroids > 0) {
    masked_head(c, *this, normed, s);
  } else {
    linear(c, weights.text.head, normed, kOne, s.logits.data());
  }
}

size_t Drafter::draft(const Compute& c, KVCache& cache, size_t position, int32_t token, float* state, float least,
                      DrafterScratch& s, std::span<int32_t> out) const {
  for (size_t made = 0; made < out.size(); ++made) {
    step(c, cache, position, token, state, s);
    float* logits = s.logits.data();
    const size_t n = s.logits.size(), best = static_cast<size_t>(std::max_element(logits, logits + n) - logits);
    token = s.ids.empty() ? static_cast<int32_t>(best) : s.ids[best];
    const float sum = c.k.exp_sum(logits, n, logits[best]);
    if (!(sum * least <= 1.0f)) return made;  // also where it is NaN
    out[made] = token;
  }
  return out.size();
}

}  // namespace gemma4
