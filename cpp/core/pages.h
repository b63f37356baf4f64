// Large memory straight from the system, zeroed. Knows: pages. Must not know: what is in them.
// Pages that nobody writes cost nothing, and all go back at the end. Memory that malloc has in stock does neither: what
// a sequence before has written stays resident, and calloc clears it, and so touches all of it. From 4 MiB on the
// system is asked for huge pages.
#pragma once

#include <cstddef>
#include <utility>

namespace gemma4 {

class Pages {
 public:
  Pages() = default;
  // Throws std::bad_alloc. Nothing is mapped for 0 bytes.
  explicit Pages(size_t bytes);
  ~Pages();
  Pages(Pages&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  // Begins on a page, so on a cache line.
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace gemma4
