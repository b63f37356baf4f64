// Times the products of quantized weights, one thread, beside the machine's own limits: with int8 activations, streamed
// and in panels, and from kTileGroup rows on by tiles where the table has them.
// Knows: the kernel table. Must not know: models, threads.
//
//   kernel_bench [ISA] [FORMAT] [shapes]      e.g. kernel_bench avx2 Q4_0 1
//
// The clock counts the thread's own processor time and each figure is the best of many runs of about a millisecond, so
// that other programs disturb little (a busy sibling of the core still does). Batches meet kRows rows of the weights.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/lines.h"
#include "kernels/isa.h"

namespace gemma4 {
namespace {

double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The shortest of runs that take `budget` seconds together, at least three.
template <class Fn>
double best(double budget, Fn run) {
  double shortest = 1e9, spent = 0;
  for (int i = 0; i < 3 || spent < budget; ++i) {
    const double start = now();
    run();
    const double s = now() - start;
    shortest = std::min(shortest, s);
    spent += s;
  }
  return shortest;
}

#if defined(__x86_64__)
// Independent chains of one instruction, kept in registers; an operation is a product or a sum.
#define GEMMA4_CHAINS(step, v)                                                                                    \
  step(v[8]) step(v[9]) step(v[10]) step(v[11]) step(v[0]) step(v[1]) step(v[2]) step(v[3]) step(v[4]) step(v[5]) \
      step(v[6]) step(v[7])
__attribute__((target("avx512f,avx512vnni"))) void vnni_chain(int n) {
  __m512i v[12], one = _mm512_set1_epi8(1);
  for (__m512i& a : v) a = one;
#define GEMMA4_STEP(a) __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(a) : "v"(one));
  for (int i = 0; i < n; ++i) {
    GEMMA4_CHAINS(GEMMA4_STEP, v) GEMMA4_CHAINS(GEMMA4_STEP, v)
  }
#undef GEMMA4_STEP
}
__attribute__((target("avx2"))) void maddubs_chain(int n) {
  __m256i v[12], one = _mm256_set1_epi8(1);
  for (__m256i& a : v) a = one;
#define GEMMA4_STEP(a) __asm__ volatile("vpmaddubsw %1, %0, %0" : "+x"(a) : "x"(one));
  for (int i = 0; i < n; ++i) {
    GEMMA4_CHAINS(GEMMA4_STEP, v) GEMMA4_CHAINS(GEMMA4_STEP, v)
  }
#undef GEMMA4_STEP
}
__attribute__((target("amx-tile,amx-bf16"))) void tile_chain(int n) {
  alignas(64) static constexpr unsigned char kShape[64] = {
      1,  0, 0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 64, 0, 64, 0,  64, 0,  64, 0,  64, 0,
      64, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  0, 0,  0, 16, 16, 16, 16, 16, 16, 16, 16};
  _tile_loadconfig(kShape);
  for (int i = 0; i < n; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}
void print_peaks(bool vnni, bool tiles) {
  constexpr int kRounds = 20000;
  std::printf("vpmaddubsw %.0f GOPS", 24e-9 * 64 * kRounds / best(0.01, [] { maddubs_chain(kRounds); }));
  if (vnni) std::printf(", vpdpbusd %.0f GOPS", 24e-9 * 128 * kRounds / best(0.01, [] { vnni_chain(kRounds); }));
  if (tiles) std::printf(", tdpbf16ps %.0f GFLOPS", 4e-9 * 16384 * kRounds / best(0.01, [] { tile_chain(kRounds); }));
  std::printf("\n");
}
#else
void print_peaks(bool, bool) {}
#endif

// The sum of n bytes' words, fetched as far ahead as products fetch theirs. Not part of main, which GCC makes small.
[[gnu::noinline, gnu::hot]] uint64_t read_all(const uint8_t* p, size_t n) {
  using Words = uint64_t __attribute__((vector_size(16)));
  Words sum[4] = {};
  for (size_t i = 0; i + 64 <= n; i += 64) {
    Words v[4];
    std::memcpy(v, p + i, 64);
    __builtin_prefetch(p + i + 8192, 0, 2);
    for (int l = 0; l < 4; ++l) sum[l] += v[l];
  }
  const Words all = sum[0] + sum[1] + sum[2] + sum[3];
  return all[0] + all[1];
}

struct Shape {
  size_t rows, cols;
};
// E2B: gate and up, down, q, wide gate and up, wide down, head
constexpr Shape kShapes[] = {{6144, 1536}, {1536, 6144}, {2048, 1536}, {12288, 1536}, {1536, 12288}, {262144, 1536}};

constexpr size_t kRows = 256;

// Where a block has its f16 numbers; one place may be named twice. MXFP4 has none: there a byte is an exponent.
std::array<size_t, 2> halves_of(DType t) {
  switch (t) {
    case DType::kQ2_K:
      return {80, 82};
    case DType::kQ3_K:
      return {108, 108};
    case DType::kQ6_K:
      return {208, 208};
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    default:
      return {0, 0};
  }
}

// Random quants; every f16 is a small number.
std::vector<uint8_t> random_blocks(DType t, size_t bytes) {
  std::vector<uint8_t> w(bytes);
  std::mt19937 rng(1);
  for (size_t i = 0; i + 4 <= bytes; i += 4) {
    const uint32_t v = static_cast<uint32_t>(rng());
    std::memcpy(&w[i], &v, 4);
  }
  const uint16_t small = 0x1400;
  for (size_t b = 0; b + traits(t).block_bytes <= bytes; b += traits(t).block_bytes) {
    if (t == DType::kMXFP4) w[b] = 118;
    for (const size_t at : halves_of(t))
      if (t != DType::kMXFP4) std::memcpy(&w[b + at], &small, 2);
  }
  return w;
}

struct Run {
  const FormatKernels& f;
  const TileKernels* tiles;
  DType t;
  std::vector<uint8_t> w;
  std::vector<float> x, y;
  std::vector<Int8Chunk> q;

  Run(const Isa& isa, DType type)
      : f(isa.k.of(type)), tiles(isa.tiles), t(type), w(random_blocks(type, size_t{48} << 20)) {}

  void activations(size_t m, size_t k) {
    std::mt19937 rng(2);
    std::normal_distribution<float> normal;
    x.resize(m * k);
    for (float& v : x) v = normal(rng);
    q.resize(m * chunk_stride(k));
    for (size_t j = 0; j < m; ++j) f.quantize(x.data() + j * k, k, {}, q.data() + j * chunk_stride(k));
  }

  Lines<char> packed, scratch;
  void pack(size_t m, size_t k) {
    const size_t bytes = tiles->group_bytes(t, k);
    packed.room((m + kTileGroup - 1) / kTileGroup * bytes);
    scratch.room(tiles->scratch_bytes);
    for (size_t j = 0; j < m; j += kTileGroup)
      tiles->pack(t, {x.data() + j * k, k, std::min(kTileGroup, m - j)}, k, {}, packed.data() + j / kTileGroup * bytes);
  }

  // Streams the weights in steps, a plain read of as many bytes elsewhere after each.
  void decode(const Shape& s) {
    const size_t stride = row_bytes(t, s.cols), rows = (size_t{2} << 20) / stride, step = rows * stride;
    activations(1, s.cols);
    y.resize(rows);
    double product = 0, read = 0;
    volatile uint64_t sink = 0;
    const size_t steps = w.size() / step / 2;
    for (size_t i = 0; i < steps; ++i) {
      const double a = now();
      f.multiply_int8({w.data() + 2 * i * step, stride, rows, s.cols}, {q.data(), 0, 1}, {}, {y.data(), rows});
      const double b = now();
      sink = sink + read_all(w.data() + (2 * i + 1) * step, step);
      product += b - a;
      read += now() - b;
    }
    const size_t few = (size_t{512} << 10) / stride;
    const double cached = best(0.01, [&] {
      f.multiply_int8({w.data(), stride, few, s.cols}, {q.data(), 0, 1}, {}, {y.data(), rows});
    });
    const double bytes = static_cast<double>(steps * step);
    std::printf("  m=1 %.1f GB/s (plain read %.1f, in cache %.1f)", bytes / product / 1e9, bytes / read / 1e9,
                static_cast<double>(few * stride) / cached / 1e9);
  }

  void batch(const Shape& s, size_t m) {
    const size_t stride = row_bytes(t, s.cols), rows = std::min(kRows, s.rows), ld = chunk_stride(s.cols);
    activations(m, s.cols);
    y.resize(m * rows);
    const auto by_tiles = [&] {
      for (size_t r = 0; r < rows; r += kTilePanel)
        tiles->multiply(t, {w.data() + r * stride, stride, std::min(kTilePanel, rows - r), s.cols}, packed.data(), m,
                        {}, {y.data() + r, rows}, scratch.data());
    };
    const auto by_rows = [&] {
      f.multiply_int8({w.data(), stride, rows, s.cols}, {q.data(), ld, m}, {}, {y.data(), rows});
    };
    const auto streamed = [&] {
      f.multiply_streamed({w.data(), stride, rows, s.cols}, {q.data(), ld, m}, {}, {y.data(), rows});
    };
    const bool tiled = tiles != nullptr && m >= kTileGroup;
    if (tiled) pack(m, s.cols);
    const double s1 = tiled ? best(0.02, by_tiles) : best(0.02, by_rows);
    const double ops = 2e-9 * static_cast<double>(rows * s.cols * m);
    std::printf("  m=%zu %.0f", m, ops / s1);
    if (m >= 4 && m <= 16) std::printf(" (streamed %.0f)", ops / best(0.02, streamed));
  }
};

}  // namespace
}  // namespace gemma4

int main(int argc, char** argv) {
  using namespace gemma4;
  const Isa& k = argc > 1 ? isa_by_name(argv[1]) : active_isa();
  const std::string_view only = argc > 2 ? argv[2] : "";
  const size_t shapes = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : std::size(kShapes);
  const TileKernels* tiles = k.tiles;
  print_peaks(tiles != nullptr || k.name == "avx512vnni", tiles != nullptr);
  for (const FormatTraits& format : kFormats) {
    const DType t = format.dtype;
    if (!is_block_format(t)) continue;
    if (!only.empty() && traits(t).name != only) continue;
    Run run(k, t);
    for (size_t i = 0; i < std::min(shapes, std::size(kShapes)); ++i) {
      std::printf("%s %s %zux%zu:", k.name.data(), traits(t).name.data(), kShapes[i].rows, kShapes[i].cols);
      run.decode(kShapes[i]);
      for (size_t m : {2, 4, 8, 16, 32, 64, 128, 512}) run.batch(kShapes[i], m);
      std::printf(" GOPS\n");
      std::fflush(stdout);
    }
  }
}
