// Every kernel on every instruction set of this machine against double precision.
// Tolerances are derived, not tuned: u = 2^-24 is the rounding of one f32 operation, and each comment counts roundings.
// Weights and rows end at an unreadable page, so that one element read or written too far kills the test.
#include "kernels/kernels.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "half.h"

namespace gemma4 {
namespace {

constexpr double kU = 0x1p-24;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
const size_t kSizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 257};
const size_t kBatches[] = {1, 2, 3, 4, 5, 8};
const DType kAllFormats[] = {DType::kF32, DType::kF16, DType::kBF16};

// Bytes whose end is `gap` bytes before a page that cannot be touched.
class Guarded {
 public:
  explicit Guarded(size_t bytes, size_t gap = 0) {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    total_ = (bytes + gap + page - 1) / page * page + page;
    base_ = static_cast<char*>(mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + total_ - page, page, PROT_NONE) != 0) throw std::bad_alloc();
    data_ = base_ + total_ - page - gap - bytes;
  }
  ~Guarded() { munmap(base_, total_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  char* data() const { return data_; }

 private:
  size_t total_;
  char* base_;
  char* data_;
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
  Guarded bytes_;
  size_t n_;
};

std::vector<float> random_floats(size_t n, uint32_t seed, float low = -2.0f, float high = 2.0f) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> v(n);
  for (float& f : v) f = uniform(rng);
  return v;
}

// The codec of the test is the compiler's own conversion, not the library's.
uint16_t half_bits(float f) { return std::bit_cast<uint16_t>(static_cast<Half>(f)); }
float half_value(uint16_t h) { return static_cast<float>(std::bit_cast<Half>(h)); }

void encode(DType t, float f, char* p) {
  uint16_t h = t == DType::kF16 ? half_bits(f) : f32_to_bf16(f);
  if (t == DType::kF32) {
    std::memcpy(p, &f, 4);
  } else {
    std::memcpy(p, &h, 2);
  }
}

float decode(DType t, const char* p) {
  float f;
  uint16_t h;
  if (t == DType::kF32) {
    std::memcpy(&f, p, 4);
    return f;
  }
  std::memcpy(&h, p, 2);
  return t == DType::kF16 ? half_value(h) : std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

// Random weights of one format with a stride longer than the row; `gap` of 1 leaves every element misaligned.
struct Matrix {
  DType dtype;
  size_t rows, cols, element, stride;
  Guarded bytes;

  Matrix(DType t, size_t r, size_t k, size_t padding, size_t gap, uint32_t seed)
      : dtype(t),
        rows(r),
        cols(k),
        element(traits(t).block_bytes),
        stride(row_bytes(t, k) + padding),
        bytes((r - 1) * stride + row_bytes(t, k), gap) {
    std::vector<float> v = random_floats(r * k, seed);
    for (size_t i = 0; i < r; ++i)
      for (size_t c = 0; c < k; ++c) encode(t, v[i * k + c], at(i, c));
  }
  char* at(size_t r, size_t c) const { return bytes.data() + r * stride + c * element; }
  double value(size_t r, size_t c) const { return decode(dtype, at(r, c)); }
};

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

std::string describe(const Kernels& k, DType t, size_t rows, size_t cols, size_t m) {
  return std::string(k.name) + " " + std::string(traits(t).name) + " rows=" + std::to_string(rows) +
         " k=" + std::to_string(cols) + " m=" + std::to_string(m);
}

class KernelsTest : public testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& k = *GetParam();
};

INSTANTIATE_TEST_SUITE_P(Isa, KernelsTest, testing::ValuesIn(supported_kernels()),
                         [](const auto& info) { return std::string(info.param->name); });

// --- storage formats -------------------------------------------------------------------------------------------------

TEST_P(KernelsTest, ToF32IsExactForEveryBitPattern) {
  for (DType t : {DType::kF16, DType::kBF16}) {
    for (size_t gap : {0, 1}) {
      Guarded src(65536 * 2, gap);
      for (uint32_t h = 0; h < 65536; ++h) std::memcpy(src.data() + h * 2, &h, 2);
      Row dst(65536);
      k.of(t).to_f32(src.data(), dst.data(), dst.size());
      for (uint32_t h = 0; h < 65536; ++h) {
        float want = decode(t, src.data() + h * 2);
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(dst[h])) << traits(t).name << " " << h;
        } else {
          ASSERT_EQ(std::bit_cast<uint32_t>(dst[h]), std::bit_cast<uint32_t>(want)) << traits(t).name << " " << h;
        }
      }
    }
  }
}

