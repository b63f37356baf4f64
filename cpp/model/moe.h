// The expert branch of a mixture layer. Knows: routing and experts. Must not know: the rest of the layer.
#pragma once

#include <cstddef>
#include <vector>

#include "model/config.h"
#include "model/linear.h"
#include "model/weights.h"

namespace gemma4 {

struct MoeScratch {
  std::vector<float> router_in;  // (rows, hidden)
  std::vector<float> gathered;   // (rows, hidden)         the rows that visit one expert
  std::vector<float> gate_up;    // (rows, 2 * expert_ffn)
  std::vector<float> product;    // (rows, expert_ffn)
  std::vector<float> result;     // (rows, hidden)
  std::vector<float> scores;     // (rows, experts)
};

// Routes by x (rows, hidden), feeds the experts with `expert_in` (rows, hidden), writes their weighted sum to out.
void mix_experts(const Compute& c, const TextConfig& config, const TextLayerWeights& w, const float* x,
                 const float* expert_in, size_t rows, MoeScratch& scratch, float* out);

}  // namespace gemma4
