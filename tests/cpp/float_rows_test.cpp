// Functions of rows of floats on every instruction set of this machine against double precision.
// Tolerances are derived, not tuned: u = 2^-24 is the rounding of one f32 operation, and each comment counts roundings.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernel_testing.h"
#include "kernels/isa.h"

namespace gemma4 {
namespace {

INSTANTIATE_TEST_SUITE_P(Isa, KernelsTest, testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(info.param->name); });

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
      worst.expect("rms_norm " + std::string(isa.name) + " n=" + std::to_string(n));
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
    worst.expect("axpy " + std::string(isa.name));
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
    worst.expect("rope " + std::string(isa.name) + " pairs=" + std::to_string(pairs));
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

TEST_P(KernelsTest, NothingToDo) {
  EXPECT_EQ(k.exp_sum(nullptr, 0, 0.0f), 0.0f);
  EXPECT_EQ(k.max(nullptr, 0), -kInf);
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
  worst.expect("exp " + std::string(isa.name));
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
    worst.expect("exp_sum " + std::string(isa.name) + " n=" + std::to_string(n));
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
  worst.expect("tanh " + std::string(isa.name));
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
    worst.expect("soft_cap " + std::string(isa.name) + " n=" + std::to_string(n));
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

TEST_P(KernelsTest, SoftCapAgreesWithTheScalarOne) {
  Row got(sweep(-80.0f, 80.0f)), want(sweep(-80.0f, 80.0f));
  k.soft_cap(got.data(), got.size(), 5.0f);
  isa_by_name("scalar").k.soft_cap(want.data(), want.size(), 5.0f);
  Worst worst;
  for (size_t i = 0; i < got.size(); ++i) worst.check(got[i], want[i], 8 * kU * std::abs(want[i]), i);
  worst.expect("soft_cap " + std::string(isa.name));
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
  worst.expect("gelu " + std::string(isa.name));
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
    worst.expect("gelu_mul " + std::string(isa.name) + " n=" + std::to_string(n));
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

}  // namespace
}  // namespace gemma4