TEST_P(KernelsTest, FromF32InvertsToF32) {
  for (DType t : {DType::kF16, DType::kBF16}) {
    Row values(65536);
    for (uint32_t h = 0; h < 65536; ++h) values[h] = decode(t, reinterpret_cast<const char*>(&h));
    Guarded back(65536 * 2, 1);
    k.of(t).from_f32(values.data(), back.data(), 65536);
    for (uint32_t h = 0; h < 65536; ++h) {
      uint16_t got;
      std::memcpy(&got, back.data() + h * 2, 2);
      if (std::isnan(values[h])) {
        ASSERT_TRUE(std::isnan(decode(t, back.data() + h * 2))) << traits(t).name << " " << h;
      } else {
        ASSERT_EQ(got, h) << traits(t).name;
      }
    }
  }
}

// Between every two neighbours: the midpoint goes to the even one, a hair beside it to the nearer one.
TEST_P(KernelsTest, FromF32RoundsToNearestEven) {
  for (DType t : {DType::kF16, DType::kBF16}) {
    uint32_t infinity = t == DType::kF16 ? 0x7c00 : 0x7f80;
    std::vector<float> values;
    std::vector<uint16_t> want;
    for (uint32_t h = 0; h < infinity; ++h) {
      uint32_t next = h + 1;
      double low = decode(t, reinterpret_cast<const char*>(&h));
      // The format's next value beyond its largest finite one decides where infinity begins.
      double high =
          next < infinity ? decode(t, reinterpret_cast<const char*>(&next)) : (t == DType::kF16 ? 65536.0 : 0x1p128);
      float middle = static_cast<float>((low + high) / 2);
      ASSERT_EQ(middle, (low + high) / 2);
      uint16_t even = static_cast<uint16_t>(h % 2 ? next : h);
      for (uint16_t sign : {0, 0x8000}) {
        float s = sign ? -1.0f : 1.0f;
        values.insert(values.end(), {s * middle, s * std::nextafter(middle, 0.0f), s * std::nextafter(middle, kInf)});
        want.insert(want.end(), {static_cast<uint16_t>(even | sign), static_cast<uint16_t>(h | sign),
                                 static_cast<uint16_t>(next | sign)});
      }
    }
    Row src(values);
    Guarded dst(values.size() * 2);
    k.of(t).from_f32(src.data(), dst.data(), values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t got;
      std::memcpy(&got, dst.data() + i * 2, 2);
      ASSERT_EQ(got, want[i]) << traits(t).name << " of " << values[i];
    }
  }
}

TEST_P(KernelsTest, FromF32OfSpecialValues) {
  for (DType t : kAllFormats) {
    Row src({0.0f, -0.0f, kInf, -kInf, kNaN, std::bit_cast<float>(0x7f800001u), std::bit_cast<float>(0xffffffffu),
             std::numeric_limits<float>::max(), 1e-45f});
    size_t element = traits(t).block_bytes;
    Guarded dst(src.size() * element, 1);
    k.of(t).from_f32(src.data(), dst.data(), src.size());
    auto out = [&](size_t i) { return decode(t, dst.data() + i * element); };
    EXPECT_EQ(std::bit_cast<uint32_t>(out(0)), 0u);
    EXPECT_EQ(std::bit_cast<uint32_t>(out(1)), 0x80000000u);
    EXPECT_EQ(out(2), kInf);
    EXPECT_EQ(out(3), -kInf);
    for (size_t i : {4, 5, 6}) EXPECT_TRUE(std::isnan(out(i))) << traits(t).name << " " << i;
    EXPECT_EQ(out(7), t == DType::kF32 ? std::numeric_limits<float>::max() : kInf);
    EXPECT_EQ(out(8), t == DType::kF32 ? 1e-45f : 0.0f);
  }
}

