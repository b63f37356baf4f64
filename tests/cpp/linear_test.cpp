// linear() against a sum in double precision: every format, both paths, odd sizes, odd addresses.
#include "model/linear.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernel_testing.h"
#include "kernels/tiles.h"
#include "random_weights.h"

namespace gemma4 {
namespace {

class LinearTest : public testing::Test {
 protected:
  void SetUp() override { single_threaded_blas(); }

  std::vector<float> run(const Isa& k, int threads, const TensorView& w, const std::vector<float>& x, size_t m,
                         size_t ldy = 0, float fill = kNaN) {
    ThreadPool pool(threads);
    Workspace workspace(pool.size());
    Interrupt never;
    // The product must not read what was in y before.
    std::vector<float> y(m * (ldy ? ldy : w.rows()), fill);
    linear({k, pool, never, workspace}, w, x.data(), m, y.data(), ldy);
    return y;
  }

  // Any order of k products and k - 1 sums is off by at most k u (1 + k u) times the sum of the magnitudes. Tiles add
  // up six products of parts for each of ours at most; what they leave out is below a quarter of u.
  void expect_product(const Isa& table, const RandomTensor& w, const std::vector<float>& x, size_t m,
                      const std::vector<float>& y) {
    const bool tiled = table.tiles != nullptr;
    const size_t rows = w.view.rows(), cols = w.view.cols();
    for (size_t j = 0; j < m; ++j) {
      for (size_t r = 0; r < rows; ++r) {
        double sum = 0, magnitude = 0;
        for (size_t i = 0; i < cols; ++i) {
          const double product = static_cast<double>(w.values[r * cols + i]) * x[j * cols + i];
          sum += product;
          magnitude += std::abs(product);
        }
        const double k = static_cast<double>(cols * (tiled ? 6 : 1)) + (tiled ? 0.25 : 0);
        ASSERT_NEAR(y[j * rows + r], sum, k * kU * (1 + k * kU) * magnitude) << "row " << j << ", column " << r;
      }
    }
  }

