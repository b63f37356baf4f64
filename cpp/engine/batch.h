// Steps of several sequences: a part of a prompt and the next tokens of others are computed together.
// Knows: ids and soft tokens, sequences. Must not know: text, sampling, who waits for what, Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/sequence.h"
#include "model/text.h"

namespace gemma4 {

enum class Logits { kNone, kLast, kAll };

// Rows that stand at the positions [start, start + count) of a prompt in place of token embeddings.
struct SoftTokens {
  size_t start;  // relative to the first id of the prompt
  size_t count;
  const float* rows;  // (count, hidden)
  bool image;         // one picture: its tokens may see each other both ways
};

// Ids that a sequence is to take, and how far it is with them.
class Input {
 public:
  enum class Kind {
    kPrompt,  // computed in chunks, however many steps that takes
    kTokens   // each as if it came alone, a chunk of them in a step: the bits do not depend on how many there are
  };

  // Writes (n, vocab), (1, vocab) or nothing to `logits`, and the states that they come from, (.., hidden), to `states`
  // where it is given. `soft` is in order, inside the ids, without overlap. Refers
  // to the sequence and to the soft tokens' rows. Throws kRequest for ids and soft tokens that there cannot be,
  // kContextLength if the ids do not fit behind what the sequence holds.
  Input(Kind kind, const TextConfig& config, Sequence& sequence, std::span<const int32_t> ids,
        const std::vector<SoftTokens>& soft, Logits wanted, float* logits, float* states = nullptr);

  bool done() const { return done_ == places_.size(); }

 private:
  friend class Batch;

  size_t chunk_end() const;  // of the next chunk of a prompt

  const Kind kind_;
  Sequence& sequence_;
  const Logits wanted_;
  float* const logits_;
  float* const states_;
  const bool whole_runs_;           // a chunk must not cut a picture
  std::vector<Place> places_;       // (n), without their cache
  std::vector<size_t> media_ends_;  // one past the last soft token of each medium
  const size_t start_;              // the sequence's position before
  size_t done_ = 0;
};

// What steps need beside sequences. For one thread at a time.
class Batch {
 public:
  Batch(const TextConfig& config, const TextWeights& weights)
      : config_(config), weights_(weights), scratch_(config, 1) {}

  // The next chunk of the first prompt among the inputs, and of all others that are not prompts. After
  // kCancelled every input stands where it stood. Throws kRequest if a sequence has two of the inputs, or was moved
  // since its input was made.
  void step(const Compute& c, std::span<Input* const> inputs);

  // Steps until it is done.
  void run(const Compute& c, Input& input);

 private:
  struct Share {
    Input* input;
    size_t rows;   // of the step
    size_t first;  // row of the first logits, if it gets any
    size_t logits;
  };

  void take(Input& input, size_t begin, size_t end);
  void plan(std::span<Input* const> inputs);
  size_t first_logit() const;

  const TextConfig& config_;
  const TextWeights& weights_;
  TextScratch scratch_;
  // Of the present step.
  std::vector<Place> rows_;
  std::vector<AdaptedRows> adapted_;
  std::vector<Share> shares_;
  size_t together_ = 0;
  std::vector<float> logits_;  // (rows, vocab) where they are several inputs'
};

}  // namespace gemma4