TEST_P(KernelsTest, ConversionsOfEverySizeTouchNothingElse) {
  for (DType t : kAllFormats) {
    for (size_t n : kSizes) {
      Matrix w(t, 1, n, 0, 1, 5);
      Row values(n);
      k.of(t).to_f32(w.at(0, 0), values.data(), n);
      for (size_t i = 0; i < n; ++i) ASSERT_EQ(values[i], decode(t, w.at(0, i))) << traits(t).name << " n=" << n;
      Guarded back(row_bytes(t, n) + 8);
      std::memset(back.data(), 0x5a, row_bytes(t, n) + 8);
      k.of(t).from_f32(values.data(), back.data(), n);
      EXPECT_EQ(std::memcmp(back.data(), w.at(0, 0), row_bytes(t, n)), 0);
      for (size_t i = 0; i < 8; ++i) EXPECT_EQ(back.data()[row_bytes(t, n) + i], 0x5a);
    }
  }
}

// --- rows_dot, rows_axpy ---------------------------------------------------------------------------------------------

TEST_P(KernelsTest, RowsDotMatchesDouble) {
  for (DType t : kAllFormats) {
    for (size_t cols : kSizes) {
      for (size_t m : kBatches) {
        for (size_t rows : {1, 3, 4, 9}) {
          Matrix w(t, rows, cols, 6, cols % 2, 1);
          size_t ldx = cols + 3, ldy = rows + 2;
          Row x(random_floats((m - 1) * ldx + cols, 2));
          Row y(std::vector<float>((m - 1) * ldy + rows, 12345.0f));
          k.of(t).rows_dot(w.at(0, 0), w.stride, rows, cols, x.data(), ldx, m, y.data(), ldy);
          Worst worst;
          for (size_t j = 0; j < m; ++j) {
            for (size_t r = 0; r < rows; ++r) {
              double sum = 0, magnitude = 0;
              for (size_t i = 0; i < cols; ++i) {
                double product = w.value(r, i) * x[j * ldx + i];
                sum += product, magnitude += std::abs(product);
              }
              // A term is rounded once as a product, once for each addition in its lane (four lanes at least), and
              // in at most four additions across lanes.
              worst.check(y[j * ldy + r], sum, (cols / 4.0 + 6) * kU * magnitude, j * ldy + r);
            }
            if (j + 1 < m) {
              for (size_t r = rows; r < ldy; ++r) ASSERT_EQ(y[j * ldy + r], 12345.0f);
            }
          }
          worst.expect("rows_dot " + describe(k, t, rows, cols, m));
        }
      }
    }
  }
}

// Decoding a token and prefilling it in a batch give the same bits, and so does any split of the rows.
TEST_P(KernelsTest, RowsDotDoesNotDependOnTheBatchOrTheSplit) {
  constexpr size_t kRows = 11, kCols = 133, kM = 8;
  for (DType t : kAllFormats) {
    Matrix w(t, kRows, kCols, 0, 0, 3);
    Row x(random_floats(kM * kCols, 4));
    Row all(kM * kRows), one(1);
    k.of(t).rows_dot(w.at(0, 0), w.stride, kRows, kCols, x.data(), kCols, kM, all.data(), kRows);
    for (size_t j = 0; j < kM; ++j) {
      for (size_t r = 0; r < kRows; ++r) {
        k.of(t).rows_dot(w.at(r, 0), w.stride, 1, kCols, x.data() + j * kCols, kCols, 1, one.data(), 1);
        ASSERT_EQ(one[0], all[j * kRows + r]) << describe(k, t, r, kCols, j);
      }
    }
  }
}

