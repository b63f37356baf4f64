// The text decoder: token ids and soft tokens in, logits out.
// Knows: its config, weights and one sequence's cache. Must not know: text, tokenizers, sampling, pictures.
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

// Rows that stand at the positions [start, start + count) of a prompt in place of token embeddings.
struct SoftTokens {
  size_t start;  // relative to the first id of the prompt
  size_t count;
  const float* rows;  // (count, hidden)
  bool image;         // one picture: its tokens may see each other both ways
};

// Consecutive positions of one sequence that are computed together.
struct Chunk {
  const int32_t* ids;  // (rows); ignored where a soft token stands
  size_t rows;
  size_t position;           // of the first row
  size_t first_logit;        // logits are wanted for rows [first_logit, rows); rows = none
  const float* const* soft;  // (rows): the soft token that stands there, or null
  const size_t* run_begin;   // (rows): the first position of the image that the row belongs to, or its own
  const size_t* run_end;     // (rows): one past the last position of that image, or its own + 1
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

// Buffers of one sequence, allocated once for the largest chunk.
struct TextScratch {
  TextScratch(const TextConfig& config, size_t rows);

  size_t capacity;      // rows that fit
  Lines<float> x;       // (rows, hidden)           the residual stream
  Lines<float> normed;  // (rows, hidden)
  Lines<float> branch;  // (rows, hidden)           what a branch adds to the stream
  Lines<float> expert;  // (rows, hidden)           the expert branch, only with experts
  Lines<float> wide;    // (rows, the widest pair)  keys and values; queries and what they attend to; gate and up
  Lines<float> ple;     // (rows, layers, ple_dim)  per-layer inputs; of rows that end early only those of their layers
  Lines<float> ple_gate;               // (rows, ple_dim)
  Lines<float> table_row;              // (layers * ple_dim)       one row of the per-layer embedding table
  std::vector<std::byte> table_bytes;  // the same as stored, where it was read from a file
  std::vector<Visible> visible;        // (rows)
  AttentionScratch attention;
  std::vector<RopeTable> rope;  // one per distinct rotation among the layers
  std::vector<size_t> rope_of;  // (layers) index into `rope`
  MoeScratch moe;
};

// Runs one chunk: writes its keys and values to the cache and the wanted logits, (rows - first_logit, vocab), to
// `logits` (null if none are wanted).
void forward(const Compute& c, const TextConfig& config, const TextWeights& w, const Chunk& chunk, KVCache& cache,
             TextScratch& scratch, float* logits);

}  // namespace gemma4
