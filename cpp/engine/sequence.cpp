#include "engine/sequence.h"

#include <algorithm>
#include <string>
#include <utility>

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
      // Whatever the context: prompts that begin alike are cut alike.
      chunk_(checked(config, o).chunk.value_or(config.experts > 0 ? kLongChunk : kChunk)),
      all_logits_chunk_(o.chunk.value_or(kLongChunk)),
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
  while (!boundaries_.empty() && boundaries_.back() > position) boundaries_.pop_back();
  return true;
}

void Sequence::advance(size_t rows, bool of_prompt) {
  const bool follows = position_ == (boundaries_.empty() ? 0 : boundaries_.back());
  position_ += rows;
  if (of_prompt && follows) boundaries_.push_back(position_);
}

bool Sequence::begin_as(const Sequence& other, size_t position) {
  require(position_ == 0 && position <= context() && cache_.dtype() == other.cache_.dtype(), ErrorKind::kRequest,
          "a sequence of " + std::to_string(context()) + " positions, of which " + std::to_string(position_) +
              " are computed, cannot begin with " + std::to_string(position) + " of another");
  require(adapter_ == other.adapter_, ErrorKind::kRequest, "a sequence cannot begin with another adapter's positions");
  require(position == other.position_ || std::ranges::binary_search(other.boundaries_, position), ErrorKind::kRequest,
          std::to_string(position) + " is no boundary of the other sequence");
  const size_t window = config_.window, needed = position < window ? 0 : position - window + 1;
  if (other.position_ > position && other.kept_from_ > needed) return false;
  cache_.reserve_chunk(config_, other.cache_.chunk(), 0);  // a long picture made its rings longer
  cache_.copy_from(other.cache_, 0, position);
  position_ = position;
  const size_t ring = std::min(cache_.ring(window), other.cache_.ring(window));
  kept_from_ = std::max(other.kept_from_, position > ring ? position - ring : 0);
  boundaries_.assign(other.boundaries_.begin(), std::ranges::upper_bound(other.boundaries_, position));
  return true;
}

void Sequence::restore(Saved saved) {
  const std::vector<size_t>& ends = saved.boundaries;
  require(position_ == 0 && saved.position <= context() && saved.kept_from <= saved.position, ErrorKind::kRequest,
          "a sequence of " + std::to_string(context()) + " positions cannot become one of " +
              std::to_string(saved.position) + " of which those from " + std::to_string(saved.kept_from) +
              " on are kept");
  require(std::ranges::is_sorted(ends) && (ends.empty() || ends.back() <= saved.position), ErrorKind::kRequest,
          "the boundaries of a saved sequence do not ascend to its position");
  position_ = saved.position;
  kept_from_ = saved.kept_from;
  boundaries_ = std::move(saved.boundaries);
}

}  // namespace gemma4
