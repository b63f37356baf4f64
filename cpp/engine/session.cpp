#include "engine/session.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "core/error.h"

namespace gemma4 {
namespace {

// Scratch memory grows with a chunk, speed hardly does.
constexpr size_t kChunk = 128;
// But a mixture streams nearly all of its experts for every chunk, and all logits need all layers and the head, whose
// weights are unpacked for every chunk; beside so many logits scratch is nothing.
constexpr size_t kLongChunk = 512;

const SessionOptions& checked(const TextConfig& config, const SessionOptions& o) {
  require(o.max_context > 0 && o.max_context <= static_cast<size_t>(config.context), ErrorKind::kRequest,
          "max_context is " + std::to_string(o.max_context) + ", expected 1.." + std::to_string(config.context));
  require(o.chunk != size_t{0}, ErrorKind::kRequest, "chunk is 0, expected 1 or more");
  return o;
}

}  // namespace

Session::Session(const TextConfig& config, const TextWeights& weights, const SessionOptions& o)
    : config_(config),
      weights_(weights),
      adapter_(o.adapter),
      chunk_(std::min(checked(config, o).chunk.value_or(config.experts > 0 ? kLongChunk : kChunk), o.max_context)),
      all_logits_chunk_(std::min(o.chunk.value_or(kLongChunk), o.max_context)),
      cache_(config, o.kv_dtype, o.max_context, chunk_),
      scratch_(config, 1) {}

void Session::check(const int32_t* ids, size_t n, const std::vector<SoftTokens>& soft) const {
  if (n > cache_.context() - position_) {
    fail(ErrorKind::kContextLength, std::to_string(n) + " tokens after " + std::to_string(position_) +
                                        " do not fit in a context of " + std::to_string(cache_.context()));
  }
  for (size_t i = 0; i < n; ++i) {
    require(ids[i] >= 0 && ids[i] < config_.vocab, ErrorKind::kRequest,
            "token id " + std::to_string(ids[i]) + " at position " + std::to_string(i) + " is outside 0.." +
                std::to_string(config_.vocab - 1));
  }
  size_t at = 0;
  for (const SoftTokens& s : soft) {
    require(s.start >= at && s.start <= n && s.count <= n - s.start, ErrorKind::kRequest,
            "soft tokens [" + std::to_string(s.start) + ", +" + std::to_string(s.count) +
                ") overlap others or leave the prompt of " + std::to_string(n));
    at = s.start + s.count;
  }
}

// A chunk ends before an image that it would cut, unless the image is its beginning.
size_t Session::chunk_end(size_t begin, size_t chunk, size_t n) const {
  size_t end = std::min(n, begin + chunk);
  if (end == n || !config_.bidirectional_images) return end;
  size_t run_begin = end;
  while (run_begin > begin && run_end_[run_begin - 1] > end) --run_begin;
  return run_begin > begin ? run_begin : std::min(n, run_end_[begin]);
}

void Session::make_room(size_t rows) {
  cache_.reserve_chunk(config_, rows, position_);
  if (rows > scratch_.capacity) scratch_ = TextScratch(config_, rows);
}

// Which soft token stands at each of n positions, and where the picture that a position belongs to begins and ends.
void Session::place(const std::vector<SoftTokens>& soft, size_t n) {
  row_.assign(n, nullptr);
  run_begin_.resize(n);
  run_end_.resize(n);
  for (size_t i = 0; i < n; ++i) run_begin_[i] = i, run_end_[i] = i + 1;
  for (auto s = soft.rbegin(); s != soft.rend(); ++s) {
    // Pictures that touch are one run, as in the reference.
    const size_t end = s->start + s->count;
    const bool touches = s != soft.rbegin() && std::prev(s)->image && std::prev(s)->start == end;
    for (size_t i = 0; i < s->count; ++i) {
      row_[s->start + i] = s->rows + i * config_.hidden;
      if (s->image) run_end_[s->start + i] = touches ? run_end_[end] : end;
    }
  }
  for (size_t i = 1; i < n; ++i) {
    if (run_end_[i - 1] > i) run_begin_[i] = run_begin_[i - 1];
  }
}

void Session::prefill(const Compute& c, const int32_t* ids, size_t n, const std::vector<SoftTokens>& soft,
                      Logits wanted, float* logits) {
  check(ids, n, soft);
  place(soft, n);
  const size_t start = position_;
  begins_.resize(n);
  ends_.resize(n);
  for (size_t begin = 0; begin < n;) {
    const size_t end = chunk_end(begin, wanted == Logits::kAll ? all_logits_chunk_ : chunk_, n);
    const size_t rows = end - begin;
    make_room(rows);
    const size_t written = position_ + rows, ring = cache_.ring(config_.window);
    if (written > ring) kept_from_ = std::max(kept_from_, written - ring);  // also if it is cancelled half-way
    for (size_t i = begin; i < end; ++i) {
      begins_[i] = start + std::max(run_begin_[i], begin);
      ends_[i] = start + std::min(run_end_[i], end);
    }
    const size_t first_logit = wanted == Logits::kAll ? 0 : wanted == Logits::kLast && end == n ? rows - 1 : rows;
    const AdaptedRows all{0, rows, adapter_};
    const Chunk chunk{.ids = ids + begin,
                      .rows = rows,
                      .position = position_,
                      .first_logit = first_logit,
                      .soft = row_.data() + begin,
                      .run_begin = begins_.data() + begin,
                      .run_end = ends_.data() + begin,
                      .adapted = {&all, adapter_ == nullptr ? size_t{0} : size_t{1}}};
    forward(c, config_, weights_, chunk, cache_, scratch_,
            wanted == Logits::kAll ? logits + begin * config_.vocab : logits);
    position_ += rows;
    begin = end;
  }
}

bool Session::rewind(size_t position) {
  require(position <= position_, ErrorKind::kRequest,
          "rewind to " + std::to_string(position) + ", but only " + std::to_string(position_) + " tokens are computed");
  const size_t window = config_.window;
  if (position < position_ && kept_from_ > (position < window ? 0 : position - window + 1)) return false;
  position_ = position;
  return true;
}

}  // namespace gemma4
