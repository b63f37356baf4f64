// A drafter: guesses the tokens that follow from its target's last state, and from the target's keys and values.
// Knows: its own config and weights, the target's embeddings, the cache of one sequence. Must not know: which guesses
// are right, how many it pays to make, text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/lines.h"
#include "model/config.h"
#include "model/text.h"
#include "model/weights.h"

namespace gemma4 {

struct DrafterScratch {
  explicit DrafterScratch(const DrafterConfig& config);

  TextScratch text;                // of one row
  Lines<float> joined;             // (2, target_hidden)  the last token's embedding and the target's state
  Lines<float> centroids;          // (centroids)
  std::vector<int32_t> order;      // (centroids)         the likeliest first
  std::vector<int32_t> ids;        // (candidates)        empty: every id, in order
  Lines<float> logits;             // (candidates)
  std::vector<Lines<float>> rows;  // (threads) of (hidden)
};

struct Drafter {
  const DrafterConfig& config;  // fitted to the target
  const DrafterWeights& weights;
  const Matrix& embed;  // of the target

  // From the last token and a state (target_hidden) to logits of candidates, in the scratch; the state becomes what
  // stands for that behind the token. The cache holds the `position` places before the token's.
  void step(const Compute& c, KVCache& cache, size_t position, int32_t token, float* state, DrafterScratch& s) const;

  // Guesses for the tokens after `token`, until `out` is full or the likeliest one is less likely than `least`. Returns
  // how many there are.   state: as of `step`
  size_t draft(const Compute& c, KVCache& cache, size_t position, int32_t token, float* state, float least,
               DrafterScratch& s, std::span<int32_t> out) const;
};

}  // namespace gemma4