TEST_P(KernelsTest, RowsAxpyMatchesDouble) {
  for (DType t : kAllFormats) {
    for (size_t cols : kSizes) {
      for (size_t m : kBatches) {
        for (size_t rows : {1, 3, 4, 9}) {
          Matrix w(t, rows, cols, 10, cols % 2, 6);
          size_t ldp = rows + 1, ldy = cols + 5;
          Row p(random_floats((m - 1) * ldp + rows, 7));
          std::vector<float> before = random_floats((m - 1) * ldy + cols, 8);
          Row y(before);
          k.of(t).rows_axpy(w.at(0, 0), w.stride, rows, cols, p.data(), ldp, m, y.data(), ldy);
          Worst worst;
          for (size_t j = 0; j < m; ++j) {
            for (size_t i = 0; i < cols; ++i) {
              double sum = before[j * ldy + i], magnitude = std::abs(sum);
              for (size_t r = 0; r < rows; ++r) {
                double product = p[j * ldp + r] * w.value(r, i);
                sum += product, magnitude += std::abs(product);
              }
              // One rounding for the product, one for each row added.
              worst.check(y[j * ldy + i], sum, (rows + 1) * kU * magnitude, j * ldy + i);
            }
            if (j + 1 < m) {
              for (size_t i = cols; i < ldy; ++i) ASSERT_EQ(y[j * ldy + i], before[j * ldy + i]);
            }
          }
          worst.expect("rows_axpy " + describe(k, t, rows, cols, m));
        }
      }
    }
  }
}

TEST_P(KernelsTest, RowsAxpyDoesNotDependOnTheBatchOrTheSplit) {
  constexpr size_t kRows = 11, kCols = 133, kM = 7;
  for (DType t : kAllFormats) {
    Matrix w(t, kRows, kCols, 0, 0, 3);
    Row p(random_floats(kM * kRows, 4));
    Row all(std::vector<float>(kM * kCols, 0.0f));
    k.of(t).rows_axpy(w.at(0, 0), w.stride, kRows, kCols, p.data(), kRows, kM, all.data(), kCols);
    for (size_t j = 0; j < kM; ++j) {
      Row one(std::vector<float>(kCols, 0.0f));
      for (size_t r = 0; r < kRows; ++r)
        k.of(t).rows_axpy(w.at(r, 0), w.stride, 1, kCols, p.data() + j * kRows + r, kRows, 1, one.data(), kCols);
      for (size_t i = 0; i < kCols; ++i) ASSERT_EQ(one[i], all[j * kCols + i]) << describe(k, t, 11, i, j);
    }
  }
}

TEST_P(KernelsTest, NothingToDo) {
  float y[2] = {1.0f, 2.0f};
  for (DType t : kAllFormats) {
    k.of(t).rows_dot(nullptr, 0, 0, 8, nullptr, 0, 1, nullptr, 0);
    k.of(t).rows_dot(nullptr, 0, 2, 0, nullptr, 0, 1, y, 2);
    EXPECT_EQ(y[0], 0.0f);
    EXPECT_EQ(y[1], 0.0f);
    k.of(t).rows_axpy(nullptr, 0, 0, 8, nullptr, 0, 1, nullptr, 0);
    k.of(t).to_f32(nullptr, nullptr, 0);
    k.of(t).from_f32(nullptr, nullptr, 0);
  }
  EXPECT_EQ(k.exp_sum(nullptr, 0, 0.0f), 0.0f);
  EXPECT_EQ(k.max(nullptr, 0), -kInf);
}

// A bad weight must show in the logits, wherever in the row it is.
TEST_P(KernelsTest, NaNAndInfinityReachTheResult) {
  for (DType t : kAllFormats) {
    for (size_t cols : {1, 17, 33, 100}) {
      for (size_t bad = 0; bad < cols; ++bad) {
        Matrix w(t, 5, cols, 0, 0, 9);
        encode(t, kNaN, w.at(2, bad));
        encode(t, kInf, w.at(4, bad));
        Row x(std::vector<float>(cols, 1.0f)), y(5);
        k.of(t).rows_dot(w.at(0, 0), w.stride, 5, cols, x.data(), cols, 1, y.data(), 5);
        ASSERT_TRUE(std::isfinite(y[0]) && std::isfinite(y[1]) && std::isfinite(y[3]));
        ASSERT_TRUE(std::isnan(y[2])) << describe(k, t, 5, cols, 1) << " bad=" << bad;
        ASSERT_EQ(y[4], kInf);
        Row p(std::vector<float>(5, 1.0f)), sum(std::vector<float>(cols, 0.0f));
        k.of(t).rows_axpy(w.at(0, 0), w.stride, 5, cols, p.data(), 5, 1, sum.data(), cols);
        for (size_t i = 0; i < cols; ++i) ASSERT_EQ(std::isnan(sum[i]), i == bad);
      }
    }
  }
}

