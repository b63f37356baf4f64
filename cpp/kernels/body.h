// Every kernel, written once over a small vector class V. Knows: lanes. Must not know: which instruction set.
// Included by one source file per instruction set. Everything has internal linkage on purpose: each object file keeps
// its own copy (see tables.h). No function of another header and no std:: template may be called here.
// V: F (kLanes floats), U (kLanes bit patterns), M (mask); `All` or `Some{n}` says how many lanes a load or store
// touches, and lanes that are not loaded are zero. min(a, b) and max(a, b) are b when either is a NaN.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

// The loop bodies below are called from two places (whole vectors, tail): without this they become calls.
#define GEMMA4_INLINE __attribute__((always_inline))

namespace gemma4 {
namespace {

struct All {};
struct Some {
  size_t n;
};

template <int kValue>
struct Const {
  static constexpr int value = kValue;
};

// f(Const<0>{}) ... f(Const<N - 1>{})
template <int N, int I = 0, class Fn>
GEMMA4_INLINE inline void unroll(Fn f) {
  if constexpr (I < N) {
    f(Const<I>{});
    unroll<N, I + 1>(f);
  }
}

// f(i, lanes) for i = 0, kLanes, 2 * kLanes, ... and once more for the tail.
template <class V, class Fn>
inline void for_each_vec(size_t n, Fn f) {
  size_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) f(i, All{});
  if (i < n) f(i, Some{n - i});
}

// ---------------------------------------------------------------------------------------------------------------------
// Storage formats: how V::kLanes elements become floats and back. Addresses need no alignment.

struct F32Format {
  static constexpr size_t offset(size_t i) { return i * 4; }
  template <class V, class L>
  GEMMA4_INLINE static inline typename V::F load(const char* p, L lanes) {
    return V::load(reinterpret_cast<const float*>(p), lanes);
  }
  template <class V, class L>
  static inline void store(char* p, typename V::F v, L lanes) {
    V::store(reinterpret_cast<float*>(p), v, lanes);
  }
};

struct F16Format {
  static constexpr size_t offset(size_t i) { return i * 2; }
  template <class V, class L>
  GEMMA4_INLINE static inline typename V::F load(const char* p, L lanes) {
    return V::load_f16(p, lanes);
  }
  template <class V, class L>
  static inline void store(char* p, typename V::F v, L lanes) {
    V::store_f16(p, v, lanes);
  }
};

struct BF16Format {
  static constexpr size_t offset(size_t i) { return i * 2; }
  template <class V, class L>
  GEMMA4_INLINE static inline typename V::F load(const char* p, L lanes) {
    return V::load_bf16(p, lanes);
  }
  template <class V, class L>
  static inline void store(char* p, typename V::F v, L lanes) {
    V::store_bf16(p, v, lanes);
  }
};

// Quants of kBits bits, without their scale. i is a multiple of kLanes, which no byte crosses. Lanes that are not
// loaded are any quant: what they meet is zero or not stored.
template <int kBits>
struct QuantFormat {
  static constexpr size_t offset(size_t i) { return i * kBits / 8; }
  template <class V, class L>
  GEMMA4_INLINE static inline typename V::F load(const char* p, L lanes) {
    return V::template load_quants<kBits>(p, lanes);
  }
};

template <class V, class T>
void to_f32(const void* src, float* dst, size_t n) {
  const char* s = static_cast<const char*>(src);
  for_each_vec<V>(n, [=](size_t i, auto lanes)
                         GEMMA4_INLINE { V::store(dst + i, T::template load<V>(s + T::offset(i), lanes), lanes); });
}

template <class V, class T>
void from_f32(const float* src, void* dst, size_t n) {
  char* d = static_cast<char*>(dst);
  for_each_vec<V>(n, [=](size_t i, auto lanes)
                         GEMMA4_INLINE { T::template store<V>(d + T::offset(i), V::load(src + i, lanes), lanes); });
}

// ---------------------------------------------------------------------------------------------------------------------
// rows_dot. A result has one accumulator whatever the tile, so a token gets the same bits alone (decode) and in a batch
// (prefill), and a row the same bits wherever a thread's share of the rows begins. Four rows at once keep memory busy
// (software prefetch of the next four was measured and gained nothing).

template <class V, class T, int R, int J>
inline void dot_tile(const char* w, size_t stride, size_t k, const float* x, size_t ldx, float* y, size_t ldy) {
  typename V::F acc[R][J];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < J; ++j) acc[r][j] = V::set(0.0f);
  for_each_vec<V>(k, [&](size_t i, auto lanes) GEMMA4_INLINE {
    typename V::F row[R];
    for (int r = 0; r < R; ++r) row[r] = T::template load<V>(w + r * stride + T::offset(i), lanes);
    for (int j = 0; j < J; ++j) {
      typename V::F v = V::load(x + j * ldx + i, lanes);
      for (int r = 0; r < R; ++r) acc[r][j] = V::fma(row[r], v, acc[r][j]);
    }
  });
  for (int j = 0; j < J; ++j)
    for (int r = 0; r < R; ++r) y[j * ldy + r] = V::sum(acc[r][j]);
}

