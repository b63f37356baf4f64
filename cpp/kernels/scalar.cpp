// The table for every CPU: the specification of the others. Knows: arithmetic that any machine has.
// Must not know: intrinsics. Four lanes of the compiler's generic vectors, so that it uses whatever the baseline of the
// architecture guarantees (SSE2, NEON) and exercises the same tails; no fused multiply-add.
#include <cstring>

#include "kernels/body.h"
#include "kernels/codec.h"
#include "kernels/tables.h"

namespace gemma4 {
namespace scalar {
namespace {

struct Vec {
  static constexpr size_t kLanes = 4;
  static constexpr int kTileActs = 2;
  using F = float __attribute__((vector_size(16)));
  using U = uint32_t __attribute__((vector_size(16)));
  using M = int32_t __attribute__((vector_size(16)));

  static inline F set(float a) { return F{a, a, a, a}; }
  static inline F add(F a, F b) { return a + b; }
  static inline F sub(F a, F b) { return a - b; }
  static inline F mul(F a, F b) { return a * b; }
  static inline F div(F a, F b) { return a / b; }
  static inline F fma(F a, F b, F c) { return a * b + c; }
  static inline M less(F a, F b) { return a < b; }
  static inline M is_nan(F a) { return a != a; }
  static inline F select(M m, F a, F b) { return m ? a : b; }
  static inline F min(F a, F b) { return a < b ? a : b; }
  static inline F max(F a, F b) { return a > b ? a : b; }
  static inline U as_bits(F a) { return reinterpret_cast<U>(a); }
  static inline F as_float(U a) { return reinterpret_cast<F>(a); }
  static inline U shift_left(U a, int n) { return a << n; }
  static inline U add_bits(U a, uint32_t b) { return a + b; }
  static inline F abs(F a) { return as_float(as_bits(a) & 0x7fffffffu); }
  static inline F copy_sign(F a, F sign) { return as_float(as_bits(a) | (as_bits(sign) & 0x80000000u)); }
  static inline float sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }

  // Bytes of the lanes that take part; a load leaves the others zero.
  static constexpr size_t bytes(All, size_t each) { return kLanes * each; }
  static constexpr size_t bytes(Some lanes, size_t each) { return lanes.n * each; }

  template <class L>
  static inline F load(const float* p, L lanes) {
    F v{};
    memcpy(&v, p, bytes(lanes, 4));
    return v;
  }
  template <class L>
  static inline void store(float* p, F v, L lanes) {
    memcpy(p, &v, bytes(lanes, 4));
  }

  using H = uint16_t __attribute__((vector_size(8)));
  template <class L>
  static inline U load_halves(const char* p, L lanes) {
    H h{};
    memcpy(&h, p, bytes(lanes, 2));
    return __builtin_convertvector(h, U);
  }
  template <class L>
  static inline void store_halves(char* p, U u, L lanes) {
    H h = __builtin_convertvector(u, H);
    memcpy(p, &h, bytes(lanes, 2));
  }

  template <class L>
  static inline F load_bf16(const char* p, L lanes) {
    return as_float(load_halves(p, lanes) << 16);
  }
  template <class L>
  static inline void store_bf16(char* p, F v, L lanes) {
    U u = as_bits(v);
    U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    U quiet = (u >> 16) | 0x40u;
    store_halves(p, is_nan(v) ? quiet : rounded, lanes);
  }

  template <int kBits, class L>
  static inline F load_quants(const char* p, L lanes) {
    if constexpr (kBits == 8) {
      using B = int8_t __attribute__((vector_size(4)));
      B b{};
      memcpy(&b, p, bytes(lanes, 1));
      return __builtin_convertvector(b, F);
    } else {
      uint32_t b = 0;
      memcpy(&b, p, (bytes(lanes, kBits) + 7) / 8);
      U u = (U{b, b, b, b} >> U{0, kBits, 2 * kBits, 3 * kBits}) & ((1u << kBits) - 1);
      return __builtin_convertvector(u, F) - static_cast<float>(1 << (kBits - 1));
    }
  }

  // The exponent moves by a multiplication, which is exact for normal and subnormal halves alike.
  template <class L>
  static inline F load_f16(const char* p, L lanes) {
    U h = load_halves(p, lanes);
    U sign = (h & 0x8000u) << 16;
    U magnitude = (h & 0x7fffu) << 13;
    U value = as_bits(as_float(magnitude) * 0x1p112f);
    U special = value | 0x7f800000u;  // inf and NaN keep their mantissa
    return as_float((magnitude >= 0x0f800000u ? special : value) | sign);
  }
  template <class L>
  static inline void store_f16(char* p, F v, L lanes) {
    U u = as_bits(v);
    U sign = (u >> 16) & 0x8000u;
    U a = u & 0x7fffffffu;
    // Normal halves: drop 13 bits, nearest even; a carry into the exponent is right, up to infinity.
    U normal = ((a + 0xfffu + ((a >> 13) & 1u)) >> 13) - (112u << 10);
    // Subnormal halves: adding 0.5 leaves a multiple of 2^-24, rounded by the addition itself.
    U subnormal = as_bits(as_float(a) + 0.5f) - 0x3f000000u;
    U out = a < 0x38800000u ? subnormal : normal;
    out = a >= 0x47800000u ? (out & 0u) + 0x7c00u : out;
    out = a > 0x7f800000u ? 0x7e00u | ((a >> 13) & 0x3ffu) : out;
    store_halves(p, out | sign, lanes);
  }
};

consteval Kernels with_block_formats(Kernels table) {
  AllBlocks::for_each([&]<class Block>(const Block*) {
    table.format[static_cast<int>(Block::kType)] = {.to_f32 = codec::to_f32<Block>,
                                                    .rows_dot = nullptr,
                                                    .rows_axpy = nullptr,
                                                    .from_f32 = codec::writer<Block>(),
                                                    .quantize = codec::quantize<Block>,
                                                    .multiply_int8 = codec::multiply_int8<Block>,
                                                    .multiply_streamed = codec::multiply_int8<Block>};
  });
  return table;
}

constexpr Kernels kTable = with_block_formats(make_table<Vec>());

}  // namespace
}  // namespace scalar

const Kernels* scalar_kernels() { return &scalar::kTable; }

}  // namespace gemma4