// --- rows of floats --------------------------------------------------------------------------------------------------

TEST_P(KernelsTest, RmsNormMatchesDouble) {
  for (size_t n : kSizes) {
    Row x(random_floats(n, 10)), weight(random_floats(n, 11)), y(n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
    double inverse = 1 / std::sqrt(sum / n + 1e-6f);
    for (bool weighted : {false, true}) {
      k.rms_norm(x.data(), weighted ? weight.data() : nullptr, y.data(), n, 1e-6f);
      Worst worst;
      for (size_t i = 0; i < n; ++i) {
        double want = x[i] * inverse * (weighted ? weight[i] : 1.0f);
        // The square root halves the error of the sum (a lane adds at most n / 4 squares); six more roundings follow.
        worst.check(y[i], want, (n / 8.0 + 10) * kU * std::abs(want), i);
      }
      worst.expect("rms_norm " + std::string(k.name) + " n=" + std::to_string(n));
    }
    k.rms_norm(x.data(), weight.data(), x.data(), n, 1e-6f);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(x[i], y[i]) << "in place, n=" << n;
  }
}

TEST_P(KernelsTest, RmsNormOfZerosIsZero) {
  Row x(std::vector<float>(37, 0.0f)), y(37);
  k.rms_norm(x.data(), nullptr, y.data(), 37, 1e-6f);
  for (size_t i = 0; i < 37; ++i) EXPECT_EQ(y[i], 0.0f);
}

TEST_P(KernelsTest, ElementwiseMatchesDouble) {
  for (size_t n : kSizes) {
    Row x(random_floats(n, 12)), z(random_floats(n, 13)), y(n), sum(z.size());
    std::copy(z.data(), z.data() + n, sum.data());
    k.axpy(0.7f, x.data(), sum.data(), n);
    Worst worst;
    for (size_t i = 0; i < n; ++i) {
      double product = 0.7f * static_cast<double>(x[i]);
      worst.check(sum[i], product + z[i], 2 * kU * (std::abs(product) + std::abs(z[i])), i);
    }
    worst.expect("axpy " + std::string(k.name));
    k.scale(0.7f, x.data(), y.data(), n);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(y[i], 0.7f * x[i]);
    k.mul(x.data(), z.data(), y.data(), n);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(y[i], x[i] * z[i]);
    k.mul(y.data(), z.data(), y.data(), n);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(y[i], x[i] * z[i] * z[i]);
    k.scale(0.5f, x.data(), x.data(), n);
  }
}

TEST_P(KernelsTest, RopeMatchesDouble) {
  for (size_t pairs : kSizes) {
    size_t half = pairs + pairs % 3;  // partial rotation leaves elements in between alone
    std::vector<float> before = random_floats(half + pairs, 14);
    Row x(before), angle(random_floats(pairs, 15, -3.0f, 3.0f)), c(pairs), s(pairs);
    for (size_t i = 0; i < pairs; ++i) c[i] = std::cos(angle[i]), s[i] = std::sin(angle[i]);
    k.rope(x.data(), c.data(), s.data(), pairs, half);
    Worst worst;
    for (size_t i = 0; i < pairs; ++i) {
      double a = before[i], b = before[i + half];
      double tolerance = 2 * kU * (std::abs(a) + std::abs(b));  // two products, one sum
      worst.check(x[i], a * c[i] - b * s[i], tolerance, i);
      worst.check(x[i + half], b * c[i] + a * s[i], tolerance, i + half);
    }
    worst.expect("rope " + std::string(k.name) + " pairs=" + std::to_string(pairs));
    for (size_t i = pairs; i < half; ++i) ASSERT_EQ(x[i], before[i]);
  }
}

TEST_P(KernelsTest, ClampKeepsNaN) {
  for (size_t n : kSizes) {
    std::vector<float> before = random_floats(n, 16, -3.0f, 3.0f);
    before[n / 2] = kNaN;
    Row x(before);
    k.clamp(x.data(), n, -1.0f, 2.0f);
    for (size_t i = 0; i < n; ++i) {
      if (i == n / 2) {
        ASSERT_TRUE(std::isnan(x[i]));
      } else {
        ASSERT_EQ(x[i], std::clamp(before[i], -1.0f, 2.0f));
      }
    }
  }
  Row open({-kInf, -5.0f, kInf});
  k.clamp(open.data(), 3, -kInf, kInf);
  EXPECT_EQ(open[0], -kInf);
  EXPECT_EQ(open[1], -5.0f);
  EXPECT_EQ(open[2], kInf);
}

TEST_P(KernelsTest, MaxOfEveryPosition) {
  for (size_t n : kSizes) {
    for (size_t at = 0; at < n; ++at) {
      Row x(random_floats(n, 17, -9.0f, -1.0f));
      x[at] = -0.5f;
      ASSERT_EQ(k.max(x.data(), n), -0.5f) << "n=" << n << " at=" << at;
      x[at] = kInf;
      ASSERT_EQ(k.max(x.data(), n), kInf);
      x[at] = kNaN;
      ASSERT_TRUE(std::isnan(k.max(x.data(), n))) << "n=" << n << " at=" << at;
    }
    Row masked(std::vector<float>(n, -kInf));
    ASSERT_EQ(k.max(masked.data(), n), -kInf);
  }
}

// --- exp, tanh, gelu -------------------------------------------------------------------------------------------------

// Every 97th float pattern of a range, both ends included.
std::vector<float> sweep(float low, float high) {
  std::vector<float> v;
  for (uint32_t u = 0; u <= 0x7f800000u; u += 97) {
    float f = std::bit_cast<float>(u);
    if (f <= high) v.push_back(f);
    if (-f >= low) v.push_back(-f);
    // Most patterns are tiny numbers: one in a hundred of those is enough.
    if (f < 1e-6f) u += 97 * 100;
  }
  v.insert(v.end(), {low, high});
  return v;
}

TEST_P(KernelsTest, ExpIsWithinTwoUlp) {
  std::vector<float> in = sweep(-110.0f, 88.0f);
  Row x(in);
  k.exp_sum(x.data(), in.size(), 0.0f);
  Worst worst;
  for (size_t i = 0; i < in.size(); ++i) {
    double want = std::exp(static_cast<double>(in[i]));
    // A subnormal result is rounded to a multiple of 2^-149.
    worst.check(x[i], want, 4 * kU * want + 0x1p-149, i);
  }
  worst.expect("exp " + std::string(k.name));
  RecordProperty("worst_half_ulp", std::to_string(worst.ratio() * 4));
}

TEST_P(KernelsTest, ExpOfSpecialValues) {
  Row x({0.0f, -0.0f, -kInf, -1e30f, -104.5f, 1000.0f, kInf, kNaN, -87.0f, 88.7f});
  k.exp_sum(x.data(), x.size(), 0.0f);
  EXPECT_EQ(x[0], 1.0f);
  EXPECT_EQ(x[1], 1.0f);
  EXPECT_EQ(x[2], 0.0f);
  EXPECT_EQ(x[3], 0.0f);
  EXPECT_EQ(x[4], 0.0f);
  EXPECT_EQ(x[5], kInf);
  EXPECT_EQ(x[6], kInf);
  EXPECT_TRUE(std::isnan(x[7]));
  EXPECT_GT(x[8], 0.0f);
  EXPECT_TRUE(std::isfinite(x[9]));
}

TEST_P(KernelsTest, ExpSumMatchesDouble) {
  for (size_t n : kSizes) {
    std::vector<float> in = random_floats(n, 18, -20.0f, 5.0f);
    if (n > 3) in[n - 2] = -kInf;
    Row x(in);
    float max = k.max(x.data(), n);
    float sum = k.exp_sum(x.data(), n, max);
    double want = 0;
    Worst worst;
    for (size_t i = 0; i < n; ++i) {
      double e = std::exp(static_cast<double>(in[i]) - max);
      want += e;
      // x - max is rounded before exp, which makes a relative error of |x - max| u; exp itself is within 4 u.
      worst.check(x[i], e, (4 + std::min(100.0, std::abs(static_cast<double>(in[i]) - max))) * kU * e, i);
    }
    worst.check(sum, want, (30 + n / 4.0 + 6) * kU * want, n);
    worst.expect("exp_sum " + std::string(k.name) + " n=" + std::to_string(n));
  }
}

TEST_P(KernelsTest, ExpSumOfAMaskedRowIsZero) {
  for (size_t n : kSizes) {
    Row x(std::vector<float>(n, -kInf));
    ASSERT_EQ(k.exp_sum(x.data(), n, k.max(x.data(), n)), 0.0f);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(x[i], 0.0f);
    x[n - 1] = kNaN;
    ASSERT_TRUE(std::isnan(k.exp_sum(x.data(), n, -kInf)));
  }
}

TEST_P(KernelsTest, TanhIsWithinThreeUlp) {
  std::vector<float> in = sweep(-100.0f, 100.0f);
  Row x(in);
  k.soft_cap(x.data(), in.size(), 1.0f);
  Worst worst;
  for (size_t i = 0; i < in.size(); ++i) {
    double want = std::tanh(static_cast<double>(in[i]));
    worst.check(x[i], want, 6 * kU * std::abs(want) + 0x1p-149, i);
  }
  worst.expect("tanh " + std::string(k.name));
  RecordProperty("worst_half_ulp", std::to_string(worst.ratio() * 6));
}

TEST_P(KernelsTest, SoftCap) {
  for (size_t n : kSizes) {
    std::vector<float> in = random_floats(n, 19, -90.0f, 90.0f);
    Row x(in);
    k.soft_cap(x.data(), n, 30.0f);
    Worst worst;
    for (size_t i = 0; i < n; ++i) {
      double want = 30.0 * std::tanh(in[i] / 30.0);
      worst.check(x[i], want, 9 * kU * std::abs(want), i);
    }
    worst.expect("soft_cap " + std::string(k.name) + " n=" + std::to_string(n));
  }
  Row special({kInf, -kInf, kNaN, 0.0f, -0.0f, 1e30f});
  k.soft_cap(special.data(), 6, 30.0f);
  EXPECT_EQ(special[0], 30.0f);
  EXPECT_EQ(special[1], -30.0f);
  EXPECT_TRUE(std::isnan(special[2]));
  EXPECT_EQ(std::bit_cast<uint32_t>(special[3]), 0u);
  EXPECT_EQ(std::bit_cast<uint32_t>(special[4]), 0x80000000u);
  EXPECT_EQ(special[5], 30.0f);
}

TEST_P(KernelsTest, GeluMatchesDouble) {
  std::vector<float> in = sweep(-12.0f, 100.0f);
  Row gate(in), up(std::vector<float>(in.size(), 1.0f)), y(in.size());
  k.gelu_mul(gate.data(), up.data(), y.data(), in.size());
  Worst worst;
  for (size_t i = 0; i < in.size(); ++i) {
    double x = in[i], u = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
    double want = x / (1 + std::exp(-2 * u));
    // Five roundings in 2u, which exp turns into a relative error of 2|u| each (where x is negative), and eight more.
    // Where e^-2u overflows the result is -0 instead of some 10 * 2^-128.
    double tolerance =
        (8 + (x < 0 ? 5 * std::abs(2 * u) : 5.0)) * kU * std::abs(want) + (2 * u < -88 ? 0x1p-124 : 0x1p-149);
    worst.check(y[i], want, tolerance, i);
  }
  worst.expect("gelu " + std::string(k.name));
}

// In the range where activations live, against torch's own form of the equation.
TEST_P(KernelsTest, GeluMulTimesUp) {
  for (size_t n : kSizes) {
    Row gate(random_floats(n, 20, -4.0f, 4.0f)), up(random_floats(n, 21)), y(n);
    k.gelu_mul(gate.data(), up.data(), y.data(), n);
    Worst worst;
    for (size_t i = 0; i < n; ++i) {
      double x = gate[i];
      double want = 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) * up[i];
      worst.check(y[i], want, 1e-6 * std::abs(x * up[i]), i);
    }
    worst.expect("gelu_mul " + std::string(k.name) + " n=" + std::to_string(n));
    k.gelu_mul(gate.data(), up.data(), gate.data(), n);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(gate[i], y[i]) << "in place";
  }
  Row gate({kNaN, 0.0f, -0.0f, -60.0f, 60.0f, kInf}), up(std::vector<float>(6, 1.0f)), y(6);
  k.gelu_mul(gate.data(), up.data(), y.data(), 6);
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], 0.0f);
  EXPECT_EQ(y[2], 0.0f);
  EXPECT_EQ(y[3], 0.0f);
  EXPECT_EQ(y[4], 60.0f);
  EXPECT_EQ(y[5], kInf);
}