// All m activations against R rows, V::kTileActs at a time.
template <class V, class T, int R>
inline void dot_rows(const char* w, size_t stride, size_t k, InputRows<float> in, float* y, size_t ldy) {
  const float* x = in.rows;
  const size_t ldx = in.ld, m = in.count;
  size_t j = 0;
  for (; j + V::kTileActs <= m; j += V::kTileActs)
    dot_tile<V, T, R, V::kTileActs>(w, stride, k, x + j * ldx, ldx, y + j * ldy, ldy);
  for (; j + 2 <= m; j += 2) dot_tile<V, T, R, 2>(w, stride, k, x + j * ldx, ldx, y + j * ldy, ldy);
  for (; j < m; ++j) dot_tile<V, T, R, 1>(w, stride, k, x + j * ldx, ldx, y + j * ldy, ldy);
}

template <class V, class T>
void rows_dot(WeightRows w, InputRows<float> x, OutputRows y) {
  const char* p = static_cast<const char*>(w.rows);
  size_t r = 0;
  for (; r + 4 <= w.count; r += 4) dot_rows<V, T, 4>(p + r * w.stride, w.stride, w.k, x, y.rows + r, y.ld);
  for (; r < w.count; ++r) dot_rows<V, T, 1>(p + r * w.stride, w.stride, w.k, x, y.rows + r, y.ld);
}

// ---------------------------------------------------------------------------------------------------------------------
// rows_axpy. Every y takes the rows one after the other, whatever the tile: same bits alone and in a batch.

template <class V, class T, int R, int J>
inline void axpy_tile(const char* w, size_t stride, size_t k, const float* p, size_t ldp, float* y, size_t ldy) {
  typename V::F scale[J][R];
  for (int j = 0; j < J; ++j)
    for (int r = 0; r < R; ++r) scale[j][r] = V::set(p[j * ldp + r]);
  for_each_vec<V>(k, [&](size_t i, auto lanes) GEMMA4_INLINE {
    typename V::F row[R];
    for (int r = 0; r < R; ++r) row[r] = T::template load<V>(w + r * stride + T::offset(i), lanes);
    for (int j = 0; j < J; ++j) {
      typename V::F acc = V::load(y + j * ldy + i, lanes);
      for (int r = 0; r < R; ++r) acc = V::fma(scale[j][r], row[r], acc);
      V::store(y + j * ldy + i, acc, lanes);
    }
  });
}

template <class V, class T, int R>
inline void axpy_rows(const char* w, size_t stride, size_t k, InputRows<float> in, float* y, size_t ldy) {
  const float* p = in.rows;
  const size_t ldp = in.ld, m = in.count;
  size_t j = 0;
  for (; j + V::kTileActs <= m; j += V::kTileActs)
    axpy_tile<V, T, R, V::kTileActs>(w, stride, k, p + j * ldp, ldp, y + j * ldy, ldy);
  for (; j < m; ++j) axpy_tile<V, T, R, 1>(w, stride, k, p + j * ldp, ldp, y + j * ldy, ldy);
}