  std::mt19937 rng{7};
};

TEST_F(LinearTest, EqualsADoubleSumInEveryFormatAndInstructionSet) {
  const size_t shapes[][2] = {{1, 1}, {3, 5}, {17, 33}, {64, 100}, {130, 257}, {300, 70}};  // rows, cols
  for (const Isa* k : supported_isas()) {
    for (DType t : kAllFormats) {
      for (const auto& [rows, cols] : shapes) {
        const RandomTensor w(t, {rows, cols}, 1, rng);
        for (size_t m : {1, 2, 7, 8, 9, 24, 25, 61}) {
          SCOPED_TRACE(std::string(k->name) + " " + std::string(traits(t).name) + " " + std::to_string(rows) + "x" +
                       std::to_string(cols) + " m " + std::to_string(m));
          const std::vector<float> x = random_rows(m * cols, rng);
          expect_product(*k, w, x, m, run(*k, 2, w.view, x, m));
        }
      }
    }
  }
}

TEST_F(LinearTest, TilesOfEveryEdgeMeet) {
  // More than one tile of weights (256) and more than one block of rows (512), neither a multiple.
  const RandomTensor w(DType::kBF16, {523, 19}, 1, rng);
  const std::vector<float> x = random_rows(1031 * 19, rng);
  expect_product(active_isa(), w, x, 1031, run(active_isa(), 2, w.view, x, 1031));
}

TEST_F(LinearTest, AWideMatrixHasSmallTiles) {
  // A tile of 256 such rows would unpack 20 M floats.
  const RandomTensor w(DType::kF16, {40, 80000}, 0.01f, rng);
  const std::vector<float> x = random_rows(25 * 80000, rng);
  expect_product(active_isa(), w, x, 25, run(active_isa(), 2, w.view, x, 25));
}

TEST_F(LinearTest, WeightsMayLieAnywhere) {
  for (const Isa* k : supported_isas()) {
    for (DType t : kAllFormats) {
      for (size_t offset : {1, 2, 3, 6}) {
        const RandomTensor w(t, {37, 29}, 1, rng, offset);
        for (size_t m : {1, 40}) {
          SCOPED_TRACE(std::string(k->name) + " " + std::string(traits(t).name) + " offset " + std::to_string(offset));
          const std::vector<float> x = random_rows(m * 29, rng);
          expect_product(*k, w, x, m, run(*k, 1, w.view, x, m));
        }
      }
    }
  }
}

TEST_F(LinearTest, TheNumberOfThreadsChangesNoBit) {
  for (DType t : kAllFormats) {
    const RandomTensor w(t, {1100, 150}, 1, rng);
    for (size_t m : {1, 8, 24, 25, 700}) {
      const std::vector<float> x = random_rows(m * 150, rng);
      const std::vector<float> one = run(active_isa(), 1, w.view, x, m);
      for (int threads : {2, 3, 7}) {
        const std::vector<float> many = run(active_isa(), threads, w.view, x, m);
        ASSERT_EQ(std::memcmp(one.data(), many.data(), one.size() * sizeof(float)), 0)
            << threads << " threads, m " << m << ", " << traits(t).name;
      }
    }
  }
}

TEST_F(LinearTest, ANaNReachesItsRowAndColumnAndNoOther) {
  for (const Isa* k : supported_isas()) {
    for (DType t : kAllFormats) {
      for (size_t m : {3, 50}) {
        SCOPED_TRACE(std::string(k->name) + " " + std::string(traits(t).name) + " m " + std::to_string(m));
        RandomTensor w(t, {21, 35}, 1, rng);
        const uint16_t half_nan = 0x7fff;  // a NaN in both 16-bit formats
        std::byte* where = w.bytes->data() + (4 * 35 + 34) * traits(t).block_bytes;
        if (t == DType::kF32) {
          std::memcpy(where, &kNaN, sizeof kNaN);
        } else {
          std::memcpy(where, &half_nan, sizeof half_nan);
        }
        std::vector<float> x = random_rows(m * 35, rng);
        x[2 * 35 + 7] = kNaN;
        const std::vector<float> y = run(*k, 2, w.view, x, m, 0, 0.0f);
        for (size_t j = 0; j < m; ++j) {
          for (size_t r = 0; r < 21; ++r) ASSERT_EQ(std::isnan(y[j * 21 + r]), j == 2 || r == 4) << j << ", " << r;
        }
      }
    }
  }
}

TEST_F(LinearTest, LeavesTheGapBetweenRowsAlone) {
  const RandomTensor w(DType::kF32, {5, 11}, 1, rng);
  for (size_t m : {2, 40}) {
    const std::vector<float> x = random_rows(m * 11, rng);
    const std::vector<float> dense = run(active_isa(), 1, w.view, x, m),
                             wide = run(active_isa(), 1, w.view, x, m, 9, 42.0f);
    for (size_t j = 0; j < m; ++j) {
      for (size_t r = 0; r < 9; ++r) EXPECT_EQ(wide[j * 9 + r], r < 5 ? dense[j * 5 + r] : 42.0f);
    }
  }
}

TEST_F(LinearTest, NoRowsIsNoWork) {
  const RandomTensor w(DType::kF32, {5, 11}, 1, rng);
  EXPECT_TRUE(run(active_isa(), 2, w.view, {}, 0).empty());
}

TEST_F(LinearTest, AnInterruptEndsItAndThePoolGoesOn) {
  const RandomTensor w(DType::kBF16, {2000, 64}, 1, rng);
  for (size_t m : {1, 600}) {
    const std::vector<float> x = random_rows(m * 64, rng);
    std::vector<float> y(m * 2000);
    ThreadPool pool(2);
    Workspace workspace(pool.size());
    Interrupt stop([] { return true; });
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
    const Compute c{active_isa(), pool, stop, workspace};
    // A worker may take every item before the caller takes one; then nobody asked.
    const auto try_often = [&] {
      for (int i = 0; i < 1000; ++i) linear(c, w.view, x.data(), m, y.data());
    };
    try {
      try_often();
      FAIL() << "never stopped";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kCancelled);
    }
    Interrupt never;
    linear({active_isa(), pool, never, workspace}, w.view, x.data(), m, y.data());
    expect_product(active_isa(), w, x, m, y);
  }
}

}  // namespace
}  // namespace gemma4
