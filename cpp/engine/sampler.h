// Chooses a token from logits. Knows: numbers. Must not know: text, stop strings, models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace gemma4 {

struct SamplingOptions {
  float temperature = 0;         // 0 = greedy: the highest logit, the lowest id among equals
  int top_k = 0;                 // keep the k most likely; 0 = all
  float top_p = 1;               // keep the smallest set whose probability reaches p; 1 = all
  float min_p = 0;               // drop what is less likely than min_p times the most likely; 0 = none
  float repetition_penalty = 1;  // divides positive and multiplies negative logits of ids seen before; 1 = none
};

struct Choice {
  int32_t id;
  float logprob;  // under the unmodified logits
};

class Sampler {
 public:
  // Throws kRequest naming the option that is out of range.
  Sampler(const SamplingOptions& options, uint64_t seed);

  // logits (vocab); history: the ids that the repetition penalty looks at; allowed: (ceil(vocab / 32)) words, bit
  // id % 32 of word id / 32 says whether the id may be chosen, nullptr allows all. Throws kModelFile if a logit is NaN
  // or none is finite: the weights are damaged, and any token would be arbitrary; kRequest if no id is allowed.
  Choice sample(const float* logits, size_t vocab, const int32_t* history, size_t history_size,
                const uint32_t* allowed = nullptr);

 private:
  int32_t draw(const float* scores);

  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<float> penalised_;     // (vocab) logits after the penalty
  std::vector<int32_t> candidates_;  // (up to vocab) ids that may be chosen
};

// The n most likely ids with their log-probabilities, most likely first, the lower id first among equals.
std::vector<Choice> top_logprobs(const float* logits, size_t vocab, size_t n);

}  // namespace gemma4
