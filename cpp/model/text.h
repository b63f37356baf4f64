// The text decoder: token ids and soft tokens in, logits out.
// Knows: its config, weights and the caches of sequences. Must not know: text, tokenizers, sampling, pictures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/lines.h"
#include "model/adapters.h"
#include "model/attention.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/moe.h"
#include "model/weights.h"

namespace gemma4 {

// A row of a step: the next place of a sequence.
struct Place {
  KVCache* cache;
  size_t position;
  int32_t id;         // ignored where a soft token stands
  const float* soft;  // (hidden) the soft token that stands there, or null
  size_t run_begin;   // the first position of the image that the row belongs to, or its own
  size_t run_end;     // one past the last position of that image, or its own + 1
};

// What is computed at once: consecutive places of one sequence, its prompt's, then single places of any sequences, each
// as if it was alone. Several of one sequence see each other if they come in order.
struct Step {
  std::span<const Place> rows;
  size_t together;                            // the first so many rows are one prompt's
  size_t first_logit;                         // logits are wanted for the rows from here on; rows.size() = none
  std::span<const AdaptedRows> adapted = {};  // the rows that an adapter changes
};

// Cosines and sines of the rotations of one kind of layer.
struct RopeTable {
  double theta, factor;
  size_t pairs, head_dim;
  std::vector<float> inverse;  // (pairs)          frequency of each rotated pair
  std::vector<float> cos;      // (rows, pairs)
  std::vector<float> sin;      // (rows, pairs)
};

// Buffers of a step, allocated once for the largest.
struct TextScratch {
  TextScratch(const TextConfig& config, size_t rows);

  size_t capacity;      // rows that fit
  Lines<float> x;       // (rows, hidden)           the residual stream
  Lines<float> normed;  // (rows, hidden)           after a step: the states that the head read, of the wanted rows
  Lines<float> branch;  // (rows, hidden)           what a branch adds to the stream
  Lines<float> expert;  // (rows, hidden)           the expert branch, only with experts
  Lines<float> wide;    // (rows, the widest pair)  keys and values; queries and what they attend to; gate and up
  Lines<float> ple;     // (rows, layers, ple_dim)  per-layer inputs; of rows that end early only those of their layers
  Lines<float> ple_gate;               // (rows, ple_dim)
  Lines<float> table_row;              // (layers * ple_dim)       one row of the per-layer embedding table
  std::vector<std::byte> table_bytes;  // the same as stored, where it was read from a file
  std::vector<Visible> visible;        // (rows)
  std::vector<Look> looks;             // (a prompt's rows at once, then row by row)
  AttentionScratch attention;
  std::vector<RopeTable> rope;  // one per distinct rotation among the layers
  std::vector<size_t> rope_of;  // (layers) index into `rope`
  MoeScratch moe;
};

// Writes keys and values to the caches and the wanted logits, (rows - first_logit, vocab), to `logits` (null if none
// are wanted).
void forward(const Compute& c, const TextConfig& config, const TextWeights& w, const Step& step, TextScratch& scratch,
             float* logits);

// For a model that reads the keys and values of another one: from `x` in the scratch, one row for each of the step's,
// to the normed stream. Writes to no cache.
void read_layers(const Compute& c, const TextConfig& config, const TextWeights& w, const Step& step,
                 TextScratch& scratch);

}  // namespace gemma4
