// The expert branch of a mixture layer. Knows: routing and experts. Must not know: the rest of the layer.
#pragma once

#include <cstddef>
#include <vector>

#include "core/lines.h"
#include "model/adapters.h"
#include "model/config.h"
#include "model/linear.h"
#include "model/weights.h"

namespace gemma4 {

// A row that visits an expert, and what the expert's answer counts there.
struct Visit {
  size_t row;
  float weight;
};

// Kept between calls.
struct MoeScratch {
  Lines<float> router_in;  // (rows, hidden)
  Lines<float> gathered;   // (visits, hidden)  the rows that visit one expert, or of one row: its experts
  Lines<float> gate_up;    // (visits, 2 * expert_ffn)
  Lines<float> product;    // (visits, expert_ffn)
  Lines<float> result;     // (visits, hidden)
  Lines<float> scores;     // (rows, experts)
  std::vector<std::vector<Visit>> visits;  // (experts)  the rows that visit each
  std::vector<size_t> order;               // (experts)  of one row, the likeliest first
  std::vector<Product> first, second;      // of one expert, or of one row's: gate and up; down
  std::vector<float> weights;              // (used)     of one row's experts
};

// Rows of a step, each (rows, hidden).
struct Mixture {
  RowCounts rows;
  const float* x;          // what the router sees
  const float* expert_in;  // what the experts see
  float* out;              // their weighted sum
};
void mix_experts(const Compute& c, const TextConfig& config, const TextLayerWeights& w, Adapted adapted,
                 const Mixture& mixture, MoeScratch& scratch);

}  // namespace gemma4
