// Times attention alone at E2B's shape: 8 query heads on 1 key/value head, 28 sliding layers (head size 256, window
// 512) and 7 global ones (head size 512), of which each reads its whole cache.
//
//   g++ -std=c++20 -O2 -I cpp benchmarks/attention_bench.cpp build/libgemma4_engine.a
//     build/cpp/kernels/libgemma4_kernels.a -L LIB -l scipy_openblas -Wl,-rpath,LIB -lpthread -o attention_bench
//   ./attention_bench [threads] [repetitions]
//
// LIB is `python -c "import scipy_openblas32 as s; print(s.get_lib_dir())"`. Prints, for each cache format and context,
// the milliseconds of all layers for one decoded token, and of all owners for a chunk of 64 prompt tokens (3 global,
// 12 sliding): the minimum of the repetitions.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <vector>

#include "model/attention.h"

namespace gemma4 {
namespace {

struct Layer {
  bool sliding;
  size_t head_dim;
};
constexpr Layer kSliding{true, 256}, kGlobal{false, 512};
constexpr size_t kHeads = 8, kWindow = 512;

std::vector<float> normal_floats(size_t n) {
  static std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, 0.3f);
  std::vector<float> v(n);
  for (float& f : v) f = normal(rng);
  return v;
}

TextConfig config_of(const Layer& layer) {
  TextConfig config;
  config.heads = kHeads;
  config.window = kWindow;
  LayerSpec spec;
  spec.sliding = layer.sliding;
  spec.kv_heads = 1;
  spec.head_dim = static_cast<int>(layer.head_dim);
  config.layers.push_back(spec);
  return config;
}

// One thread is measured by its own processor time, which others on the machine do not add to.
double now_ms(const ThreadPool& pool) {
  if (pool.size() == 1) return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Milliseconds of one layer for `rows` new tokens that end at `context`. Several caches take turns, as layers do, so
// that none stays in the processor's cache between two calls.
double layer_ms(ThreadPool& pool, DType t, const Layer& layer, size_t context, size_t rows, int repetitions) {
  Interrupt never;
  const Compute c{active_isa(), pool, never, workspace};
  std::vector<KVCache> caches;
  const auto key = normal_floats(64 * layer.head_dim);
  for (int i = 0; i < (rows == 1 ? 3 : 1); ++i) {
    caches.emplace_back(config_of(layer), t, context, rows);
    for (size_t p = layer.sliding && context > 2048 ? context - 2048 : 0; p < context; ++p) {
      const float* x = key.data() + p % 64 * layer.head_dim;
      caches.back().write(c.k, 0, 0, p, x, x);
    }
  }
  const auto q = normal_floats(rows * kHeads * layer.head_dim);
  std::vector<Visible> visible;
  for (size_t r = 0; r < rows; ++r) {
    const size_t end = context - rows + r + 1;
    visible.push_back({layer.sliding && end > kWindow ? end - kWindow : 0, end});
  }
  std::vector<float> out(q.size());
  AttentionScratch scratch;
  double best = 1e30;
  for (int i = 0; i < repetitions; ++i) {
    const double start = now_ms(pool);
    for (const KVCache& cache : caches) {
      const Look look{&cache, rows};
      attend(c, {0, kHeads, 1, layer.head_dim}, {&look, 1}, q.data(), visible.data(), scratch, out.data());
    }
    best = std::min(best, (now_ms(pool) - start) / static_cast<double>(caches.size()));
  }
  return best;
}

}  // namespace
}  // namespace gemma4

int main(int argc, char** argv) {
  using namespace gemma4;
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, repetitions = argc > 2 ? std::atoi(argv[2]) : 20;
  ThreadPool pool(threads);
  Workspace workspace(pool.size());
  std::printf("%s, %d threads\n%6s %8s %12s %12s\n", active_isa().name.data(), threads, "cache", "context", "decode ms",
              "prefill ms");
  for (const DType t : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
    for (const size_t context : {512, 4096, 32768}) {
      const double decode = 28 * layer_ms(pool, t, kSliding, context, 1, repetitions) +
                            7 * layer_ms(pool, t, kGlobal, context, 1, repetitions);
      const int few = 1 + repetitions / 10;
      const double prefill =
          12 * layer_ms(pool, t, kSliding, context, 64, few) + 3 * layer_ms(pool, t, kGlobal, context, 64, few);
      std::printf("%6s %8zu %12.2f %12.1f\n", traits(t).name.data(), context, decode, prefill);
      std::fflush(stdout);
    }
  }
}
