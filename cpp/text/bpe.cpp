#include "text/bpe.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "core/error.h"
#include "text/utf8.h"

namespace gemma4 {
namespace {

constexpr std::string_view kSpace = "▁";  // U+2581
constexpr std::string_view kReplacement = "\uFFFD";
constexpr size_t kLongestAdded = 1024;  // bytes; a search for one may look at as many at every place

uint64_t new_seed() {
  std::random_device source;
  return (static_cast<uint64_t>(source()) << 32) | source();
}

// FNV-1a, because the hash of two strings joined goes on from that of the first; `finished` spreads it over all bits.
uint64_t hashed(uint64_t state, std::string_view text) {
  for (const char c : text) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return state;
}

uint64_t finished(uint64_t state) {
  state = (state ^ (state >> 32)) * 0xD6E8FEB86659FD93u;
  return state ^ (state >> 32);
}

// Places of a table for n entries, of which it fills two thirds.
size_t places_for(size_t n) { return n + n / 2 + 1; }

// Where in a table of `size` places, fewer than 2^32, the search for a hash begins: by its high half.
size_t first_place(uint64_t hash, size_t size) { return ((hash >> 32) * size) >> 32; }

size_t next_place(size_t at, size_t size) { return at + 1 == size ? 0 : at + 1; }

// The byte that "<0x0A>" stands for, -1 for any other text.
int byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

std::string quoted(std::string_view text) {
  size_t size = std::min<size_t>(text.size(), 60);
  while (size < text.size() && size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  return std::string("'").append(text.substr(0, size)).append("'");
}

}  // namespace

// -- the tables ------------------------------------------------------------------------------------------------------

Bpe::Bpe(BpeForm form) : seed_(new_seed()), tokens_(std::move(form.tokens)), added_(std::move(form.added)) {
  add_tokens(form.tokens_name);
  add_merges(form.merges, form.merges_name);
  add_added(form.added_name);
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    byte_ids_[byte] = find_plain(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + '>');
  }
  space_ = find_plain(kSpace);
  unknown_ = find_plain("<unk>");
  for (int c = 0; c < 128; ++c) {
    const char character = static_cast<char>(c);
    ascii_ids_[c] = c == ' ' ? space_ : find_plain({&character, 1});
  }
  find_crossings();
}

void Bpe::add_tokens(const std::string& name) {
  slots_.resize(places_for(tokens_->size()));
  for (size_t id = 0; id < tokens_->size(); ++id) {
    const std::string_view text = (*tokens_)[id];
    if (text.empty()) continue;
    const uint64_t hash = finished(hashed(seed_, text));
    const auto tag = static_cast<uint32_t>(hash);
    size_t at = first_place(hash, slots_.size());
    for (; slots_[at].id >= 0; at = next_place(at, slots_.size())) {
      if (slots_[at].tag == tag && (*tokens_)[slots_[at].id] == text) {
        fail(ErrorKind::kModelFile, name + ": the token " + quoted(text) + " appears twice");
      }
    }
    slots_[at] = {tag, static_cast<int32_t>(id)};
    size_ = static_cast<int32_t>(id) + 1;
  }
}

// In small groups, step by step: what a step reads at random, the one before has asked the memory for. This is most of
// the time that loading a tokenizer takes.
void Bpe::add_merges(const Strings& merges, const std::string& name) {
  struct Parsed {
    std::array<std::string_view, 3> texts;  // left, right, both with the space between them
    std::array<uint64_t, 3> hashes;         // of left, right, both joined
    size_t cut;
  };
  std::array<Parsed, 32> group;
  std::vector<Pair> pairs;
  pairs.reserve(merges.size());
  const auto place = [&](uint64_t hash) { return first_place(hash, slots_.size()); };
  for (size_t first = 0; first < merges.size(); first += group.size()) {
    const size_t count = std::min(group.size(), merges.size() - first);
    for (size_t i = 0; i < count; ++i) {
      const std::string_view text = merges[first + i];
      const size_t cut = text.find(' ', 1);
      if (cut == std::string_view::npos) {
        fail(ErrorKind::kModelFile, name + ": expected two tokens with a space between them, found " + quoted(text));
      }
      const std::string_view left = text.substr(0, cut), right = text.substr(cut + 1);
      const uint64_t state = hashed(seed_, left);
      group[i] = {
          {left, right, text}, {finished(state), finished(hashed(seed_, right)), finished(hashed(state, right))}, cut};
      for (const uint64_t hash : group[i].hashes) __builtin_prefetch(&slots_[place(hash)]);
    }
    for (const bool bytes : {false, true}) {
      for (size_t i = 0; i < count; ++i) {
        for (const uint64_t hash : group[i].hashes) {
          const int32_t id = slots_[place(hash)].id;  // most often the right one
          if (id >= 0) bytes ? tokens_->expect_bytes(id) : tokens_->expect(id);
        }
      }
    }
    for (size_t i = 0; i < count; ++i) {
      const Parsed& merge = group[i];
      const auto [left, right, text] = merge.texts;
      const int32_t left_id = find_hashed(merge.hashes[0], [&](int32_t id) { return (*tokens_)[id] == left; });
      const int32_t right_id = find_hashed(merge.hashes[1], [&](int32_t id) { return (*tokens_)[id] == right; });
      const int32_t joined_id = find_hashed(merge.hashes[2], [&](int32_t id) {
        const std::string_view token = (*tokens_)[id];
        return token.size() + 1 == text.size() && token.substr(0, merge.cut) == left &&
               token.substr(merge.cut) == right;
      });
      if (left_id < 0 || right_id < 0 || joined_id < 0) {
        const std::string joined = std::string(left).append(right);
        fail(ErrorKind::kModelFile, name + ": do not fit the vocabulary: no token is " +
                                        quoted(left_id < 0    ? left
                                               : right_id < 0 ? right
                                                              : joined));
      }
      pairs.push_back({left_id, right_id, {static_cast<uint32_t>(first + i), joined_id}});
    }
  }
  order_merges(pairs);
}

void Bpe::order_merges(const std::vector<Pair>& pairs) {
  merges_from_.assign(tokens_->size() + 1, 0);
  for (const Pair& pair : pairs) ++merges_from_[static_cast<size_t>(pair.left) + 1];
  std::partial_sum(merges_from_.begin(), merges_from_.end(), merges_from_.begin());
  std::vector<uint32_t> next(merges_from_.begin(), merges_from_.end() - 1);
  std::vector<uint32_t> order(pairs.size());  // of the pairs, which come by rank
  for (size_t i = 0; i < pairs.size(); ++i) {
    order[next[static_cast<size_t>(pairs[i].left)]++] = static_cast<uint32_t>(i);
  }
  for (size_t left = 0; left < tokens_->size(); ++left) {
    std::sort(order.begin() + merges_from_[left], order.begin() + merges_from_[left + 1],
              [&](uint32_t a, uint32_t b) { return std::pair(pairs[a].right, a) < std::pair(pairs[b].right, b); });
  }
  merges_.reserve(pairs.size());
  rights_.reserve(pairs.size());
  for (const uint32_t i : order) {
    merges_.push_back(pairs[i].merge);
    rights_.push_back(pairs[i].right);
  }
}

void Bpe::add_added(const std::string& name) {
  for (const AddedToken& token : added_) {
    require(!token.text.empty() && token.text.size() <= kLongestAdded, ErrorKind::kModelFile,
            name + ": " + quoted(token.text) + ": expected 1 to " + std::to_string(kLongestAdded) + " bytes");
  }
  std::ranges::sort(added_, {}, &AddedToken::text);
  for (size_t i = 0; i < added_.size(); ++i) {
    const AddedToken& token = added_[i];
    require(i == 0 || added_[i - 1].text != token.text, ErrorKind::kModelFile,
            name + ": " + quoted(token.text) + " appears twice");
    auto& [begin, end] = added_from_[static_cast<unsigned char>(token.text[0])];
    if (end == 0) begin = static_cast<uint32_t>(i);
    end = static_cast<uint32_t>(i) + 1;
    const int32_t known = find_plain(token.text);
    if (known < 0) extra_.push_back(static_cast<uint32_t>(i));
    require(known < 0 || known == token.id, ErrorKind::kModelFile,
            name + ": the token " + quoted(token.text) + " has two ids, " + std::to_string(known) + " and " +
                std::to_string(token.id));
  }
  std::ranges::sort(extra_, {}, [this](uint32_t i) { return added_[i].id; });
  for (const uint32_t i : extra_) {
    const AddedToken& token = added_[i];
    require(token.id == size_, ErrorKind::kModelFile,
            name + ": the token " + quoted(token.text) + " has the id " + std::to_string(token.id) + ", expected " +
                std::to_string(size_) + ", the first that is free");
    ++size_;
  }
}

// A merge crosses the place before a ▁ only if a token has what stands there in it. Elsewhere a text can be cut before
// it is merged, which changes nothing and makes words short.
void Bpe::find_crossings() {
  for (size_t id = 0; id < tokens_->size(); ++id) {
    const std::string_view token = (*tokens_)[id];
    for (size_t at = token.find(kSpace, 1); at != std::string_view::npos; at = token.find(kSpace, at + 1)) {
      crosses_[static_cast<unsigned char>(token[at - 1])] = true;
    }
  }
}

template <class Same>
int32_t Bpe::find_hashed(uint64_t hash, Same same) const {
  const auto tag = static_cast<uint32_t>(hash);
  for (size_t at = first_place(hash, slots_.size()); slots_[at].id >= 0; at = next_place(at, slots_.size())) {
    if (slots_[at].tag == tag && same(slots_[at].id)) return slots_[at].id;
  }
  return -1;
}

int32_t Bpe::find_plain(std::string_view token) const {
  return find_hashed(finished(hashed(seed_, token)), [&](int32_t id) { return (*tokens_)[id] == token; });
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const size_t begin = merges_from_[static_cast<size_t>(left)];
  size_t count = merges_from_[static_cast<size_t>(left) + 1] - begin;
  if (count == 0) return nullptr;
  // To the last that is not greater, so also the last of a pair that is there twice, without a branch to guess.
  const int32_t* at = rights_.data() + begin;
  while (count > 1) {
    const size_t half = count / 2;
    at += at[half] <= right ? half : 0;
    count -= half;
  }
  return *at == right ? &merges_[static_cast<size_t>(at - rights_.data())] : nullptr;
}

// -- names -----------------------------------------------------------------------------------------------------------

int32_t Bpe::find(std::string_view token) const {
  const int32_t id = find_plain(token);
  if (id >= 0) return id;
  const auto it = std::ranges::lower_bound(added_, token, {}, &AddedToken::text);
  return it != added_.end() && it->text == token ? it->id : -1;
}

std::string_view Bpe::token(int32_t id) const {
  if (id < 0 || id >= size_) return {};
  const size_t first = static_cast<size_t>(size_) - extra_.size();  // id of the first token that `tokens_` lacks
  if (static_cast<size_t>(id) >= first) return added_[extra_[static_cast<size_t>(id) - first]].text;
  return (*tokens_)[static_cast<size_t>(id)];
}

int Bpe::byte(int32_t id) const { return byte_of(token(id)); }

// -- encoding --------------------------------------------------------------------------------------------------------

struct Bpe::Symbol {
  int32_t id;  // -1 once it has become part of the one before
  int32_t previous, next;
};

// An encoding under way.
struct Bpe::Encoding {
  struct Candidate {
    uint64_t order;  // rank, position: the smallest comes first
    int32_t id;
  };

