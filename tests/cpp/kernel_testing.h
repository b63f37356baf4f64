// What tests of kernels share: memory that ends at an unreadable page, random rows, and the element that is worst.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "kernels/isa.h"

namespace gemma4 {

inline constexpr double kU = 0x1p-24;  // the rounding of one f32 operation
inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr size_t kSizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 257};

// Bytes whose end is `gap` bytes before a page that cannot be touched.
template <class Byte = char>
class Guarded {
 public:
  explicit Guarded(size_t bytes, size_t gap = 0) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    total_ = (bytes + gap + page - 1) / page * page + page;
    base_ = static_cast<Byte*>(mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + total_ - page, page, PROT_NONE) != 0) throw std::bad_alloc();
    data_ = base_ + total_ - page - gap - bytes;
  }
  ~Guarded() { munmap(base_, total_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  Byte* data() const { return data_; }

 private:
  size_t total_;
  Byte* base_;
  Byte* data_;
};

// A row of floats that ends at the unreadable page.
class Row {
 public:
  explicit Row(size_t n) : bytes_(n * 4), n_(n) {}
  explicit Row(const std::vector<float>& v) : Row(v.size()) { std::copy(v.begin(), v.end(), data()); }
  float* data() const { return reinterpret_cast<float*>(bytes_.data()); }
  float& operator[](size_t i) const { return data()[i]; }
  size_t size() const { return n_; }

 private:
  Guarded<> bytes_;
  size_t n_;
};

inline std::vector<float> random_floats(size_t n, uint32_t seed, float low = -2.0f, float high = 2.0f) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> v(n);
  for (float& f : v) f = uniform(rng);
  return v;
}

inline std::vector<float> normal_floats(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& f : v) f = normal(rng);
  return v;
}

// The element that exceeds its tolerance by the largest factor must not exceed it.
class Worst {
 public:
  void check(double got, double want, double tolerance, size_t index) {
    double error = std::abs(got - want);
    double ratio = got == want || (std::isnan(got) && std::isnan(want)) ? 0.0 : error / tolerance;
    if (std::isnan(ratio)) ratio = std::numeric_limits<double>::infinity();
    if (ratio < ratio_) return;
    ratio_ = ratio, got_ = got, want_ = want, index_ = index;
  }
  void expect(const std::string& what) const {
    EXPECT_LE(ratio_, 1.0) << what << ": worst at index " << index_ << ": got " << got_ << ", want " << want_;
  }
  double ratio() const { return ratio_; }

 private:
  double ratio_ = -1.0, got_ = 0.0, want_ = 0.0;
  size_t index_ = 0;
};

// Once for each instruction set of this machine.
class KernelsTest : public testing::TestWithParam<const Isa*> {
 protected:
  const Isa& isa = *GetParam();
  const Kernels& k = isa.k;
};

}  // namespace gemma4
