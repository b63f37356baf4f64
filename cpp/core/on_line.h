// Working memory on a cache line, kept between calls. Knows: vectors. Must not know: what is in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gemma4 {

// n elements of `kept` from a cache line on: a vector load that crosses two lines takes twice as long.
template <class T>
T* on_line(std::vector<T>& kept, size_t n) {
  constexpr size_t kLine = 64 / sizeof(T);
  if (kept.size() < n + kLine) kept.resize(n + kLine);
  const size_t off = reinterpret_cast<uintptr_t>(kept.data()) / sizeof(T) % kLine;
  return kept.data() + (kLine - off) % kLine;
}

}  // namespace gemma4
