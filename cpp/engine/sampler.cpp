#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "core/error.h"

namespace gemma4 {
namespace {

void require_range(bool ok, const char* name, float value, const char* expected) {
  if (!ok) fail(ErrorKind::kRequest, std::string(name) + " is " + std::to_string(value) + ", expected " + expected);
}

// log(sum(exp(logits))). Throws if a logit is NaN or none is finite.
double log_sum_exp(const float* logits, size_t n) {
  float highest = -std::numeric_limits<float>::infinity();
  bool nan = false;
  for (size_t i = 0; i < n; ++i) {
    nan = nan || std::isnan(logits[i]);
    highest = std::max(highest, logits[i]);
  }
  if (nan || !std::isfinite(highest)) {
    fail(ErrorKind::kModelFile, "the logits are not finite: the weights hold NaN or infinite values");
  }
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i]) - highest);
  return highest + std::log(sum);
}

int32_t argmax(const std::vector<float>& scores) {
  return static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

void penalise(std::vector<float>& scores, const int32_t* history, size_t n, float penalty) {
  std::vector<int32_t> ids(history, history + n);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
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

// The order is the field's: penalty, temperature, top-k, top-p, min-p.
Choice Sampler::sample(const float* logits, size_t vocab, const int32_t* history, size_t history_size) {
  const double total = log_sum_exp(logits, vocab);
  scores_.assign(logits, logits + vocab);
  if (options_.repetition_penalty != 1) penalise(scores_, history, history_size, options_.repetition_penalty);
  const auto choice = [&](int32_t id) { return Choice{id, static_cast<float>(logits[id] - total)}; };
  if (options_.temperature == 0) return choice(argmax(scores_));

  candidates_.resize(vocab);
  std::iota(candidates_.begin(), candidates_.end(), 0);
  const auto likelier = [this](int32_t a, int32_t b) {
    return scores_[a] > scores_[b] || (scores_[a] == scores_[b] && a < b);
  };
  const size_t keep = options_.top_k > 0 ? std::min<size_t>(options_.top_k, vocab) : vocab;
  const bool ordered = keep < vocab || options_.top_p < 1;
  if (ordered) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + keep, candidates_.end(), likelier);
    candidates_.resize(keep);
  }
  const double highest = scores_[ordered ? candidates_[0] : argmax(scores_)];
  std::vector<double> p(candidates_.size());
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::exp((static_cast<double>(scores_[candidates_[i]]) - highest) / options_.temperature);
    sum += p[i];
  }
  if (options_.top_p < 1) {
    double reached = 0;
    size_t n = 0;
    while (n < p.size() && reached < options_.top_p * sum) reached += p[n++];
    p.resize(std::max<size_t>(n, 1));
  }
  sum = 0;
  for (double& q : p) {
    if (q < options_.min_p) q = 0;  // the most likely has weight 1
    sum += q;
  }
  double at = std::generate_canonical<double, 53>(random_) * sum;
  for (size_t i = 0; i < p.size(); ++i) {
    at -= p[i];
    if (at < 0) return choice(candidates_[i]);
  }
  return choice(candidates_[std::max_element(p.begin(), p.end()) - p.begin()]);
}

std::vector<Choice> top_logprobs(const float* logits, size_t vocab, size_t n) {
  const double total = log_sum_exp(logits, vocab);
  std::vector<int32_t> ids(vocab);
  std::iota(ids.begin(), ids.end(), 0);
  n = std::min(n, vocab);
  std::partial_sort(ids.begin(), ids.begin() + n, ids.end(), [logits](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  std::vector<Choice> best;
  for (size_t i = 0; i < n; ++i) best.push_back({ids[i], static_cast<float>(logits[ids[i]] - total)});
  return best;
}

}  // namespace gemma4
