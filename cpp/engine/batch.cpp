#include "engine/batch.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "core/error.h"

namespace gemma4 {
namespace {

void check(const TextConfig& config, const Sequence& sequence, std::span<const int32_t> ids,
           const std::vector<SoftTokens>& soft) {
  const size_t n = ids.size();
  if (n > sequence.context() - sequence.position()) {
    fail(ErrorKind::kContextLength, std::to_string(n) + " tokens after " + std::to_string(sequence.position()) +
                                        " do not fit in a context of " + std::to_string(sequence.context()));
  }
  for (size_t i = 0; i < n; ++i) {
    require(ids[i] >= 0 && ids[i] < config.vocab, ErrorKind::kRequest,
            "token id " + std::to_string(ids[i]) + " at position " + std::to_string(i) + " is outside 0.." +
                std::to_string(config.vocab - 1));
  }
  size_t at = 0;
  for (const SoftTokens& s : soft) {
    require(s.count > 0, ErrorKind::kRequest, "soft tokens at " + std::to_string(s.start) + ": there are none");
    require(s.start >= at && s.start <= n && s.count <= n - s.start, ErrorKind::kRequest,
            "soft tokens [" + std::to_string(s.start) + ", +" + std::to_string(s.count) +
                ") overlap others or leave the prompt of " + std::to_string(n));
    at = s.start + s.count;
  }
}

// Which soft token stands where, and where the picture that a position belongs to begins and ends.
void place(const std::vector<SoftTokens>& soft, size_t hidden, std::vector<Place>& places) {
  for (auto s = soft.rbegin(); s != soft.rend(); ++s) {
    const size_t end = s->start + s->count;
    // Pictures that touch are one run, as in the reference.
    const bool touches = s != soft.rbegin() && std::prev(s)->image && std::prev(s)->start == end;
    for (size_t i = 0; i < s->count; ++i) {
      Place& p = places[s->start + i];
      p.soft = s->rows + i * hidden;
      if (s->image) p.run_end = touches ? places[end].run_end : places[end - 1].position + 1;
    }
  }
  for (size_t i = 1; i < places.size(); ++i) {
    if (places[i - 1].run_end > places[i].position) places[i].run_begin = places[i - 1].run_begin;
  }
}

}  // namespace

Input::Input(Kind kind, const TextConfig& config, Sequence& sequence, std::span<const int32_t> ids,
             const std::vector<SoftTokens>& soft, Logits wanted, float* logits, float* states)
    : kind_(kind),
      sequence_(sequence),
      wanted_(ids.empty() ? Logits::kNone : wanted),
      logits_(logits),
      states_(states),
      whole_runs_(config.bidirectional_images),
      start_(sequence.position()) {
  check(config, sequence, ids, soft);
  places_.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t position = start_ + i;
    places_.push_back({nullptr, position, ids[i], nullptr, position, position + 1});
  }
  for (const SoftTokens& s : soft) media_ends_.push_back(s.start + s.count);
  if (kind == Kind::kPrompt) place(soft, static_cast<size_t>(config.hidden), places_);
}

// A chunk ends before an image that it would cut, unless the image is its beginning. Once it is half full it ends
// behind a medium, so that another question about the same one can go on from there. All this depends on what comes
// before the end alone: prompts that begin alike are cut alike.
size_t Input::chunk_end() const {
  const size_t begin = done_, n = places_.size(), chunk = sequence_.chunk(wanted_ == Logits::kAll);
  size_t end = std::min(n, begin + chunk);
  if (wanted_ != Logits::kAll) {
    const auto medium = std::ranges::lower_bound(media_ends_, begin + std::max<size_t>(chunk / 2, 1));
    if (medium != media_ends_.end()) end = std::min(end, *medium);
  }
  if (end == n || !whole_runs_) return end;
  size_t run_begin = end;
  while (run_begin > begin && places_[run_begin - 1].run_end > start_ + end) --run_begin;
  return run_begin > begin ? run_begin : std::min(n, places_[begin].run_end - start_);
}

