// Quants of 2, 4 and 8 bits: every table against values that are computed from the quants themselves, and products over
// them against a double sum, with and without lattices, for few rows and for many.
#include "model/quants.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernel_testing.h"
#include "model/linear.h"

namespace gemma4 {
namespace {

constexpr DType kQuants[] = {DType::kI2, DType::kI4, DType::kI8};

int bits_of(DType t) { return t == DType::kI2 ? 2 : t == DType::kI4 ? 4 : 8; }

// A matrix of random quants and scales whose last byte lies before an unreadable page.
struct RandomQuants {
  RandomQuants(DType t, size_t rows, size_t cols, size_t groups, std::mt19937& rng)
      : bytes(rows * row_bytes(t, cols)), quants(rows * cols), scales(rows * groups) {
    const int bits = bits_of(t), top = 1 << (bits - 1);
    std::uniform_int_distribution<int> quant(-top, top - 1), byte(0, 255);
    std::uniform_real_distribution<float> scale(0.5f, 1.5f);
    // What fills the last byte of a row means nothing.
    for (size_t i = 0; i < rows * row_bytes(t, cols); ++i) bytes.data()[i] = static_cast<char>(byte(rng));
    for (size_t r = 0; r < rows; ++r) {
      char* row = bytes.data() + r * row_bytes(t, cols);
      for (size_t i = 0; i < cols; ++i) {
        const int v = quant(rng);
        quants[r * cols + i] = v;
        char& at = row[i * bits / 8];
        const int shift = bits == 8 ? 0 : static_cast<int>(i * bits % 8);
        const int mask = ((1 << bits) - 1) << shift, stored = bits == 8 ? v : v + top;
        at = static_cast<char>((at & ~mask) | ((stored << shift) & mask));
      }
    }
    for (float& s : scales) s = scale(rng);
    view = {reinterpret_cast<const std::byte*>(bytes.data()), t, 2, {rows, cols}};
    view.scales = {reinterpret_cast<const std::byte*>(scales.data()), DType::kF32, groups};
  }
  double value(size_t r, size_t i) const {
    const size_t cols = view.cols(), group = cols / view.scales.groups;
    return static_cast<double>(quants[r * cols + i]) * scales[r * view.scales.groups + i / group];
  }

  Guarded<> bytes;
  std::vector<int> quants;    // (rows, cols)
  std::vector<float> scales;  // (rows, groups)
  TensorView view;
};

// The nearest of the quants -128 to 127, ties to even.
double nearest_quant(double x, double step) { return std::clamp(std::nearbyint(x / step), -128.0, 127.0); }

TEST(QuantsTest, AreUnpackedByEveryInstructionSet) {
  std::mt19937 rng{1};
  for (const Isa* k : supported_isas()) {
    for (DType t : kQuants) {
      for (size_t n : kSizes) {
        const RandomQuants w(t, 1, n, 1, rng);
        const Row out(n);
        k->k.of(t).to_f32(w.view.data, out.data(), n);
        for (size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], w.quants[i]) << k->name << " " << traits(t).name << " " << i;
        row_to_f32(k->k, w.view, 0, out.data());
        for (size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], static_cast<float>(w.value(0, i)));
      }
    }
  }
}

TEST(QuantsTest, LatticeRoundsToEvenAndHolds) {
  const std::vector<float> x = {0.0f,   -0.0f,  0.25f,   0.75f,   1.25f,  -0.25f, -0.75f, 63.5f,
                                63.74f, 63.75f, -63.75f, -64.25f, -70.0f, 1e30f,  -kInf,  kInf,
                                0.26f,  3.0f,   -5.5f,   kNaN,    12.75f, 12.25f, -1e-30f};
  for (const Isa* k : supported_isas()) {
    for (size_t n = 1; n <= x.size(); ++n) {
      const Row in(std::vector<float>(x.end() - static_cast<std::ptrdiff_t>(n), x.end())), out(n);
      k->k.to_lattice(in.data(), out.data(), n, 0.5f, 0.5f);
      for (size_t i = 0; i < n; ++i) {
        if (std::isnan(in[i])) {
          ASSERT_TRUE(std::isnan(out[i])) << k->name;
        } else {
          ASSERT_EQ(out[i], nearest_quant(in[i], 0.5) * 0.5) << k->name << " " << in[i];
        }
      }
    }
  }
}

