// Block formats: codecs against a decoder written from the format's definition, int8 kernels of every instruction set
// against double precision. Tolerances are derived (u = 2^-24). Weights end at an unreadable page, at odd addresses.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "block_testing.h"
#include "kernel_testing.h"
#include "kernels/isa.h"

namespace gemma4 {
namespace {

// Few rows of activations stream the weights, more meet panels in tiles of several widths, at most 256 at a time.
const size_t kBatches[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 31, 32, 33, 64, 255, 256, 257, 261};

std::vector<size_t> widths(DType t) {
  if (traits(t).block_elems == 256) return {256, 512, 768, 1280};
  return {32, 64, 96, 224, 256, 288, 480, 512, 544, 800, 1024 + 32, 2048 + 512};
}

// Where a table and format put each activation of a chunk (an order of their own), and what they add to quants.
struct Layout {
  std::array<size_t, kSuperBlock> order{};
  double zero_point = 0;

  explicit Layout(const FormatKernels& f) {
    for (size_t i = 0; i < kSuperBlock; ++i) {
      std::vector<float> x(kSuperBlock);
      x[i] = 1;
      Int8Chunk chunk{};
      f.quantize(x.data(), kSuperBlock, {}, &chunk);
      order[i] = static_cast<size_t>(std::find(std::begin(chunk.q), std::end(chunk.q), 127) - std::begin(chunk.q));
      EXPECT_LT(order[i], kSuperBlock);
      if (i == 0) zero_point = chunk.zero[0] / -127.0;
    }
  }
};

// Activations of a table, a row after the other.
struct Activations : Layout {
  size_t k, ld;
  std::vector<Int8Chunk> chunks;

  Activations(const FormatKernels& f, const std::vector<float>& x, size_t m, size_t cols)
      : Layout(f), k(cols), ld(chunk_stride(cols)), chunks(m * ld) {
    for (size_t j = 0; j < m; ++j) f.quantize(x.data() + j * k, k, {}, chunks.data() + j * ld);
  }
  const Int8Chunk* row(size_t j) const { return chunks.data() + j * ld; }
  double value(size_t j, size_t i) const {
    const Int8Chunk& c = row(j)[i / 256];
    return static_cast<double>(c.scale[i % 256 / 32]) * c.q[order[i % 256]];
  }
};

// The product of row r with row j of the rounded activations, what rounding may cost, and what int8 may have cost.
struct Expected {
  double value = 0, tolerance = 0, exact = 0, int8_bound = 0;

