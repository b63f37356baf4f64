#include "engine/sequence.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace gemma4 {
namespace {

// Scratch memory grows with a chunk, speed hardly does.
constexpr size_t kChunk = 128;
// But a mixture streams nearly all of its experts for every chunk, and all logits need all layers and the head, whose
// weights are unpacked for every chunk; beside so many logits scratch is nothing.
constexpr size_t kLongChunk = 512;

const SequenceOptions& checked(const TextConfig& config, const SequenceOptions& o) {
  require(o.max_context > 0 && o.max_context <= static_cast<size_t>(config.context), ErrorKind::kRequest,
          "max_context is " + std::to_string(o.max_context) + ", expected 1.." + std::to_string(config.context));
  require(o.chunk != size_t{0}, ErrorKind::kRequest, "chunk is 0, expected 1 or more");
  return o;
}

}  // namespace

Sequence::Sequence(const TextConfig& config, const SequenceOptions& o)
    : config_(config),
      adapter_(o.adapter),
      chunk_(std::min(checked(config, o).chunk.value_or(config.experts > 0 ? kLongChunk : kChunk), o.max_context)),
      all_logits_chunk_(std::min(o.chunk.value_or(kLongChunk), o.max_context)),
      cache_(config, o.kv_dtype, o.max_context, chunk_) {}

KVCache& Sequence::reserve(size_t rows) {
  cache_.reserve_chunk(config_, rows, position_);
  const size_t written = position_ + rows, ring = cache_.ring(config_.window);
  if (written > ring) kept_from_ = std::max(kept_from_, written - ring);  // also if the step is cancelled half-way
  return cache_;
}

bool Sequence::rewind(size_t position) {
  require(position <= position_, ErrorKind::kRequest,
          "rewind to " + std::to_string(position) + ", but only " + std::to_string(position_) + " tokens are computed");
  const size_t window = config_.window;
  if (position < position_ && kept_from_ > (position < window ? 0 : position - window + 1)) return false;
  position_ = position;
  return true;
}

}  // namespace gemma4
