// The two large parts of a tokenizer.json, so that what reads JSON in general sees a few kilobytes instead of 30 MB.
// Knows: JSON, `model.vocab` and `model.merges`. Must not know: what the other fields mean, how text is encoded.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/strings.h"

namespace gemma4 {

struct CutVocabulary {
  std::string rest;  // the document with `null` for both parts
  Strings tokens;    // by id; empty where there is none
  Strings merges;    // "left right", in the order of the file
};

// Nothing where the document is not JSON or the parts are not plain: an id twice or beyond 2^24, an empty token, a
// merge of tokens that hold spaces. Outside the parts only strings and brackets are understood; the caller checks
// `rest`.
std::optional<CutVocabulary> cut_vocabulary(std::string_view json);

}  // namespace gemma4
