// Byte-pair encoding as Gemma's tokenizers do it: spaces are `▁`, a text is one word, characters that the vocabulary
// lacks are spelled in bytes, added tokens are cut out first. Exactly what Hugging Face's `tokenizers` computes for
// that form. Knows: strings and merges. Must not know: files, chat templates, the model.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/interrupt.h"
#include "text/strings.h"

namespace gemma4 {

// Found in a text before it is encoded, the longest at the leftmost place first. A control token that a text spells is
// found, and left as text.
struct AddedToken {
  std::string text;
  int32_t id;
  bool control;
};

struct BpeForm {
  std::shared_ptr<const Strings> tokens;  // by id; an empty one is no token
  const Strings& merges;                  // "left right", those that come first go first
  std::vector<AddedToken> added;          // those that `tokens` lacks have the ids behind it, in order
  // What errors call the three, such as "x.gguf: tokenizer.ggml.tokens".
  std::string tokens_name, merges_name, added_name;
};

// Constant once made: safe to use from many threads.
class Bpe {
 public:
  // Throws kModelFile where a token appears twice, or a merge or an added token does not fit the vocabulary.
  explicit Bpe(BpeForm form);

  // Ids of UTF-8. O(n log n) in the worst case, linear where words are short.
  std::vector<int32_t> encode(std::string_view text, Interrupt& interrupt) const;
  // Bytes that are no UTF-8 become U+FFFD each, with those beside them. Ids without a token are left out.
  std::string decode(std::span<const int32_t> ids) const;

  // -1 where there is none.
  int32_t find(std::string_view token) const;
  // As it is written in the vocabulary; empty where there is none.
  std::string_view token(int32_t id) const;
  // The byte that an id stands for, or -1.
  int byte(int32_t id) const;
  // One more than the largest id.
  int32_t size() const { return size_; }

 private:
  // Open addressing, two thirds full; an id of -1 is an empty place.
  struct TokenSlot {
    uint32_t tag = 0;  // low bits of the hash, so that few other tokens are looked at
    int32_t id = -1;
  };
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  // As it is read, before all are ordered.
  struct Pair {
    int32_t left, right;
    Merge merge;
  };
  struct Symbol;
  struct Encoding;

  void add_tokens(const std::string& name);
  void add_merges(const Strings& merges, const std::string& name);
  void order_merges(const std::vector<Pair>& pairs);
  void add_added(const std::string& name);
  void find_crossings();

  template <class Same>
  int32_t find_hashed(uint64_t hash, Same same) const;
  int32_t find_plain(std::string_view token) const;
  const Merge* find_merge(int32_t left, int32_t right) const;
  const AddedToken* added_at(std::string_view text, size_t at) const;

  void encode_span(std::string_view text, Encoding& out) const;
  bool spell(std::string_view character, Encoding& out) const;
  void merge_word(Encoding& out) const;

  const uint64_t seed_;  // of the hashes, so that no file can be made whose tokens collide
  std::shared_ptr<const Strings> tokens_;
  std::vector<AddedToken> added_;                                // sorted by text
  std::array<std::pair<uint32_t, uint32_t>, 256> added_from_{};  // [begin, end) of those that begin with a byte
  std::vector<uint32_t> extra_;                                  // in `added_`: those that `tokens` lacks, by id
  int32_t size_ = 0;
  std::vector<TokenSlot> slots_;
  // By left id, then by right id, then by rank: half of what a hash table of them would take.
  std::vector<Merge> merges_;
  std::vector<int32_t> rights_;         // (merges): the right id of each
  std::vector<uint32_t> merges_from_;   // (tokens + 1): where those of a left id begin
  std::array<int32_t, 256> byte_ids_;   // of <0x00> to <0xFF>
  std::array<int32_t, 128> ascii_ids_;  // of characters; that of the space is `space_`
  int32_t space_ = -1;                  // of ▁
  int32_t unknown_ = -1;                // of <unk>
  std::array<bool, 256> crosses_{};     // whether a token has this byte right before a ▁
};

}  // namespace gemma4