  // m: rows of activations in the call
  Expected(const Matrix& w, size_t r, const Activations& a, const std::vector<float>& x, size_t j, size_t m) {
    // Few rows may add what the zero points subtract apart, in vectors of four scales and more: quants are then larger
    // by the zero point, and so is what is subtracted.
    const double zero = m > 4 ? 0 : a.zero_point;
    double magnitude = 0;
    for (size_t i = 0; i < w.cols; ++i) {
      const Element e = w.at(r, i);
      value += e.value() * a.value(j, i);
      exact += e.value() * x[j * w.cols + i];
      magnitude += (std::abs(e.scale) * (std::abs(e.quant) + 2 * zero) + std::abs(e.min)) * std::abs(a.value(j, i));
      int8_bound += std::abs(e.value()) * a.row(j)[i / 256].scale[i % 256 / 32] * (0.5 + 1e-4);
    }
    // Rounded: the scales (2), their product, the product with the sum, one addition for each scale (16 or 32 elements)
    // and one for each minimum, or for each vector of 16 quants and more; and those of the zero points.
    const double apart = w.dtype == DType::kQ2_K ? 8 : 16;  // the one format with a scale and a minimum for 16 elements
    const double additions = static_cast<double>(w.cols) / apart + (zero > 0 ? static_cast<double>(w.cols) / 64 : 0);
    tolerance = (additions + 12) * kU * magnitude;
  }
};

std::string describe(const Isa& k, DType t, size_t rows, size_t cols, size_t m) {
  return std::string(k.name) + " " + std::string(traits(t).name) + " rows=" + std::to_string(rows) +
         " k=" + std::to_string(cols) + " m=" + std::to_string(m);
}

class QuantTest : public testing::TestWithParam<const Isa*> {
 protected:
  const Isa& isa = *GetParam();
  const Kernels& k = isa.k;
};

INSTANTIATE_TEST_SUITE_P(Isa, QuantTest, testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(QuantTest, ToF32DecodesEveryField) {
  for (DType t : kBlockFormats) {
    Matrix w(t, 1, 256 * 40, 1, 0);
    std::vector<float> got(w.cols);
    k.of(t).to_f32(w.row(0), got.data(), w.cols);
    for (size_t i = 0; i < w.cols; ++i) {
      const Element e = w.at(0, i);
      // d * scale and d * scale * quant are exact; the minimum's product and the difference are rounded at most.
      ASSERT_NEAR(got[i], e.value(), kU * (std::abs(e.value()) + std::abs(e.min))) << traits(t).name << " " << i;
    }
  }
}

TEST_P(QuantTest, ActivationsAreRoundedToTheNearest) {
  const FormatKernels& scalar = isa_by_name("scalar").k.of(DType::kQ4_0);
  for (size_t cols : {32, 64, 288, 1024}) {
    std::vector<float> x = normal_floats(cols, 2);
    for (size_t i = 0; i < cols; ++i) x[i] *= std::pow(10.0f, static_cast<float>(i / 32 % 9) * 4 - 16);
    x[3] = 0;
    const Activations want(scalar, x, 1, cols);
    for (DType t : kBlockFormats) {
      const Activations a(k.of(t), x, 1, cols);
      for (size_t c = 0; c < chunks_of(cols); ++c) {
        // The same bits on every instruction set, padding included.
        for (size_t i = 0; i < kSuperBlock; ++i) {
          ASSERT_EQ(a.row(0)[c].q[a.order[i]], want.row(0)[c].q[want.order[i]]) << describe(isa, t, 1, cols, 1);
        }
        ASSERT_EQ(std::memcmp(a.row(0)[c].scale, want.row(0)[c].scale, 32), 0);
        ASSERT_EQ(std::memcmp(a.row(0)[c].sum, want.row(0)[c].sum, 32), 0);
      }
      for (size_t i = 0; i < cols; ++i) {
        const double step = a.row(0)[i / 256].scale[i % 256 / 32];
        ASSERT_LE(std::abs(a.value(0, i) - x[i]), step * (0.5 + 1e-4)) << describe(isa, t, 1, cols, 1) << " " << i;
      }
    }
  }
}

TEST_P(QuantTest, ProductsMatchDouble) {
  for (DType t : kBlockFormats) {
    const FormatKernels& f = k.of(t);
    for (size_t cols : widths(t)) {
      for (size_t rows : {1, 3, 4, 17, 33}) {
        const Matrix w(t, rows, cols, 3);
        const size_t most = 64, ldy = rows + 2;
        const std::vector<float> x = normal_floats(most * cols, 4);
        const Activations a(f, x, most, cols);
        for (size_t m : {size_t{1}, size_t{2}, size_t{4}, most}) {
          std::vector<float> product(m * ldy, 12345.0f);
          f.multiply_int8({w.row(0), w.stride, rows, cols}, {a.row(0), a.ld, m}, {}, {product.data(), ldy});
          for (size_t j = 0; j < m; ++j) {
            for (size_t r = 0; r < rows; ++r) {
              if (j >= 9 && r % 8 != 0) continue;
              const Expected want(w, r, a, x, j, m);
              const std::string where = describe(isa, t, rows, cols, m) + " row " + std::to_string(r);
              ASSERT_NEAR(product[j * ldy + r], want.value, want.tolerance) << where;
              ASSERT_LE(std::abs(product[j * ldy + r] - want.exact), want.int8_bound + want.tolerance) << where;
            }
            for (size_t r = rows; r < ldy; ++r) {
              ASSERT_EQ(product[j * ldy + r], 12345.0f);
            }
          }
        }
      }
    }
  }
}

// Any share of the rows gives the same bits, and so does any batch, with one exception: few rows of activations (at
// most four) may meet the weights in an order of their own.
TEST_P(QuantTest, ProductsDoNotDependOnTheBatchOrTheSplit) {
  for (DType t : kBlockFormats) {
    const FormatKernels& f = k.of(t);
    const size_t cols = widths(t)[3], rows = 37, most = 261;
    const Matrix w(t, rows, cols, 5);
    const std::vector<float> x = normal_floats(most * cols, 6);
    const Activations a(f, x, most, cols);
    std::vector<float> all(most * rows), alone(most * rows), part(most * rows);
    f.multiply_int8({w.row(0), w.stride, rows, cols}, {a.row(0), a.ld, most}, {}, {all.data(), rows});
    for (size_t j = 0; j < most; ++j)
      f.multiply_int8({w.row(0), w.stride, rows, cols}, {a.row(j), a.ld, 1}, {}, {&alone[j * rows], rows});
    for (size_t m : kBatches) {
      for (size_t first : {0, 1, 16, 35}) {
        const size_t n = std::min<size_t>(rows - first, 19), j = most - m;
        f.multiply_int8({w.row(first), w.stride, n, cols}, {a.row(j), a.ld, m}, {}, {part.data(), n});
        const auto same = [&](const std::vector<float>& whole) {
          for (size_t i = 0; i < m; ++i) {
            if (std::memcmp(&part[i * n], &whole[(j + i) * rows + first], n * 4) != 0) return false;
          }
          return true;
        };
        ASSERT_TRUE((m <= 4 && same(alone)) || (m > 1 && same(all)))
            << describe(isa, t, n, cols, m) << " first=" << first;
      }
    }
  }
}

// Widths around the blocks that vectors are filled by, and those that lie together at most; bounds are as if the
// product were clamped afterwards.
TEST_P(QuantTest, StreamedProductsAreThoseOfRowsAlone) {
  const Bounds out{-0.5f, 0.75f};
  for (DType t : kBlockFormats) {
    const FormatKernels& f = k.of(t);
    const bool super = traits(t).block_elems == 256;
    const std::vector<size_t> blocks =
        super ? std::vector<size_t>{1, 2, 4, 5, 31, 33, 65}
              : std::vector<size_t>{1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65, 511, 512, 513};
    for (size_t n : blocks) {
      const size_t cols = n * traits(t).block_elems, most = 17;
      for (size_t rows : n > 100 ? std::vector<size_t>{17} : std::vector<size_t>{1, 9, 35}) {
        const Matrix w(t, rows, cols, 25);
        std::vector<float> x = normal_floats(most * cols, 26);
        x[4 * cols] = kNaN;
        const Activations a(f, x, most, cols);
        std::vector<float> alone(most * rows), free(rows);
        for (size_t j = 0; j < most; ++j) {
          f.multiply_int8({w.row(0), w.stride, rows, cols}, {a.row(j), a.ld, 1}, {}, {free.data(), rows});
          for (size_t r = 0; r < rows; ++r) alone[j * rows + r] = std::clamp(free[r], out.lo, out.hi);
        }
        for (size_t m = 1; m <= most; ++m) {
          if (n > 100 && m % 4 > 1 && m != 3) continue;
          const size_t first = most - m, ldy = rows + 1;
          std::vector<float> y(m * ldy, 12345.0f);
          f.multiply_streamed({w.row(0), w.stride, rows, cols}, {a.row(first), a.ld, m}, out, {y.data(), ldy});
          for (size_t j = 0; j < m; ++j) {
            for (size_t r = 0; r < rows; ++r) {
              const float got = y[j * ldy + r], want = alone[(first + j) * rows + r];
              ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : std::memcmp(&got, &want, 4) == 0)
                  << describe(isa, t, rows, cols, m) << " " << j << " " << r << ": " << got << " " << want;
              ASSERT_EQ(std::isnan(want), first + j == 4);
            }
            ASSERT_EQ(y[j * ldy + rows], 12345.0f);
          }
        }
      }
    }
  }
}

// Bounds are as if rows were clamped before and after, in any batch; what is not a number stays so.
TEST_P(QuantTest, BoundsClampWhatGoesInAndOut) {
  const Bounds in{-0.5f, 0.75f}, out{-0.25f, 0.125f};
  for (DType t : kBlockFormats) {
    const FormatKernels& f = k.of(t);
    const size_t cols = widths(t)[3], rows = 37, most = 64, ld = chunk_stride(cols);
    const Matrix w(t, rows, cols, 23);
    std::vector<float> x = normal_floats(most * cols, 24), clamped = x;
    for (float& v : clamped) v = std::clamp(v, in.lo, in.hi);
    x[3] = kInf, clamped[3] = in.hi;
    x[cols + 40] = clamped[cols + 40] = kNaN;
    const Activations want(f, clamped, most, cols);
    std::vector<Int8Chunk> got(want.chunks.size());
    for (size_t j = 0; j < most; ++j) f.quantize(&x[j * cols], cols, in, &got[j * ld]);
    for (size_t j = 0; j < most; ++j)
      ASSERT_EQ(std::memcmp(&got[j * ld], want.row(j), chunks_of(cols) * sizeof(Int8Chunk)), 0) << traits(t).name;
    for (size_t m : {size_t{1}, size_t{2}, size_t{4}, size_t{5}, most}) {
      std::vector<float> free(m * rows), clamped(m * rows);
      f.multiply_int8({w.row(0), w.stride, rows, cols}, {want.row(0), ld, m}, {}, {free.data(), rows});
      f.multiply_int8({w.row(0), w.stride, rows, cols}, {want.row(0), ld, m}, out, {clamped.data(), rows});
      size_t cut = 0;
      for (size_t i = 0; i < m * rows; ++i) {
        if (i / rows == 1) {
          ASSERT_TRUE(std::isnan(clamped[i])) << describe(isa, t, rows, cols, m);
          continue;
        }
        ASSERT_EQ(clamped[i], std::clamp(free[i], out.lo, out.hi)) << describe(isa, t, rows, cols, m);
        cut += clamped[i] != free[i];
      }
      EXPECT_GT(cut, 0u);
    }
  }
}

// More blocks than lie in L1 together.
TEST_P(QuantTest, LongRowsMeetFewRowsInPieces) {
  for (DType t : kBlockFormats) {
    const FormatKernels& f = k.of(t);
    const size_t cols = 2 * 16384 + (traits(t).block_elems == 256 ? 512 : 160), rows = 3;
    const Matrix w(t, rows, cols, 21);
    const std::vector<float> x = normal_floats(4 * cols, 22);
    const Activations a(f, x, 4, cols);
    for (size_t m : {1, 2, 4}) {
      std::vector<float> y(m * rows);
      f.multiply_int8({w.row(0), w.stride, rows, cols}, {a.row(0), a.ld, m}, {}, {y.data(), rows});
      for (size_t j = 0; j < m; ++j) {
        for (size_t r = 0; r < rows; ++r) {
          const Expected want(w, r, a, x, j, m);
          ASSERT_NEAR(y[j * rows + r], want.value, want.tolerance) << describe(isa, t, rows, cols, m) << " row " << r;
        }
      }
    }
  }
}

// The largest quants against the largest activations: sixteen-bit sums must not saturate.
TEST_P(QuantTest, ExtremeQuantsDoNotSaturate) {
  for (DType t : kBlockFormats) {
    const FormatKernels& f = k.of(t);
    const size_t cols = 512, rows = 5;
    for (int fill : {0x00, 0xff, 0x7f, 0x80, 0x0f, 0xf0}) {
      const Matrix w(t, rows, cols, 7);
      for (size_t r = 0; r < rows; ++r) {
        for (size_t b = 0; b < w.blocks(); ++b) {
          std::memset(w.block(r, b), fill, traits(t).block_bytes);
          set_scales(t, w.block(r, b), 1, 1);
        }
      }
      for (int pattern = 0; pattern < 4; ++pattern) {
        std::vector<float> x(8 * cols);
        for (size_t i = 0; i < x.size(); ++i) x[i] = pattern < 2 ? 1 - 2.0f * pattern : (i + pattern) % 2 ? 127 : -127;
        const Activations a(f, x, 8, cols);
        std::vector<float> product(8 * rows);
        for (size_t m : {1, 2, 3, 8}) {
          f.multiply_int8({w.row(0), w.stride, rows, cols}, {a.row(0), a.ld, m}, {}, {product.data(), rows});
          for (size_t i = 0; i < m * rows; ++i) {
            const Expected want(w, i % rows, a, x, i / rows, m);
            ASSERT_NEAR(product[i], want.value, want.tolerance) << describe(isa, t, rows, cols, m) << " fill " << fill;
          }
        }
      }
    }
  }
}

TEST_P(QuantTest, SpecialScales) {
  for (DType t : kBlockFormats) {
    const FormatKernels& f = k.of(t);
    const size_t cols = 256, rows = 6;
    const Matrix w(t, rows, cols, 8);
    if (t != DType::kMXFP4) {
      set_scales(t, w.block(1, 0), kInf, 0);
      set_scales(t, w.block(2, 0), std::nan(""), 0);
    }
    for (size_t b = 0; b < w.blocks(); ++b) set_scales(t, w.block(3, b), 0x1p-24, 0x1p-23);  // subnormal halves
    for (size_t b = 0; b < w.blocks(); ++b) std::memset(w.block(4, b), 0, traits(t).block_bytes);
    std::vector<float> x = normal_floats(6 * cols, 9);
    std::fill_n(x.begin() + cols, cols, 0.0f);
    x[2 * cols + 40] = kInf;
    x[2 * cols + 80] = kNaN;
    const Activations a(f, x, 6, cols);
    std::vector<float> y(6 * rows);
    for (size_t m : {1, 3, 6}) {  // one by one: all six
      const size_t calls = m == 1 ? 6 : 1;
      for (size_t j = 0; j < calls; ++j)
        f.multiply_int8({w.row(0), w.stride, rows, cols}, {a.row(j), a.ld, m}, {}, {&y[j * rows], rows});
      if (t != DType::kMXFP4) {  // whose scales are all finite
        EXPECT_FALSE(std::isfinite(y[1])) << describe(isa, t, rows, cols, m);
        EXPECT_TRUE(std::isnan(y[2]));
      }
      const Expected want(w, 3, a, x, 0, m);
      EXPECT_NEAR(y[3], want.value, want.tolerance);
      // Where the smallest scale is not zero, what the zero point adds and subtracts is rounded as subnormal numbers
      // are.
      EXPECT_LE(std::abs(y[4]), t == DType::kMXFP4 ? 64 * 0x1p-149 : 0) << describe(isa, t, rows, cols, m);
      for (size_t r : {0, 3, 4, 5}) EXPECT_EQ(y[rows + r], 0.0f) << "activations of zero";
      // An infinity or a NaN reaches every output, as in f32, where inf * 0 is a NaN too.
      for (size_t r = 0; r < rows; ++r) EXPECT_TRUE(std::isnan(y[2 * rows + r]));
    }
  }
}

// --- from_f32 --------------------------------------------------------------------------------------------------------

double squared_error(DType t, const std::vector<float>& x, const std::vector<uint8_t>& bytes) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t n = traits(t).block_elems;
    const double e = element(t, bytes.data() + i / n * traits(t).block_bytes, i % n).value() - x[i];
    sum += e * e;
  }
  return sum;
}

