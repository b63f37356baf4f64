// Very many short strings in one block of memory. Knows: UTF-8, how GGUF stores strings. Must not know: what they mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gemma4 {

class Strings {
 public:
  // `count` strings as GGUF has them, each a 64-bit length and as many bytes of UTF-8, from byte `at` of `data`; `at`
  // is then the byte behind them. Nothing if they are not all there or one is not UTF-8.
  static std::optional<Strings> read(std::string_view data, size_t& at, size_t count);

  size_t size() const { return spans_.size(); }
  std::string_view operator[](size_t i) const { return {bytes_.data() + spans_[i].begin, spans_[i].size}; }
  bool operator==(const Strings& other) const;
  // Hints, in this order, that a string is about to be read, so that reading many at random does not wait for each.
  void expect(size_t i) const { __builtin_prefetch(&spans_[i]); }
  void expect_bytes(size_t i) const { __builtin_prefetch(bytes_.data() + spans_[i].begin); }

  void push(std::string_view text);
  // The string at `i`; those that are missing before it become empty ones.
  void put(size_t i, std::string_view text);
  // The same with empty strings at these places; those beyond the end are ignored.
  Strings without(std::span<const int32_t> places) const;

 private:
  struct Span {
    uint32_t begin = 0;
    uint32_t size = 0;
  };
  Span keep(std::string_view text);

  std::string bytes_;
  std::vector<Span> spans_;
};

}  // namespace gemma4
