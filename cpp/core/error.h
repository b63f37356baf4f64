// Errors of the engine. Knows: a kind and a sentence. Must not know: Python.
// Each kind maps onto one Python exception class in cpp/bindings.
#pragma once

#include <stdexcept>
#include <string>

namespace gemma4 {

enum class ErrorKind { kModelFile, kModelFileChanged, kRequest, kContextLength, kMedia, kCancelled };

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

[[noreturn]] inline void fail(ErrorKind kind, const std::string& message) { throw Error(kind, message); }

inline void require(bool ok, ErrorKind kind, const std::string& message) {
  if (!ok) fail(kind, message);
}

}  // namespace gemma4