void Batch::take(Input& input, size_t begin, size_t end) {
  if (begin == end) return;
  KVCache& cache = input.sequence_.reserve(end - input.done_);
  if (const Adapter* adapter = input.sequence_.adapter(); adapter != nullptr) {
    // Neighbours with the same adapter are one range.
    AdaptedRows* last = adapted_.empty() ? nullptr : &adapted_.back();
    if (last != nullptr && last->adapter == adapter && last->first + last->count == rows_.size()) {
      last->count += end - begin;
    } else {
      adapted_.push_back({rows_.size(), end - begin, adapter});
    }
  }
  // Of an image only what is in the same chunk is seen.
  const size_t first = input.start_ + begin, last = input.start_ + end;
  for (size_t i = begin; i < end; ++i) {
    Place p = input.places_[i];
    p.cache = &cache;
    p.run_begin = std::max(p.run_begin, first);
    p.run_end = std::min(p.run_end, last);
    rows_.push_back(p);
  }
}

// The rows of a step: a prompt's; tokens whose logits nobody wants; the others.
void Batch::plan(std::span<Input* const> inputs) {
  rows_.clear();
  adapted_.clear();
  shares_.clear();
  together_ = 0;
  for (Input* input : inputs) {
    for (const Share& other : shares_) {
      require(&other.input->sequence_ != &input->sequence_, ErrorKind::kRequest, "a sequence has two inputs");
    }
    require(input->sequence_.position() == input->start_ + input->done_, ErrorKind::kRequest,
            "the sequence was moved since its input was made");
    if (input->done() || (input->kind_ == Input::Kind::kPrompt && together_ > 0)) continue;
    shares_.push_back({input, std::min(input->places_.size() - input->done_, input->sequence_.chunk(false)), 0, 0});
    if (input->kind_ != Input::Kind::kPrompt) continue;
    const size_t end = input->chunk_end();
    take(*input, input->done_, end);
    together_ = shares_.back().rows = rows_.size();
    const bool ends = end == input->places_.size();
    shares_.back().logits = input->wanted_ == Logits::kAll            ? together_
                            : input->wanted_ == Logits::kLast && ends ? 1
                                                                      : 0;
    shares_.back().first = together_ - shares_.back().logits;
  }
  for (const bool wanted : {false, true}) {
    for (Share& share : shares_) {
      Input& input = *share.input;
      if (input.kind_ == Input::Kind::kPrompt) continue;
      const size_t n = input.places_.size(), begin = input.done_, end = begin + share.rows;
      const size_t split = input.wanted_ == Logits::kAll                ? begin
                           : input.wanted_ == Logits::kLast && end == n ? n - 1
                                                                        : end;
      if (wanted) share.first = rows_.size(), share.logits = end - split;
      take(input, wanted ? split : begin, wanted ? end : split);
    }
  }
}

size_t Batch::first_logit() const {
  size_t first = rows_.size();
  for (const Share& share : shares_) {
    if (share.logits > 0) first = std::min(first, share.first);
  }
  return first;
}

void Batch::step(const Compute& c, std::span<Input* const> inputs) {
  plan(inputs);
  if (rows_.empty()) return;
  if (rows_.size() > scratch_.capacity) scratch_ = TextScratch(config_, rows_.size());
  const size_t first = first_logit(), count = rows_.size() - first, vocab = config_.vocab;
  const auto all_of_step = [&](const Share& s) { return s.logits == count; };
  const auto alone = std::ranges::find_if(shares_, all_of_step);
  float* logits = nullptr;
  if (alone != shares_.end() && count > 0) {
    Input& input = *alone->input;
    logits = input.logits_ + (input.wanted_ == Logits::kAll ? input.done_ * vocab : 0);
  } else {
    logits_.resize(count * vocab);
    logits = logits_.data();
  }
  forward(c, config_, weights_, {rows_, together_, first, adapted_}, scratch_, logits);
  for (const Share& s : shares_) {
    Input& input = *s.input;
    if (s.logits > 0 && logits == logits_.data()) {
      float* out = input.logits_ + (input.wanted_ == Logits::kAll ? input.done_ * vocab : 0);
      std::copy_n(logits + (s.first - first) * vocab, s.logits * vocab, out);
    }
    if (s.logits > 0 && input.states_ != nullptr) {
      const size_t hidden = config_.hidden, done = input.wanted_ == Logits::kAll ? input.done_ : 0;
      std::copy_n(scratch_.normed.data() + s.first * hidden, s.logits * hidden, input.states_ + done * hidden);
    }
    input.sequence_.advance(s.rows, input.kind_ == Input::Kind::kPrompt && input.wanted_ != Logits::kAll);
    input.done_ += s.rows;
  }
}

void Batch::run(const Compute& c, Input& input) {
  Input* const one = &input;
  while (!input.done()) step(c, {&one, 1});
}

}  // namespace gemma4
