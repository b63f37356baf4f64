// Rows of one storage format on every instruction set of this machine against double precision, and the tables.
// Tolerances are derived, not tuned: u = 2^-24 is the rounding of one f32 operation, and each comment counts roundings.
// Weights and rows end at an unreadable page, so that one element read or written too far kills the test.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "half.h"
#include "kernel_testing.h"
#include "kernels/isa.h"

namespace gemma4 {
namespace {

const size_t kBatches[] = {1, 2, 3, 4, 5, 8};
const DType kAllFormats[] = {DType::kF32, DType::kF16, DType::kBF16};

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
  Guarded<> bytes;

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

std::string describe(const Isa& k, DType t, size_t rows, size_t cols, size_t m) {
  return std::string(k.name) + " " + std::string(traits(t).name) + " rows=" + std::to_string(rows) +
         " k=" + std::to_string(cols) + " m=" + std::to_string(m);
}

INSTANTIATE_TEST_SUITE_P(Isa, KernelsTest, testing::ValuesIn(supported_isas()),
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
          k.of(t).rows_dot({w.at(0, 0), w.stride, rows, cols}, {x.data(), ldx, m}, {y.data(), ldy});
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
          worst.expect("rows_dot " + describe(isa, t, rows, cols, m));
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
    k.of(t).rows_dot({w.at(0, 0), w.stride, kRows, kCols}, {x.data(), kCols, kM}, {all.data(), kRows});
    for (size_t j = 0; j < kM; ++j) {
      for (size_t r = 0; r < kRows; ++r) {
        k.of(t).rows_dot({w.at(r, 0), w.stride, 1, kCols}, {x.data() + j * kCols, kCols, 1}, {one.data(), 1});
        ASSERT_EQ(one[0], all[j * kRows + r]) << describe(isa, t, r, kCols, j);
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
          k.of(t).rows_axpy({w.at(0, 0), w.stride, rows, cols}, {p.data(), ldp, m}, {y.data(), ldy});
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
          worst.expect("rows_axpy " + describe(isa, t, rows, cols, m));
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
    k.of(t).rows_axpy({w.at(0, 0), w.stride, kRows, kCols}, {p.data(), kRows, kM}, {all.data(), kCols});
    for (size_t j = 0; j < kM; ++j) {
      Row one(std::vector<float>(kCols, 0.0f));
      for (size_t r = 0; r < kRows; ++r)
        k.of(t).rows_axpy({w.at(r, 0), w.stride, 1, kCols}, {p.data() + j * kRows + r, kRows, 1}, {one.data(), kCols});
      for (size_t i = 0; i < kCols; ++i) ASSERT_EQ(one[i], all[j * kCols + i]) << describe(isa, t, 11, i, j);
    }
  }
}

TEST_P(KernelsTest, NothingToDo) {
  float y[2] = {1.0f, 2.0f};
  for (DType t : kAllFormats) {
    k.of(t).rows_dot({nullptr, 0, 0, 8}, {nullptr, 0, 1}, {nullptr, 0});
    k.of(t).rows_dot({nullptr, 0, 2, 0}, {nullptr, 0, 1}, {y, 2});
    EXPECT_EQ(y[0], 0.0f);
    EXPECT_EQ(y[1], 0.0f);
    k.of(t).rows_axpy({nullptr, 0, 0, 8}, {nullptr, 0, 1}, {nullptr, 0});
    k.of(t).to_f32(nullptr, nullptr, 0);
    k.of(t).from_f32(nullptr, nullptr, 0);
  }
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
        k.of(t).rows_dot({w.at(0, 0), w.stride, 5, cols}, {x.data(), cols, 1}, {y.data(), 5});
        ASSERT_TRUE(std::isfinite(y[0]) && std::isfinite(y[1]) && std::isfinite(y[3]));
        ASSERT_TRUE(std::isnan(y[2])) << describe(isa, t, 5, cols, 1) << " bad=" << bad;
        ASSERT_EQ(y[4], kInf);
        Row p(std::vector<float>(5, 1.0f)), sum(std::vector<float>(cols, 0.0f));
        k.of(t).rows_axpy({w.at(0, 0), w.stride, 5, cols}, {p.data(), 5, 1}, {sum.data(), cols});
        for (size_t i = 0; i < cols; ++i) ASSERT_EQ(std::isnan(sum[i]), i == bad);
      }
    }
  }
}

// --- the tables ------------------------------------------------------------------------------------------------------

TEST(KernelTables, AgreeWithTheScalarOne) {
  const Kernels& scalar = isa_by_name("scalar").k;
  constexpr size_t kRows = 6, kCols = 1000;
  for (const Isa* table : supported_isas()) {
    for (DType t : kAllFormats) {
      Matrix w(t, kRows, kCols, 0, 0, 22);
      Row x(random_floats(kCols, 23)), got(kRows), want(kRows);
      table->k.of(t).rows_dot({w.at(0, 0), w.stride, kRows, kCols}, {x.data(), kCols, 1}, {got.data(), kRows});
      scalar.of(t).rows_dot({w.at(0, 0), w.stride, kRows, kCols}, {x.data(), kCols, 1}, {want.data(), kRows});
      Worst worst;
      for (size_t r = 0; r < kRows; ++r) {
        double magnitude = 0;
        for (size_t i = 0; i < kCols; ++i) magnitude += std::abs(w.value(r, i) * x[i]);
        worst.check(got[r], want[r], 2 * (kCols / 4.0 + 6) * kU * magnitude, r);
      }
      worst.expect("rows_dot " + describe(*table, t, kRows, kCols, 1));
    }
  }
}

TEST(KernelTables, AreCompleteAndInOrder) {
  std::vector<const Isa*> tables = supported_isas();
  ASSERT_FALSE(tables.empty());
  EXPECT_EQ(tables.back()->name, "scalar");
  for (const Isa* table : tables) {
    EXPECT_EQ(&isa_by_name(table->name), table);
    for (DType t : kAllFormats) {
      const FormatKernels& f = table->k.of(t);
      EXPECT_TRUE(f.to_f32 && f.rows_dot && f.rows_axpy && f.from_f32) << table->name << " " << traits(t).name;
    }
  }
}

TEST(KernelTables, TheActiveOneIsTheForcedOrTheBest) {
  const char* forced = std::getenv("GEMMA4_ISA");
  std::string_view want = forced && *forced ? forced : supported_isas().front()->name;
  EXPECT_EQ(active_isa().name, want);
}

TEST(KernelTables, UnknownNameIsRefusedWithTheList) {
  try {
    isa_by_name("avx1024");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kRequest);
    std::string message = e.what();
    EXPECT_NE(message.find("'avx1024'"), std::string::npos) << message;
    for (const Isa* table : supported_isas()) EXPECT_NE(message.find(table->name), std::string::npos) << message;
  }
}

TEST(KernelTables, FeaturesCoverTheTables) {
  std::vector<std::string> features = cpu_features();
  auto has = [&](const char* name) { return std::count(features.begin(), features.end(), name) == 1; };
  for (const Isa* table : supported_isas()) {
    bool neon = table->name == "neon", vector = table->name != "scalar" && !neon, wide = table->name == "avx512";
    EXPECT_TRUE(!vector || (has("avx2") && has("fma") && has("f16c")));
    EXPECT_TRUE(!wide || (has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl")));
    EXPECT_TRUE(!neon || has("asimddp"));
  }
}

}  // namespace
}  // namespace gemma4