// y = lattice(x) w^T before the lattice of the output, in double precision, and the sum of the magnitudes.
struct Sum {
  double sum = 0, magnitude = 0;
};
Sum product(const RandomQuants& w, const float* x, size_t r) {
  Sum s;
  for (size_t i = 0; i < w.view.cols(); ++i) {
    const double step = w.view.scales.input;
    const double v = (step > 0 ? nearest_quant(x[i] / w.view.scales.input, 1) * step : x[i]) * w.value(r, i);
    s.sum += v;
    s.magnitude += std::abs(v);
  }
  return s;
}

TEST(QuantsTest, ProductsEqualADoubleSum) {
  single_threaded_blas();
  std::mt19937 rng{2};
  std::normal_distribution<float> normal(0, 1);
  const size_t shapes[][3] = {{1, 1, 1}, {3, 5, 1}, {17, 33, 1}, {70, 257, 1}, {5, 64, 2}, {130, 96, 3}, {9, 24, 24}};
  for (const Isa* k : supported_isas()) {
    for (DType t : kQuants) {
      for (const auto& [rows, cols, groups] : shapes) {
        for (const float input : {0.0f, 0.03f}) {
          RandomQuants w(t, rows, cols, groups, rng);
          w.view.scales.input = input;
          for (size_t m : {1, 3, 24, 25, 61}) {
            SCOPED_TRACE(std::string(k->name) + " " + std::string(traits(t).name) + " " + std::to_string(rows) + "x" +
                         std::to_string(cols) + " groups " + std::to_string(groups) + " m " + std::to_string(m));
            std::vector<float> x(m * cols), y(m * rows, kNaN);
            for (float& v : x) v = normal(rng);
            ThreadPool pool(2);
            Workspace workspace(pool.size());
            Interrupt never;
            linear({*k, pool, never, workspace}, w.view, x.data(), m, y.data());
            for (size_t j = 0; j < m; ++j) {
              for (size_t r = 0; r < rows; ++r) {
                const Sum s = product(w, &x[j * cols], r);
                // As of any product in f32, and the roundings of two scales.
                const double n = static_cast<double>(cols) + 3;
                ASSERT_NEAR(y[j * rows + r], s.sum, n * kU * (1 + n * kU) * s.magnitude) << j << " " << r;
              }
            }
          }
        }
      }
    }
  }
}

TEST(QuantsTest, OutputsAreRoundedThenHeld) {
  single_threaded_blas();
  std::mt19937 rng{3};
  std::normal_distribution<float> normal(0, 1);
  constexpr size_t kRows = 37, kCols = 50;
  RandomQuants a(DType::kI4, kRows, kCols, 1, rng), b(DType::kI4, kRows, kCols, 1, rng);
  a.view.scales.input = 0.02f;
  a.view.scales.output = 0.5f;
  b.view.scales.input = 0.05f;  // shares nothing of x with its neighbour
  const Bounds in{-1.1f, 0.9f}, out{-20.2f, 17.9f};
  for (const Isa* k : supported_isas()) {
    for (size_t m : {1, 30}) {
      std::vector<float> x(m * kCols), ya(m * kRows), yb(m * kRows);
      for (float& v : x) v = normal(rng);
      ThreadPool pool(2);
      Workspace workspace(pool.size());
      Interrupt never;
      linear({*k, pool, never, workspace},
             {{{.w = a.view, .y = ya.data(), .bounds = out}, {.w = b.view, .y = yb.data()}}}, x.data(), m, in);
      for (float& v : x) v = std::clamp(v, in.lo, in.hi);
      size_t near = 0;
      for (size_t j = 0; j < m; ++j) {
        for (size_t r = 0; r < kRows; ++r) {
          const Sum s = product(a, &x[j * kCols], r), plain = product(b, &x[j * kCols], r);
          ASSERT_NEAR(yb[j * kRows + r], plain.sum, 53 * kU * 1.01 * plain.magnitude) << k->name;
          const double tie = std::abs(s.sum / 0.5 - std::floor(s.sum / 0.5) - 0.5);
          if (tie * 0.5 <= 53 * kU * 1.01 * s.magnitude) {
            ++near;  // either neighbour is right
          } else {
            ASSERT_EQ(ya[j * kRows + r],
                      static_cast<float>(std::clamp<double>(nearest_quant(s.sum, 0.5) * 0.5, out.lo, out.hi)));
          }
        }
      }
      EXPECT_LT(near, m * kRows / 100 + 1);
    }
  }
}

}  // namespace
}  // namespace gemma4
