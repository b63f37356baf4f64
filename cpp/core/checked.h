// Overflow-checked size arithmetic: every size that comes from a file or a request goes through here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"

namespace gemma4 {

inline size_t checked_mul(size_t a, size_t b, const std::string& what) {
  size_t out;
  if (__builtin_mul_overflow(a, b, &out)) fail(ErrorKind::kModelFile, what + ": size overflows");
  return out;
}

inline size_t checked_add(size_t a, size_t b, const std::string& what) {
  size_t out;
  if (__builtin_add_overflow(a, b, &out)) fail(ErrorKind::kModelFile, what + ": size overflows");
  return out;
}

}  // namespace gemma4