template <class V, class T>
void rows_axpy(WeightRows w, InputRows<float> p, OutputRows y) {
  const char* q = static_cast<const char*>(w.rows);
  const auto from = [&](size_t r) GEMMA4_INLINE { return InputRows<float>{p.rows + r, p.ld, p.count}; };
  size_t r = 0;
  for (; r + 4 <= w.count; r += 4) axpy_rows<V, T, 4>(q + r * w.stride, w.stride, w.k, from(r), y.rows, y.ld);
  for (; r < w.count; ++r) axpy_rows<V, T, 1>(q + r * w.stride, w.stride, w.k, from(r), y.rows, y.ld);
}

// ---------------------------------------------------------------------------------------------------------------------
// exp and tanh, the same polynomials on every instruction set (Cephes expf and tanhf; within 2 ulp).

// Adding 1.5 * 2^23 rounds to an integer (nearest even) and leaves it in the low bits.
inline constexpr float kRound = 12582912.0f;

// 2^n for the integer whose sum with kRound is t, n in [-126, 127].
template <class V>
inline typename V::F pow2_of_rounded(typename V::F t) {
  return V::as_float(V::add_bits(V::shift_left(V::as_bits(t), 23), 0x3f800000u));
}

template <class V>
GEMMA4_INLINE inline typename V::F exp(typename V::F x) {
  using F = typename V::F;
  // Below -104 the result is 0. Those lanes (masked positions at -inf) compute exp(0), since a product that underflows
  // costs a microcode assist.
  typename V::M tiny = V::less(x, V::set(-104.0f));
  F v = V::select(tiny, V::set(0.0f), V::min(V::set(89.0f), x));
  F t = V::fma(v, V::set(1.44269504088896341f), V::set(kRound));
  F n = V::sub(t, V::set(kRound));
  // ln 2 in two parts: n times the first is exact.
  F r = V::fma(n, V::set(-0.693359375f), v);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  F p = V::set(1.9875691500e-4f);
  p = V::fma(p, r, V::set(1.3981999507e-3f));
  p = V::fma(p, r, V::set(8.3334519073e-3f));
  p = V::fma(p, r, V::set(4.1665795894e-2f));
  p = V::fma(p, r, V::set(1.6666665459e-1f));
  p = V::fma(p, r, V::set(5.0000001201e-1f));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set(1.0f));
  // 2^n in two halves: n reaches -150 (subnormal results) and 128.
  F t_half = V::fma(n, V::set(0.5f), V::set(kRound));
  F rest = V::sub(n, V::sub(t_half, V::set(kRound)));
  p = V::mul(p, pow2_of_rounded<V>(t_half));
  p = V::mul(p, pow2_of_rounded<V>(V::add(rest, V::set(kRound))));
  return V::select(tiny, V::set(0.0f), p);
}

template <class V>
GEMMA4_INLINE inline typename V::F tanh(typename V::F x) {
  using F = typename V::F;
  F a = V::abs(x);
  // 1 - 2 / (e^2a + 1) cancels near 0, where a polynomial is exact enough.
  F big = V::sub(V::set(1.0f), V::div(V::set(2.0f), V::add(exp<V>(V::add(a, a)), V::set(1.0f))));
  F s = V::mul(a, a);
  F p = V::set(-5.70498872745e-3f);
  p = V::fma(p, s, V::set(2.06390887954e-2f));
  p = V::fma(p, s, V::set(-5.37397155531e-2f));
  p = V::fma(p, s, V::set(1.33314422036e-1f));
  p = V::fma(p, s, V::set(-3.33332819422e-1f));
  F small = V::fma(V::mul(p, s), a, a);
  return V::copy_sign(V::select(V::less(a, V::set(0.625f)), small, big), x);
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows of floats.

template <class V>
void rms_norm(const float* x, const float* weight, float* y, size_t n, float eps) {
  // Four accumulators: the sum is exact to a few ulp and one FMA does not wait for the one before it.
  typename V::F acc[4] = {V::set(0.0f), V::set(0.0f), V::set(0.0f), V::set(0.0f)};
  constexpr size_t kStep = 4 * V::kLanes;
  size_t whole = n / kStep * kStep;
  for (size_t i = 0; i < whole; i += kStep) {
    for (int a = 0; a < 4; ++a) {
      typename V::F v = V::load(x + i + a * V::kLanes, All{});
      acc[a] = V::fma(v, v, acc[a]);
    }
  }
  for_each_vec<V>(n - whole, [&](size_t i, auto lanes) GEMMA4_INLINE {
    typename V::F v = V::load(x + whole + i, lanes);
    acc[0] = V::fma(v, v, acc[0]);
  });
  float sum = V::sum(V::add(V::add(acc[0], acc[1]), V::add(acc[2], acc[3])));
  typename V::F inverse = V::set(1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps));
  if (weight) {
    for_each_vec<V>(n, [=](size_t i, auto lanes) GEMMA4_INLINE {
      V::store(y + i, V::mul(V::mul(V::load(x + i, lanes), inverse), V::load(weight + i, lanes)), lanes);
    });
  } else {
    for_each_vec<V>(
        n, [=](size_t i, auto lanes) GEMMA4_INLINE { V::store(y + i, V::mul(V::load(x + i, lanes), inverse), lanes); });
  }
}