  Interrupt& interrupt;
  std::vector<int32_t> ids;
  std::vector<Symbol> word;  // not merged yet
  std::vector<Candidate> heap;
  bool unknown = false;  // characters without a token stand at its end
  uint32_t steps = 0;

  void push(int32_t id) {
    const auto at = static_cast<int32_t>(word.size());
    word.push_back({id, at - 1, at + 1});
  }
  void step() {
    if (++steps % 1024 == 0) interrupt.check();
  }
};

std::vector<int32_t> Bpe::encode(std::string_view text, Interrupt& interrupt) const {
  require(text.size() < (1u << 30), ErrorKind::kRequest, "text: at most 1 GB can be encoded at once");
  Encoding out{interrupt, {}, {}, {}};
  size_t from = 0;  // what is before is encoded
  for (size_t at = 0; at < text.size();) {
    const AddedToken* added = added_at(text, at);
    if (added == nullptr) {
      ++at;
      continue;
    }
    if (!added->control) {
      encode_span(text.substr(from, at - from), out);
      out.ids.push_back(added->id);
      from = at + added->text.size();
    }
    at += added->text.size();
  }
  encode_span(text.substr(from), out);
  return std::move(out.ids);
}

// The longest added token at a place. Those that share the bytes read so far lie together, the shortest first.
const AddedToken* Bpe::added_at(std::string_view text, size_t at) const {
  auto [begin, end] = added_from_[static_cast<unsigned char>(text[at])];
  const AddedToken* longest = nullptr;
  for (size_t read = 1; begin < end; ++read) {
    if (added_[begin].text.size() == read) longest = &added_[begin++];
    if (at + read == text.size()) break;
    const auto next = static_cast<unsigned char>(text[at + read]);
    const auto byte = [read](const AddedToken& token) { return static_cast<unsigned char>(token.text[read]); };
    const auto first = std::partition_point(added_.begin() + begin, added_.begin() + end,
                                            [&](const AddedToken& token) { return byte(token) < next; });
    const auto last =
        std::partition_point(first, added_.begin() + end, [&](const AddedToken& token) { return byte(token) == next; });
    begin = static_cast<uint32_t>(first - added_.begin());
    end = static_cast<uint32_t>(last - added_.begin());
  }
  return longest;
}

// A text without added tokens.
void Bpe::encode_span(std::string_view text, Encoding& out) const {
  size_t size;
  for (size_t at = 0; at < text.size(); at += size) {
    out.step();
    const auto first = static_cast<unsigned char>(text[at]);
    size = first < 0x80 ? 1 : utf8_character(text, at);
    if (size == 0) fail(ErrorKind::kRequest, "text: not UTF-8");
    const std::string_view character = first == ' ' ? kSpace : text.substr(at, size);
    const int32_t id = first < 0x80 ? ascii_ids_[first] : find_plain(character);
    if (id < 0) {
      if (!spell(character, out)) out.unknown = true;
      continue;
    }
    if (out.unknown) out.push(unknown_);
    out.unknown = false;
    if (id == space_ && !out.word.empty() && !crosses_[static_cast<unsigned char>(token(out.word.back().id).back())]) {
      merge_word(out);
    }
    out.push(id);
  }
  if (out.unknown) out.push(unknown_);
  out.unknown = false;
  merge_word(out);
}

// A character that the vocabulary lacks, in bytes. False if it lacks one of these too; unknown characters in a row make
// one unknown token, which comes when a character that is known ends them.
bool Bpe::spell(std::string_view character, Encoding& out) const {
  for (const char c : character) {
    if (byte_ids_[static_cast<unsigned char>(c)] >= 0) continue;
    require(unknown_ >= 0, ErrorKind::kRequest, "text: this tokenizer cannot encode " + quoted(character));
    return false;
  }
  for (const char c : character) out.push(byte_ids_[static_cast<unsigned char>(c)]);
  return true;
}

// Merges the pair of the lowest rank, the leftmost of equals, until there is none; then moves the word to the ids.
void Bpe::merge_word(Encoding& out) const {
  std::vector<Symbol>& word = out.word;
  const auto size = static_cast<int32_t>(word.size());
  const auto candidate = [&](int32_t at) {
    if (at < 0 || word[at].next >= size) return false;
    const Merge* merge = find_merge(word[at].id, word[word[at].next].id);
    if (merge == nullptr) return false;
    out.heap.push_back({(static_cast<uint64_t>(merge->rank) << 32) | static_cast<uint32_t>(at), merge->id});
    return true;
  };
  for (int32_t at = 0; at < size; ++at) {
    candidate(at);
    out.step();
  }
  const auto later = [](const Encoding::Candidate& a, const Encoding::Candidate& b) { return a.order > b.order; };
  std::ranges::make_heap(out.heap, later);
  while (!out.heap.empty()) {
    out.step();
    std::ranges::pop_heap(out.heap, later);
    const auto [order, id] = out.heap.back();
    out.heap.pop_back();
    const auto place = static_cast<int32_t>(order & 0xFFFFFFFFu);
    Symbol& left = word[place];
    if (left.id < 0 || left.next >= size) continue;
    Symbol& right = word[left.next];
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != id) continue;  // one of the two has changed since
    left.id = id;
    right.id = -1;
    left.next = right.next;
    if (left.next < size) word[left.next].previous = place;
    for (const int32_t at : {left.previous, place}) {
      if (candidate(at)) std::ranges::push_heap(out.heap, later);
    }
  }
  for (const Symbol& symbol : word) {
    if (symbol.id >= 0) out.ids.push_back(symbol.id);
  }
  word.clear();
}

// -- decoding --------------------------------------------------------------------------------------------------------

std::string Bpe::decode(std::span<const int32_t> ids) const {
  std::string text, bytes;
  const auto spelled = [&] {  // all bytes in a row are UTF-8, or each of them is replaced
    if (is_utf8(bytes)) {
      text += bytes;
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) text += kReplacement;
    }
    bytes.clear();
  };
  for (const int32_t id : ids) {
    const std::string_view piece = token(id);
    if (piece.empty()) continue;
    const int byte = byte_of(piece);
    if (byte >= 0) {
      bytes += static_cast<char>(byte);
      continue;
    }
    spelled();
    size_t from = 0;
    for (size_t at = piece.find(kSpace); at != std::string_view::npos; at = piece.find(kSpace, from)) {
      text.append(piece.substr(from, at - from)).append(1, ' ');
      from = at + kSpace.size();
    }
    text += piece.substr(from);
  }
  spelled();
  return text;
}

}  // namespace gemma4