std::vector<uint8_t> converted(DType t, const std::vector<float>& x) {
  std::vector<uint8_t> bytes(row_bytes(t, x.size()));
  active_isa().k.of(t).from_f32(x.data(), bytes.data(), x.size());
  return bytes;
}

TEST(QuantCodec, FromF32LosesLittle) {
  // Root mean square error over that of the values, for normal ones; plain rounding by the largest value of a block
  // gives 0.0055, 0.095 for Q8_0 and Q4_0.
  const std::vector<std::pair<DType, double>> most = {
      {DType::kQ8_0, 0.0056}, {DType::kQ4_0, 0.088}, {DType::kQ5_0, 0.0415}, {DType::kQ5_1, 0.0355},
      {DType::kQ4_K, 0.073},  {DType::kQ5_K, 0.037}, {DType::kQ6_K, 0.0185}};
  const std::vector<float> x = normal_floats(256 * 64, 10);
  double power = 0;
  for (float f : x) power += static_cast<double>(f) * f;
  size_t written = 0;
  for (DType t : kBlockFormats) written += active_isa().k.of(t).from_f32 != nullptr;
  EXPECT_EQ(written, most.size());
  for (const auto& [t, bound] : most) {
    const double error = std::sqrt(squared_error(t, x, converted(t, x)) / power);
    EXPECT_LE(error, bound) << traits(t).name;
    RecordProperty(std::string(traits(t).name), std::to_string(error));
  }
}

