#include "text/strings.h"

#include <cstring>
#include <limits>

#include "core/error.h"
#include "text/utf8.h"

namespace gemma4 {
namespace {

// The bytes of the string that begins at `at`, which is moved behind it; nothing if they are not all there.
std::optional<std::string_view> next(std::string_view data, size_t& at) {
  uint64_t length;
  if (data.size() - at < sizeof(length)) return std::nullopt;
  std::memcpy(&length, data.data() + at, sizeof(length));
  if (length > data.size() - at - sizeof(length)) return std::nullopt;
  const std::string_view text = data.substr(at + sizeof(length), length);
  at += sizeof(length) + length;
  return text;
}

}  // namespace

std::optional<Strings> Strings::read(std::string_view data, size_t& at, size_t count) {
  if (at > data.size() || count > (data.size() - at) / sizeof(uint64_t)) return std::nullopt;
  size_t end = at;
  for (size_t i = 0; i < count; ++i) {
    if (!next(data, end)) return std::nullopt;
  }
  Strings strings;
  strings.spans_.reserve(count);
  strings.bytes_.reserve(end - at - count * sizeof(uint64_t));
  while (at < end) {
    const std::string_view text = *next(data, at);
    if (!is_utf8(text)) return std::nullopt;
    strings.push(text);
  }
  return strings;
}

bool Strings::operator==(const Strings& other) const {
  if (size() != other.size()) return false;
  for (size_t i = 0; i < size(); ++i) {
    if ((*this)[i] != other[i]) return false;
  }
  return true;
}

Strings::Span Strings::keep(std::string_view text) {
  require(text.size() <= std::numeric_limits<uint32_t>::max() - bytes_.size(), ErrorKind::kModelFile,
          "more than 4 GB of strings");
  const Span span{static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(text.size())};
  bytes_ += text;
  return span;
}

void Strings::push(std::string_view text) { spans_.push_back(keep(text)); }

void Strings::put(size_t i, std::string_view text) {
  if (i >= spans_.size()) spans_.resize(i + 1);
  spans_[i] = keep(text);
}

Strings Strings::without(std::span<const int32_t> places) const {
  Strings copy = *this;
  for (const int32_t place : places) {
    if (place >= 0 && static_cast<size_t>(place) < size()) copy.spans_[place] = {};
  }
  return copy;
}

}  // namespace gemma4
