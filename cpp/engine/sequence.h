// One sequence: where it stands, and the keys and values of what was computed of it.
// Knows: positions. Must not know: what computes it, ids, text.
#pragma once

#include <cstddef>
#include <optional>

#include "model/config.h"
#include "model/kv_cache.h"

namespace gemma4 {

struct SequenceOptions {
  size_t max_context = 0;  // positions that fit
  DType kv_dtype = DType::kBF16;
  // Prompt tokens computed at once (a whole image where its tokens see each other); by default what suits the model.
  std::optional<size_t> chunk;
};

class Sequence {
 public:
  // Throws kRequest for options out of range.
  Sequence(const TextConfig& config, const SequenceOptions& options);

  size_t position() const { return position_; }
  size_t context() const { return cache_.context(); }
  size_t kv_bytes() const { return cache_.bytes(); }

  // Forgets all but the first `position` tokens. False, and nothing done, where the rings of the sliding layers have
  // overwritten what the next token would read. Never cuts a picture whose tokens see each other: that is the caller's.
  bool rewind(size_t position);

  // For whoever computes it: tokens of a prompt at once, with the last logits wanted or all; room for the keys and
  // values of the next `rows` positions, which from then on may be written; a step further once they are.
  size_t chunk(bool all_logits) const { return all_logits ? all_logits_chunk_ : chunk_; }
  KVCache& reserve(size_t rows);
  KVCache& cache() { return cache_; }
  void advance(size_t rows) { position_ += rows; }

 private:
  const TextConfig& config_;
  size_t chunk_, all_logits_chunk_;
  size_t position_ = 0;
  size_t kept_from_ = 0;  // the rings hold all positions from here on
  KVCache cache_;
};

}  // namespace gemma4