template <class V>
void axpy(float a, const float* x, float* y, size_t n) {
  typename V::F scale = V::set(a);
  for_each_vec<V>(n, [=](size_t i, auto lanes) GEMMA4_INLINE {
    V::store(y + i, V::fma(scale, V::load(x + i, lanes), V::load(y + i, lanes)), lanes);
  });
}

template <class V>
void scale(float a, const float* x, float* y, size_t n) {
  typename V::F factor = V::set(a);
  for_each_vec<V>(
      n, [=](size_t i, auto lanes) GEMMA4_INLINE { V::store(y + i, V::mul(factor, V::load(x + i, lanes)), lanes); });
}

template <class V>
void mul(const float* x, const float* z, float* y, size_t n) {
  for_each_vec<V>(n, [=](size_t i, auto lanes) GEMMA4_INLINE {
    V::store(y + i, V::mul(V::load(x + i, lanes), V::load(z + i, lanes)), lanes);
  });
}

// gelu_tanh(x) = x / 2 * (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2 / pi) * (x + 0.044715 x^3). The second form does
// not cancel where tanh(u) is near -1.
template <class V>
void gelu_mul(const float* gate, const float* up, float* y, size_t n) {
  for_each_vec<V>(n, [=](size_t i, auto lanes) GEMMA4_INLINE {
    typename V::F x = V::load(gate + i, lanes);
    typename V::F inner = V::fma(V::mul(x, x), V::set(0.044715f), V::set(1.0f));
    typename V::F minus_2u = V::mul(V::mul(x, V::set(-1.5957691216057308f)), inner);
    typename V::F gelu = V::div(x, V::add(V::set(1.0f), exp<V>(minus_2u)));
    V::store(y + i, V::mul(gelu, V::load(up + i, lanes)), lanes);
  });
}

template <class V>
void soft_cap(float* x, size_t n, float cap) {
  typename V::F c = V::set(cap);
  for_each_vec<V>(n, [=](size_t i, auto lanes) GEMMA4_INLINE {
    V::store(x + i, V::mul(c, tanh<V>(V::div(V::load(x + i, lanes), c))), lanes);
  });
}

template <class V>
float exp_sum(float* x, size_t n, float max) {
  // A row that is masked everywhere has the maximum -inf: its exponentials are 0, not exp(-inf + inf).
  typename V::F shift = V::set(max == -__builtin_inff() ? 0.0f : max);
  typename V::F acc = V::set(0.0f);
  size_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    typename V::F e = exp<V>(V::sub(V::load(x + i, All{}), shift));
    V::store(x + i, e, All{});
    acc = V::add(acc, e);
  }
  if (i < n) {
    typename V::F e = exp<V>(V::sub(V::load(x + i, Some{n - i}), shift));
    V::store(x + i, e, Some{n - i});
    // Read back so that the lanes beyond the row are 0 in the sum.
    acc = V::add(acc, V::load(x + i, Some{n - i}));
  }
  return V::sum(acc);
}

// -inf for an empty row; NaN if any element is.
template <class V>
float max(const float* x, size_t n) {
  using F = typename V::F;
  F acc = V::set(-__builtin_inff());
  // V::max(v, acc) keeps a NaN in acc but drops one in v.
  auto take = [&](F v) GEMMA4_INLINE { acc = V::select(V::is_nan(v), v, V::max(v, acc)); };
  size_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) take(V::load(x + i, All{}));
  float lanes[V::kLanes];
  if (i < n) {
    for (size_t l = 0; l < V::kLanes; ++l) lanes[l] = i + l < n ? x[i + l] : -__builtin_inff();
    take(V::load(lanes, All{}));
  }
  V::store(lanes, acc, All{});
  float best = lanes[0];
  for (size_t l = 1; l < V::kLanes; ++l)
    if (lanes[l] > best || lanes[l] != lanes[l]) best = lanes[l];
  return best;
}

