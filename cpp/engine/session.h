// One sequence being computed: prompts are split into chunks, tokens are appended, logits come out.
// Knows: ids and soft tokens. Must not know: text, sampling, Python.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "model/text.h"

namespace gemma4 {

enum class Logits { kNone, kLast, kAll };

struct SessionOptions {
  size_t max_context = 0;  // positions that fit
  DType kv_dtype = DType::kBF16;
  // Prompt tokens computed at once (a whole image where its tokens see each other); by default what suits the model.
  std::optional<size_t> chunk;
  const Adapter* adapter = nullptr;  // of the whole sequence, whose keys and values are its own; null = none
};

class Session {
 public:
  // Throws kRequest for options out of range.
  Session(const TextConfig& config, const TextWeights& weights, const SessionOptions& options);

  size_t position() const { return position_; }
  size_t kv_bytes() const { return cache_.bytes(); }
  size_t scratch_rows() const { return scratch_.capacity; }

  // Appends ids (n). `soft` is in order, inside the prompt, without overlap. Writes (n, vocab), (1, vocab) or nothing
  // to `logits`. Throws kContextLength before any work if the ids do not fit; after kCancelled the session is at the
  // last finished chunk.
  void prefill(const Compute& c, const int32_t* ids, size_t n, const std::vector<SoftTokens>& soft, Logits wanted,
               float* logits);

  // Forgets all but the first `position` tokens. False, and nothing done, where the rings of the sliding layers have
  // overwritten what the next token would read. Never cuts a picture whose tokens see each other: that is the caller's.
  bool rewind(size_t position);

 private:
  void check(const int32_t* ids, size_t n, const std::vector<SoftTokens>& soft) const;
  void place(const std::vector<SoftTokens>& soft, size_t n);
  size_t chunk_end(size_t begin, size_t chunk, size_t n) const;
  void make_room(size_t rows);

  const TextConfig& config_;
  const TextWeights& weights_;
  const Adapter* adapter_;
  size_t chunk_, all_logits_chunk_;
  size_t position_ = 0;
  size_t kept_from_ = 0;  // the rings hold all positions from here on
  KVCache cache_;
  TextScratch scratch_;
  // Of the prompt that is being computed, kept between calls.
  std::vector<const float*> row_;            // (n) the soft token that stands there, or null
  std::vector<size_t> run_begin_, run_end_;  // (n) of the picture that a position belongs to, or its own
  std::vector<size_t> begins_, ends_;        // (n) the same inside its chunk, counted from the sequence's beginning
};

}  // namespace gemma4
