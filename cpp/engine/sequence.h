// One sequence: where it stands, and the keys and values of what was computed of it.
// Knows: positions, whose adapter they are computed with. Must not know: what computes it, ids, text.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "model/adapters.h"
#include "model/config.h"
#include "model/kv_cache.h"

namespace gemma4 {

struct SequenceOptions {
  size_t max_context = 0;  // positions that fit
  DType kv_dtype = DType::kBF16;
  // Prompt tokens computed at once (a whole image where its tokens see each other); by default what suits the model.
  std::optional<size_t> chunk;
  const Adapter* adapter = nullptr;  // of the whole sequence, whose keys and values are its own; null = none
};

class Sequence {
 public:
  // Throws kRequest for options out of range.
  Sequence(const TextConfig& config, const SequenceOptions& options);

  size_t position() const { return position_; }
  size_t context() const { return cache_.context(); }
  size_t kv_bytes() const { return cache_.bytes(); }
  const Adapter* adapter() const { return adapter_; }

  // Forgets all but the first `position` tokens. False, and nothing done, where the rings of the sliding layers have
  // overwritten what the next token would read. Never cuts a picture whose tokens see each other: that is the caller's.
  bool rewind(size_t position);

  // Where the chunks of its prompt ended, in order: there it holds the same bits as any other sequence that begins with
  // the same ids and pictures. Nothing that was computed token by token, or after a `rewind` to another place, counts.
  std::span<const size_t> boundaries() const { return boundaries_; }

  // Becomes what `other`, of the same model, options and chunks, is, or was at one of its boundaries. False, and
  // nothing done, where its sliding layers have lost what the next token would read. Throws kRequest if this one is not
  // empty, too small, has another adapter, or if that is neither its place nor a boundary.
  bool begin_as(const Sequence& other, size_t position);

  // What stands beside the memory of its cache when a sequence is saved.
  struct Saved {
    size_t position = 0, kept_from = 0;
    std::vector<size_t> boundaries;
  };
  Saved saved() const { return {position_, kept_from_, boundaries_}; }
  // Becomes what was saved, once the memory of its cache is. Throws kRequest if it is not empty or that cannot be.
  void restore(Saved saved);

  // For whoever computes it: tokens of a prompt at once, with the last logits wanted or all; room for the keys and
  // values of the next `rows` positions, which from then on may be written; a step further once they are.
  size_t chunk(bool all_logits) const { return all_logits ? all_logits_chunk_ : chunk_; }
  KVCache& reserve(size_t rows);
  KVCache& cache() { return cache_; }
  void advance(size_t rows, bool of_prompt);

 private:
  const TextConfig& config_;
  const Adapter* adapter_;
  size_t chunk_, all_logits_chunk_;
  size_t position_ = 0;
  size_t kept_from_ = 0;            // the rings hold all positions from here on
  std::vector<size_t> boundaries_;  // ascending
  KVCache cache_;
};

}  // namespace gemma4
