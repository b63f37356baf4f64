#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "core/error.h"
#include "kernels/isa.h"

namespace gemma4 {
namespace {

void require_range(bool ok, const char* name, float value, const char* expected) {
  if (!ok) fail(ErrorKind::kRequest, std::string(name) + " is " + std::to_string(value) + ", expected " + expected);
}

// log(sum(exp(logits))). Throws if a logit is NaN or none is finite.
double log_sum_exp(const float* logits, size_t n) {
  uint32_t largest = 0;  // a NaN's bits without the sign are above those of infinity
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(logits[i]) & 0x7fffffffu);
  const float highest = n > 0 ? active_isa().k.max(logits, n) : -std::numeric_limits<float>::infinity();
  if (largest > 0x7f800000u || !std::isfinite(highest)) {
    fail(ErrorKind::kModelFile, "the logits are not finite: the weights hold NaN or infinite values");
  }
  double sum = 0;  // the kernel adds in float: blocks keep its rounding from growing with the vocabulary
  std::array<float, 1024> block;
  for (size_t i = 0; i < n; i += block.size()) {
    const size_t m = std::min(block.size(), n - i);
    std::copy_n(logits + i, m, block.begin());
    sum += active_isa().k.exp_sum(block.data(), m, highest);
  }
  return highest + std::log(sum);
}

// Calls take(first id, bits) for every word of a mask that allows anything; the bits beyond the vocabulary are cleared.
template <class Take>
void for_allowed(const uint32_t* allowed, size_t vocab, Take take) {
  for (size_t first = 0; first < vocab; first += 32) {
    uint32_t bits = allowed[first / 32];
    if (vocab - first < 32) bits &= (1u << (vocab - first)) - 1;
    if (bits != 0) take(static_cast<int32_t>(first), bits);
  }
}

// The highest score among the allowed ids, the lowest id among equals; -1 if none is allowed.
int32_t argmax(const float* scores, size_t vocab, const uint32_t* allowed) {
  if (allowed == nullptr) {
    return static_cast<int32_t>(std::find(scores, scores + vocab, active_isa().k.max(scores, vocab)) - scores);
  }
  int32_t best = -1;
  for_allowed(allowed, vocab, [&](int32_t first, uint32_t bits) {
    // Most words hold nothing higher than what was found, allowed or not.
    const size_t n = std::min<size_t>(32, vocab - first);
    if (best >= 0 && active_isa().k.max(scores + first, n) <= scores[best]) return;
    for (; bits != 0; bits &= bits - 1) {
      const int32_t id = first + std::countr_zero(bits);
      if (best < 0 || scores[id] > scores[best]) best = id;
    }
  });
  return best;
}

void penalise(std::vector<float>& scores, const int32_t* history, size_t n, float penalty) {
  std::vector<int32_t> ids(history, history + n);
  std::ranges::sort(ids);
  ids.erase(std::ranges::unique(ids).begin(), ids.end());
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= scores.size()) continue;
    scores[id] = scores[id] > 0 ? scores[id] / penalty : scores[id] * penalty;
  }
}

}  // namespace

Sampler::Sampler(const SamplingOptions& o, uint64_t seed) : options_(o), random_(seed) {
  require_range(std::isfinite(o.temperature) && o.temperature >= 0, "temperature", o.temperature,
                "a finite number >= 0");
  require_range(o.top_k >= 0, "top_k", static_cast<float>(o.top_k), "0 (off) or more");
  require_range(o.top_p > 0 && o.top_p <= 1, "top_p", o.top_p, "0 < top_p <= 1");
  require_range(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "0 <= min_p <= 1");
  require_range(std::isfinite(o.repetition_penalty) && o.repetition_penalty > 0, "repetition_penalty",
                o.repetition_penalty, "a finite number > 0");
}

// The order is the field's: what is allowed, penalty, temperature, top-k, top-p, min-p.
Choice Sampler::sample(const float* logits, size_t vocab, const int32_t* history, size_t history_size,
                       const uint32_t* allowed) {
  const double total = log_sum_exp(logits, vocab);
  const float* scores = logits;
  if (options_.repetition_penalty != 1) {
    penalised_.assign(logits, logits + vocab);
    penalise(penalised_, history, history_size, options_.repetition_penalty);
    scores = penalised_.data();
  }
  int32_t id = argmax(scores, vocab, allowed);
  require(id >= 0, ErrorKind::kRequest, "the mask allows no token");
  // Where all that is allowed is impossible, the first of it is as good as any, and its weight would be NaN.
  if (options_.temperature != 0 && std::isfinite(scores[id])) {
    candidates_.clear();
    if (allowed == nullptr) {
      candidates_.resize(vocab);
      std::iota(candidates_.begin(), candidates_.end(), 0);
    } else {
      for_allowed(allowed, vocab, [this](int32_t first, uint32_t bits) {
        for (; bits != 0; bits &= bits - 1) candidates_.push_back(first + std::countr_zero(bits));
      });
    }
    id = draw(scores);
  }
  return {id, static_cast<float>(logits[id] - total)};
}

// One of the candidates, by temperature, top-k, top-p and min-p.
int32_t Sampler::draw(const float* scores) {
  const auto likelier = [scores](int32_t a, int32_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  };
  const size_t n = candidates_.size(), keep = options_.top_k > 0 ? std::min<size_t>(options_.top_k, n) : n;
  if (keep < n || options_.top_p < 1) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + keep, candidates_.end(), likelier);
    candidates_.resize(keep);
  }
  const double highest = scores[*std::ranges::min_element(candidates_, likelier)];
  std::vector<double> p(candidates_.size());
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::exp((static_cast<double>(scores[candidates_[i]]) - highest) / options_.temperature);
    sum += p[i];
  }
  if (options_.top_p < 1) {
    double reached = 0;
    size_t kept = 0;
    while (kept < p.size() && reached < options_.top_p * sum) reached += p[kept++];
    p.resize(std::max<size_t>(kept, 1));
  }
  sum = 0;
  for (double& q : p) {
    if (q < options_.min_p) q = 0;  // the most likely has weight 1
    sum += q;
  }
  double at = std::generate_canonical<double, 53>(random_) * sum;
  for (size_t i = 0; i < p.size(); ++i) {
    at -= p[i];
    if (at < 0) return candidates_[i];
  }
  return candidates_[std::ranges::max_element(p) - p.begin()];
}

std::vector<Choice> top_logprobs(const float* logits, size_t vocab, size_t n) {
  const double total = log_sum_exp(logits, vocab);
  const auto likelier = [logits](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  n = std::min(n, vocab);
  std::vector<int32_t> ids(n);  // a heap whose front is the least likely of the best so far
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::make_heap(ids, likelier);
  for (size_t id = n; n > 0 && id < vocab; ++id) {
    if (logits[id] <= logits[ids.front()]) continue;
    std::ranges::pop_heap(ids, likelier);
    ids.back() = static_cast<int32_t>(id);
    std::ranges::push_heap(ids, likelier);
  }
  std::ranges::sort_heap(ids, likelier);
  std::vector<Choice> best;
  best.reserve(ids.size());
  for (const int32_t id : ids) best.push_back({id, static_cast<float>(logits[id] - total)});
  return best;
}

}  // namespace gemma4