template <class V>
void rope(float* x, const float* cos, const float* sin, size_t pairs, size_t half) {
  for_each_vec<V>(pairs, [=](size_t i, auto lanes) GEMMA4_INLINE {
    typename V::F a = V::load(x + i, lanes);
    typename V::F b = V::load(x + i + half, lanes);
    typename V::F c = V::load(cos + i, lanes);
    typename V::F s = V::load(sin + i, lanes);
    V::store(x + i, V::sub(V::mul(a, c), V::mul(b, s)), lanes);
    V::store(x + i + half, V::add(V::mul(b, c), V::mul(a, s)), lanes);
  });
}

// Bounds in registers.
template <class V>
struct Clamp {
  typename V::F lo, hi;

  GEMMA4_INLINE inline Clamp(float low, float high) : lo(V::set(low)), hi(V::set(high)) {}
  GEMMA4_INLINE inline typename V::F operator()(typename V::F v) const { return V::min(hi, V::max(lo, v)); }
};

template <class V>
void clamp(float* x, size_t n, float lo, float hi) {
  const Clamp<V> clamped(lo, hi);
  for_each_vec<V>(n,
                  [=](size_t i, auto lanes) GEMMA4_INLINE { V::store(x + i, clamped(V::load(x + i, lanes)), lanes); });
}

template <class V>
void to_lattice(const float* x, float* y, size_t n, float step, float unit) {
  // Held first: the bounds are quants, and within them adding and subtracting kRound rounds.
  const Clamp<V> clamped(-128.0f, 127.0f);
  typename V::F s = V::set(step), u = V::set(unit), round = V::set(kRound);
  for_each_vec<V>(n, [=](size_t i, auto lanes) GEMMA4_INLINE {
    typename V::F quant = V::sub(V::add(clamped(V::div(V::load(x + i, lanes), s)), round), round);
    V::store(y + i, V::mul(quant, u), lanes);
  });
}

// ---------------------------------------------------------------------------------------------------------------------

template <class V, class T>
consteval FormatKernels make_format() {
  return {.to_f32 = to_f32<V, T>,
          .rows_dot = rows_dot<V, T>,
          .rows_axpy = rows_axpy<V, T>,
          .from_f32 = from_f32<V, T>,
          .quantize = nullptr,
          .multiply_int8 = nullptr,
          .multiply_streamed = nullptr};
}

template <class V, int kBits>
consteval FormatKernels make_quants() {
  return {.to_f32 = to_f32<V, QuantFormat<kBits>>,
          .rows_dot = rows_dot<V, QuantFormat<kBits>>,
          .rows_axpy = nullptr,
          .from_f32 = nullptr,
          .quantize = nullptr,
          .multiply_int8 = nullptr,
          .multiply_streamed = nullptr};
}

template <class V>
consteval Kernels make_table() {
  Kernels table{};
  table.format[static_cast<int>(DType::kF32)] = make_format<V, F32Format>();
  table.format[static_cast<int>(DType::kF16)] = make_format<V, F16Format>();
  table.format[static_cast<int>(DType::kBF16)] = make_format<V, BF16Format>();
  table.format[static_cast<int>(DType::kI2)] = make_quants<V, 2>();
  table.format[static_cast<int>(DType::kI4)] = make_quants<V, 4>();
  table.format[static_cast<int>(DType::kI8)] = make_quants<V, 8>();
  table.rms_norm = rms_norm<V>;
  table.axpy = axpy<V>;
  table.scale = scale<V>;
  table.mul = mul<V>;
  table.gelu_mul = gelu_mul<V>;
  table.soft_cap = soft_cap<V>;
  table.exp_sum = exp_sum<V>;
  table.max = max<V>;
  table.rope = rope<V>;
  table.clamp = clamp<V>;
  table.to_lattice = to_lattice<V>;
  return table;
}

}  // namespace
}  // namespace gemma4
