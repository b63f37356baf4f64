#include "text/vocabulary_json.h"

#include <cstdint>

#include "text/utf8.h"

namespace gemma4 {
namespace {

constexpr uint32_t kMostIds = 1u << 24;

// A position in the document. What returns bool returns false where the document has something else there.
class Scanner {
 public:
  explicit Scanner(std::string_view json) : json_(json) {}

  size_t at() const { return at_; }

  // Steps over white space and then over `c`, if it is there.
  bool take(char c) {
    blanks();
    if (at_ == json_.size() || json_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool sees(char c) {
    blanks();
    return at_ < json_.size() && json_[at_] == c;
  }

  // A string; the view is on the document, or on a buffer that the next string overwrites.
  bool string(std::string_view& out) {
    if (!take('"')) return false;
    const size_t begin = at_;
    while (at_ < json_.size() && json_[at_] != '"' && json_[at_] != '\\') {
      if (static_cast<unsigned char>(json_[at_++]) < 0x20) return false;
    }
    if (at_ == json_.size()) return false;
    out = json_.substr(begin, at_ - begin);
    if (json_[at_] == '\\') {
      buffer_ = out;
      if (!escaped()) return false;
      out = buffer_;
    } else {
      ++at_;
    }
    return is_utf8(out);
  }

  bool integer(uint32_t& out) {
    blanks();
    const size_t begin = at_;
    out = 0;
    for (; at_ < json_.size() && json_[at_] >= '0' && json_[at_] <= '9'; ++at_) {
      out = out * 10 + static_cast<uint32_t>(json_[at_] - '0');
      if (out >= kMostIds) return false;
    }
    return at_ > begin && (json_[begin] != '0' || at_ - begin <= 1);
  }

  // Steps over any value, to the comma or bracket behind it.
  bool skip() {
    size_t depth = 0;
    for (; at_ < json_.size(); ++at_) {
      const char c = json_[at_];
      if (c == '"') {
        if (!skip_string()) return false;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (c == '}' || c == ']' || c == ',') {
        if (depth == 0) return true;
        if (c != ',') --depth;
      }
    }
    return false;
  }

 private:
  void blanks() {
    while (at_ < json_.size() &&
           (json_[at_] == ' ' || json_[at_] == '\n' || json_[at_] == '\r' || json_[at_] == '\t')) {
      ++at_;
    }
  }

  // From the opening quote to the closing one, which the caller steps over.
  bool skip_string() {
    for (++at_; at_ < json_.size() && json_[at_] != '"'; ++at_) {
      if (json_[at_] == '\\') ++at_;
    }
    return at_ < json_.size();
  }

  // The rest of a string from its first backslash on, appended to the buffer.
  bool escaped() {
    while (at_ < json_.size()) {
      const char c = json_[at_++];
      if (c == '"') return true;
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c != '\\') {
        buffer_ += c;
        continue;
      }
      if (at_ == json_.size()) return false;
      constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
      const char name = json_[at_++];
      const size_t index = kNames.find(name);
      if (index != std::string_view::npos) {
        buffer_ += kMeanings[index];
      } else if (name != 'u' || !code_point()) {
        return false;
      }
    }
    return false;
  }

  // What stands behind "\u", with the second half of a surrogate pair.
  bool code_point() {
    uint32_t code, low;
    if (!hex(code)) return false;
    if (code >= 0xD800 && code < 0xE000) {
      if (code >= 0xDC00 || json_.substr(at_, 2) != "\\u") return false;
      at_ += 2;
      if (!hex(low) || low < 0xDC00 || low >= 0xE000) return false;
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(buffer_, code);
    return true;
  }

  bool hex(uint32_t& out) {
    if (json_.size() - at_ < 4) return false;
    out = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = json_[at_++];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return false;
      out = out * 16 + static_cast<uint32_t>(digit);
    }
    return true;
  }

  std::string_view json_;
  size_t at_ = 0;
  std::string buffer_;
};

// {"text": id, …}
bool read_tokens(Scanner& scan, Strings& tokens) {
  if (!scan.take('{')) return false;
  if (scan.take('}')) return true;
  do {
    std::string_view text;
    uint32_t id;
    if (!scan.string(text) || text.empty() || !scan.take(':') || !scan.integer(id)) return false;
    if (id < tokens.size() && !tokens[id].empty()) return false;
    tokens.put(id, text);
  } while (scan.take(','));
  return scan.take('}');
}

// [["left", "right"], …], or ["left right", …] as older files have it
bool read_merges(Scanner& scan, Strings& merges) {
  if (!scan.take('[')) return false;
  if (scan.take(']')) return true;
  std::string pair;
  do {
    const bool apart = scan.take('[');
    std::string_view text;
    if (!scan.string(text)) return false;
    pair = text;
    if (apart) {
      if (!scan.take(',') || !scan.string(text) || !scan.take(']')) return false;
      pair.append(1, ' ').append(text);
    }
    // One space, with text on both sides.
    const size_t cut = pair.find(' ');
    if (cut == 0 || cut >= pair.size() - 1 || pair.find(' ', cut + 1) != std::string::npos) return false;
    merges.push(pair);
  } while (scan.take(','));
  return scan.take(']');
}

class Cutter {
 public:
  explicit Cutter(std::string_view json) : json_(json), scan_(json) {}

  std::optional<CutVocabulary> cut() {
    if (!members([this](std::string_view key) { return key == "model" && scan_.sees('{') ? model() : scan_.skip(); }) ||
        !tokens_ || !merges_) {
      return std::nullopt;
    }
    out_.rest += json_.substr(copied_);
    return std::move(out_);
  }

 private:
  // The members of an object; `value` reads each one's value.
  template <class Value>
  bool members(Value value) {
    if (!scan_.take('{')) return false;
    if (scan_.take('}')) return true;
    do {
      std::string_view key;
      if (!scan_.string(key) || !scan_.take(':') || !value(key)) return false;
    } while (scan_.take(','));
    return scan_.take('}');
  }

  bool model() {
    return members([this](std::string_view key) {
      if (key == "vocab" && !tokens_) return tokens_ = part([this] { return read_tokens(scan_, out_.tokens); });
      if (key == "merges" && !merges_) return merges_ = part([this] { return read_merges(scan_, out_.merges); });
      return scan_.skip();
    });
  }

  template <class Read>
  bool part(Read read) {
    out_.rest += json_.substr(copied_, scan_.at() - copied_);
    out_.rest += "null";
    const bool ok = read();
    copied_ = scan_.at();
    return ok;
  }

  std::string_view json_;
  Scanner scan_;
  CutVocabulary out_;
  size_t copied_ = 0;  // bytes of the document that `rest` has or leaves out
  bool tokens_ = false, merges_ = false;
};

}  // namespace

std::optional<CutVocabulary> cut_vocabulary(std::string_view json) { return Cutter(json).cut(); }

}  // namespace gemma4
