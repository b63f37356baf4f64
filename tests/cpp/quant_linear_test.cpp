// Matrix products over block formats: right for every number of rows, the same bits for every number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "block_testing.h"
#include "kernel_testing.h"
#include "model/linear.h"

namespace gemma4 {
namespace {

class QuantLinear : public testing::TestWithParam<const Isa*> {};

INSTANTIATE_TEST_SUITE_P(Isa, QuantLinear, testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(QuantLinear, MatchesTheDequantizedProduct) {
  Interrupt interrupt;
  ThreadPool alone(1), two(2), three(3);
  Workspace workspace(3);
  for (DType t : kBlockFormats) {
    const size_t cols = traits(t).block_elems == 32 ? 288 : 512;
    for (size_t rows : {1, 31, 200}) {
      const Matrix matrix(t, rows, cols, 1, 0);
      std::vector<float> w(rows * cols);
      GetParam()->k.of(t).to_f32(matrix.row(0), w.data(), w.size());
      const TensorView view{reinterpret_cast<const std::byte*>(matrix.row(0)), t, 2, {rows, cols}};
      for (size_t m : {1, 4, 5, 33}) {
        const size_t ldy = rows + 3;
        const std::vector<float> x = normal_floats(m * cols, 2);
        std::vector<float> y(m * ldy, 7.0f);
        linear({*GetParam(), alone, interrupt, workspace}, view, x.data(), m, y.data(), ldy);
        for (size_t j = 0; j < m; ++j) {
          for (size_t r = 0; r < rows; ++r) {
            double want = 0, bound = 0;
            for (size_t i = 0; i < cols; ++i) {
              float most = 0;
              for (size_t e = i / 32 * 32; e < i / 32 * 32 + 32; ++e) most = std::max(most, std::abs(x[j * cols + e]));
              want += static_cast<double>(w[r * cols + i]) * x[j * cols + i];
              bound += std::abs(w[r * cols + i]) * most / 127 * 0.501;
            }
            ASSERT_NEAR(y[j * ldy + r], want, bound) << traits(t).name << " rows=" << rows << " m=" << m;
          }
          for (size_t r = rows; r < ldy; ++r) ASSERT_EQ(y[j * ldy + r], 7.0f);
        }
        for (ThreadPool* pool : {&two, &three}) {
          std::vector<float> again(m * ldy, 7.0f);
          linear({*GetParam(), *pool, interrupt, workspace}, view, x.data(), m, again.data(), ldy);
          ASSERT_EQ(std::memcmp(y.data(), again.data(), y.size() * 4), 0) << traits(t).name << " m=" << m;
        }
      }
    }
  }
}

// Matrices are divided, the last one of a call with smaller items at its end: every row is there.
TEST_P(QuantLinear, DividedMatricesEqualOneCallOfTheKernel) {
  Interrupt interrupt;
  ThreadPool pool(3);
  Workspace workspace(pool.size());
  constexpr size_t cols = 2048;
  const std::vector<float> x = normal_floats(cols, 5);
  for (DType t : {DType::kQ4_0, DType::kQ6_K}) {
    const FormatKernels& f = GetParam()->k.of(t);
    std::vector<Int8Chunk> chunks(chunk_stride(cols));
    f.quantize(x.data(), cols, {}, chunks.data());
    for (size_t rows : {455u, 912u, 1000u, 1823u}) {
      std::vector<std::byte> bytes(row_bytes(t, rows * cols));
      std::mt19937 rng(6);
      for (std::byte& b : bytes) b = static_cast<std::byte>(rng() % 60);  // no f16 of these is infinite or a NaN
      const TensorView w{bytes.data(), t, 2, {rows, cols}};
      std::vector<float> first(rows, 7.0f), second(rows, 7.0f), want(rows);
      const Product products[] = {{.w = w, .y = first.data()}, {.w = w, .y = second.data()}};
      linear({*GetParam(), pool, interrupt, workspace}, products, x.data(), 1);
      f.multiply_int8({bytes.data(), w.stride(), rows, cols}, {chunks.data(), chunks.size(), 1}, {},
                      {want.data(), rows});
      EXPECT_EQ(first, want) << traits(t).name << " rows=" << rows;
      EXPECT_EQ(second, want) << traits(t).name << " rows=" << rows;
    }
  }
}

// Products of one call that meet other rows of x are those of calls of their own, in one format or in several.
TEST_P(QuantLinear, ProductsMeetRowsOfTheirOwn) {
  Interrupt interrupt;
  ThreadPool pool(2);
  Workspace workspace(pool.size());
  constexpr size_t cols = 256, rows = 37;
  const std::vector<float> source = normal_floats(rows * cols, 3);
  const DType formats[] = {DType::kQ4_0, DType::kQ4_0, DType::kQ6_K, DType::kBF16, DType::kBF16, DType::kF32};
  std::vector<std::vector<std::byte>> bytes;
  for (DType t : formats) {
    bytes.emplace_back(row_bytes(t, rows * cols));
    GetParam()->k.of(t).from_f32(source.data(), bytes.back().data(), source.size());
  }
  for (size_t m : {1, 3, 16, 40}) {
    const std::vector<float> x = normal_floats((m + 6) * cols, 4);
    std::vector<std::vector<float>> together(6, std::vector<float>(m * rows));
    std::vector<Product> products;
    for (size_t i = 0; i < 6; ++i) {
      const TensorView w{bytes[i].data(), formats[i], 2, {rows, cols}};
      products.push_back({.w = w, .y = together[i].data(), .row = 6 - i});
    }
    linear({*GetParam(), pool, interrupt, workspace}, products, x.data(), m, {-1.5f, 1.5f});
    for (size_t i = 0; i < 6; ++i) {
      std::vector<float> alone(m * rows);
      const Product one{.w = products[i].w, .y = alone.data()};
      linear({*GetParam(), pool, interrupt, workspace}, {&one, 1}, x.data() + (6 - i) * cols, m, {-1.5f, 1.5f});
      EXPECT_EQ(together[i], alone) << i << " m=" << m;
    }
  }
}

// Rows that are single get the bits of a call of their own; those that belong together, of one without the others.
TEST_P(QuantLinear, SingleRowsAreAsIfAlone) {
  Interrupt interrupt;
  ThreadPool pool(2);
  Workspace workspace(pool.size());
  const Compute c{*GetParam(), pool, interrupt, workspace};
  std::vector<DType> formats(std::begin(kBlockFormats), std::end(kBlockFormats));
  formats.insert(formats.end(), {DType::kBF16, DType::kF16, DType::kF32});
  for (DType t : formats) {
    const size_t cols = traits(t).block_elems == 32 ? 288 : 512, rows = 67;
    std::vector<std::byte> bytes;
    if (is_block_format(t)) {
      const Matrix matrix(t, rows, cols, 1, 0);
      const auto* data = reinterpret_cast<const std::byte*>(matrix.row(0));
      bytes.assign(data, data + row_bytes(t, rows * cols));
    } else {
      bytes.resize(row_bytes(t, rows * cols));
      GetParam()->k.of(t).from_f32(normal_floats(rows * cols, 3).data(), bytes.data(), rows * cols);
    }
    const TensorView w{bytes.data(), t, 2, {rows, cols}};
    for (const size_t together : {0, 1, 3, 5, 24, 25, 40}) {
      for (const size_t single : {1, 2, 5, 17}) {
        const size_t m = together + single, ldy = rows + 2;
        const std::vector<float> x = normal_floats(m * cols, 4);
        std::vector<float> y(m * ldy), want(m * ldy);
        linear(c, w, x.data(), RowCounts{together, single}, y.data(), ldy);
        linear(c, w, x.data(), together, want.data(), ldy);
        for (size_t j = together; j < m; ++j) {
          linear(c, w, x.data() + j * cols, size_t{1}, want.data() + j * ldy, ldy);
        }
        ASSERT_EQ(y, want) << traits(t).name << " " << together << "+" << single;
      }
    }
  }
}

}  // namespace
}  // namespace gemma4
