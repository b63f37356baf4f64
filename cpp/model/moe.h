// The expert branch of a mixture layer. Knows: routing and experts. Must not know: the rest of the layer.
#pragma once

#include <cstddef>

#include "core/lines.h"
#include "model/config.h"
#include "model/linear.h"
#include "model/weights.h"

namespace gemma4 {

struct MoeScratch {
  Lines<float> router_in;  // (rows, hidden)
  Lines<float> gathered;   // (visits, hidden)  the rows that visit one expert, or of one row: its experts
  Lines<float> gate_up;    // (visits, 2 * expert_ffn)
  Lines<float> product;    // (visits, expert_ffn)
  Lines<float> result;     // (visits, hidden)
  Lines<float> scores;     // (rows, experts)
};

// Routes by x (rows, hidden), feeds the experts with `expert_in` (rows, hidden), writes their weighted sum to out.
void mix_experts(const Compute& c, const TextConfig& config, const TextLayerWeights& w, const float* x,
                 const float* expert_in, size_t rows, MoeScratch& scratch, float* out);

}  // namespace gemma4
