// Working memory on cache lines. Knows: memory. Must not know: what is in it.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

namespace gemma4 {

// Elements from a cache line on: a vector that crosses two lines is loaded and stored half as fast. They begin as what
// the memory held, so a part that is never written never becomes resident.
template <class T>
class Lines {
  static_assert(std::is_trivially_copyable_v<T>);
  static constexpr std::align_val_t kLine{64};

 public:
  Lines() = default;
  // Throws std::bad_alloc.
  explicit Lines(size_t n) : data_(allocate(n)), size_(n) {}

  // n elements, kept between calls; where there were fewer, what they were is lost.
  T* room(size_t n) {
    if (n > size_) {
      data_.reset();
      size_ = 0;  // if there is no memory for more
      data_.reset(allocate(n));
      size_ = n;
    }
    return data();
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kLine); }
  };
  static T* allocate(size_t n) {
    if (n > std::numeric_limits<size_t>::max() / sizeof(T)) throw std::bad_array_new_length();
    return n == 0 ? nullptr : static_cast<T*>(::operator new(n * sizeof(T), kLine));
  }

  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace gemma4