// --- the tables ------------------------------------------------------------------------------------------------------

TEST(KernelTables, AgreeWithTheScalarOne) {
  const Kernels& scalar = kernels_by_name("scalar");
  constexpr size_t kRows = 6, kCols = 1000;
  for (const Kernels* table : supported_kernels()) {
    for (DType t : kAllFormats) {
      Matrix w(t, kRows, kCols, 0, 0, 22);
      Row x(random_floats(kCols, 23)), got(kRows), want(kRows);
      table->of(t).rows_dot(w.at(0, 0), w.stride, kRows, kCols, x.data(), kCols, 1, got.data(), kRows);
      scalar.of(t).rows_dot(w.at(0, 0), w.stride, kRows, kCols, x.data(), kCols, 1, want.data(), kRows);
      Worst worst;
      for (size_t r = 0; r < kRows; ++r) {
        double magnitude = 0;
        for (size_t i = 0; i < kCols; ++i) magnitude += std::abs(w.value(r, i) * x[i]);
        worst.check(got[r], want[r], 2 * (kCols / 4.0 + 6) * kU * magnitude, r);
      }
      worst.expect("rows_dot " + describe(*table, t, kRows, kCols, 1));
    }
    Row got(sweep(-80.0f, 80.0f)), want(sweep(-80.0f, 80.0f));
    table->soft_cap(got.data(), got.size(), 5.0f);
    scalar.soft_cap(want.data(), want.size(), 5.0f);
    Worst worst;
    for (size_t i = 0; i < got.size(); ++i) worst.check(got[i], want[i], 8 * kU * std::abs(want[i]), i);
    worst.expect("soft_cap " + std::string(table->name));
  }
}