// What lies on a grid of Q8_0, Q4_0 or Q5_0 comes back as it was.
TEST(QuantCodec, FromF32FindsTheGrid) {
  for (DType t : {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0}) {
    Matrix w(t, 1, 32 * 200, 11, 0);
    for (size_t b = 0; b < w.blocks(); ++b) {  // the extreme quant is used
      w.block(0, b)[2] = t == DType::kQ8_0 ? 127 : 0;
      if (t == DType::kQ5_0) w.block(0, b)[6] = 0;
    }
    if (t == DType::kQ8_0) {
      for (size_t b = 0; b < w.blocks(); ++b)
        for (int i = 0; i < 32; ++i) w.block(0, b)[2 + i] |= w.block(0, b)[2 + i] == 0x80;
    }
    std::vector<float> x(w.cols);
    active_isa().k.of(t).to_f32(w.row(0), x.data(), w.cols);
    EXPECT_EQ(squared_error(t, x, converted(t, x)), 0) << traits(t).name;
  }
}

// The same after values were rounded to 16 bits, with scales of all sizes and signs and quants that lack the extreme.
TEST(QuantCodec, FromF32FindsTheLatticeOfRoundedValues) {
  const std::vector<float (*)(float)> stores = {[](float f) { return f; },
                                                [](float f) { return bf16_to_f32(f32_to_bf16(f)); },
                                                [](float f) { return f16_to_f32(f32_to_f16(f)); }};
  struct Lattice {
    DType written;
    int low, high;
    bool whole;  // 127 is among the quants
  };
  const Lattice lattices[] = {{DType::kQ4_0, -8, 7, false},
                              {DType::kQ5_0, -16, 15, false},
                              {DType::kQ8_0, -127, 127, true},
                              {DType::kQ8_0, -8, 7, false}};
  std::mt19937 rng(17);
  constexpr size_t kBlocks = 4000;
  for (const Lattice& l : lattices) {
    for (const auto store : stores) {
      std::vector<float> x(kBlocks * 32), back(x.size());
      for (size_t b = 0; b < kBlocks; ++b) {
        // All halves whose products are halves again; some blocks keep to small quants.
        const auto scale = f16_to_f32(static_cast<uint16_t>((rng() & 1) << 15 | (1 + rng() % 0x5bff)));
        const int share = l.whole ? 1 : 1 + static_cast<int>(rng() % 4), low = l.low / share, high = l.high / share;
        for (size_t i = 0; i < 32; ++i) {
          int q = low + static_cast<int>(rng() % static_cast<unsigned>(high - low + 1));
          if (l.whole && i == b % 32) q = b % 2 ? 127 : -127;
          x[b * 32 + i] = store(scale * static_cast<float>(q));
        }
      }
      const std::vector<uint8_t> bytes = converted(l.written, x);
      active_isa().k.of(l.written).to_f32(bytes.data(), back.data(), back.size());
      size_t wrong = 0;
      for (size_t i = 0; i < x.size(); ++i) wrong += store(back[i]) != x[i];
      EXPECT_EQ(wrong, 0U) << traits(l.written).name << " from quants of " << l.low;
    }
  }
}

TEST(QuantCodec, FromF32OfSpecialValues) {
  for (DType t : kBlockFormats) {
    if (active_isa().k.of(t).from_f32 == nullptr) continue;
    for (float special : {kInf, kNaN}) {
      std::vector<float> x = normal_floats(512, 12), back(512);
      x[300] = special;
      const std::vector<uint8_t> bytes = converted(t, x);
      active_isa().k.of(t).to_f32(bytes.data(), back.data(), 512);
      const size_t n = traits(t).block_elems, first = 300 / n * n;
      for (size_t i = 0; i < 512; ++i) EXPECT_EQ(std::isnan(back[i]), i >= first && i < first + n) << traits(t).name;
    }
    for (float value : {0.0f, 1e-30f, 1e30f, -3.0f, 2.5f}) {
      std::vector<float> x(256, value), back(256);
      const std::vector<uint8_t> bytes = converted(t, x);
      active_isa().k.of(t).to_f32(bytes.data(), back.data(), 256);
      for (float f : back) {
        ASSERT_TRUE(std::isfinite(f));
        if (std::abs(value) < 4) {
          ASSERT_NEAR(f, value, 0.01 * std::abs(value) + 1e-7) << traits(t).name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace gemma4