TEST(KernelTables, AreCompleteAndInOrder) {
  std::vector<const Kernels*> tables = supported_kernels();
  ASSERT_FALSE(tables.empty());
  EXPECT_EQ(tables.back()->name, "scalar");
  for (const Kernels* table : tables) {
    EXPECT_EQ(&kernels_by_name(table->name), table);
    for (DType t : kAllFormats) {
      const FormatKernels& f = table->of(t);
      EXPECT_TRUE(f.to_f32 && f.rows_dot && f.rows_axpy && f.from_f32) << table->name << " " << traits(t).name;
    }
  }
}

TEST(KernelTables, TheActiveOneIsTheForcedOrTheBest) {
  const char* forced = std::getenv("GEMMA4_ISA");
  std::string_view want = forced && *forced ? forced : supported_kernels().front()->name;
  EXPECT_EQ(kernels().name, want);
}

TEST(KernelTables, UnknownNameIsRefusedWithTheList) {
  try {
    kernels_by_name("avx1024");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kRequest);
    std::string message = e.what();
    EXPECT_NE(message.find("'avx1024'"), std::string::npos) << message;
    for (const Kernels* table : supported_kernels()) EXPECT_NE(message.find(table->name), std::string::npos) << message;
  }
}

TEST(KernelTables, FeaturesCoverTheTables) {
  std::vector<std::string> features = cpu_features();
  auto has = [&](const char* name) { return std::count(features.begin(), features.end(), name) == 1; };
  for (const Kernels* table : supported_kernels()) {
    bool neon = table->name == "neon", vector = table->name != "scalar" && !neon, wide = table->name == "avx512";
    EXPECT_TRUE(!vector || (has("avx2") && has("fma") && has("f16c")));
    EXPECT_TRUE(!wide || (has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl")));
    EXPECT_TRUE(!neon || has("asimddp"));
  }
}

}  // namespace
}  // namespace gemma4
