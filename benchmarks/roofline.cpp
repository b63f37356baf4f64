// The bounds of this machine, for compare.py: how fast THREADS threads read memory together, how many multiply-adds
// they do in 8 bits, in f32, and in bf16 by tiles, where there are any. Prints one line of JSON.
//   g++ -O3 -march=native -pthread roofline.cpp && ./a.out THREADS SECONDS
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

double seconds(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void on_all(int threads, const std::function<void(int)>& work) {
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work, t);
  work(0);
  for (auto& thread : pool) thread.join();
}

// Sum of n words; eight chains, so that adding never waits.
uint64_t read(const uint64_t* p, size_t n) {
  uint64_t sum[8] = {};
  for (size_t i = 0; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) sum[k] += p[i + k];
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

volatile uint64_t sink;

double read_gb_s(int threads, double budget) {
  const size_t bytes = size_t{1} << 30;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::exit(1);
  madvise(memory, bytes, MADV_HUGEPAGE);
  auto* words = static_cast<uint64_t*>(memory);
  std::fill(words, words + bytes / 8, 1);
  double best = 1e9, used = 0;
  for (int i = 0; i < 3 || used < budget; ++i) {
    const size_t part = bytes / 8 / static_cast<size_t>(threads);
    const double s =
        seconds([&] { on_all(threads, [&](int t) { sink = read(words + static_cast<size_t>(t) * part, part); }); });
    best = std::min(best, s);
    used += s;
  }
  munmap(memory, bytes);
  return static_cast<double>(bytes) / best / 1e9;
}

// `rounds` of twelve independent chains of the widest 8-bit dot product; returns multiply-adds done.
#if defined(__AVX512VNNI__)
constexpr const char* kName = "vpdpbusd, 512 bits";
double multiply_adds(int64_t rounds) {
  __m512i sum[12];
  for (int k = 0; k < 12; ++k) sum[k] = _mm512_set1_epi32(k);
  __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(3);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  int total = 0;
  for (auto& s : sum) total += _mm512_reduce_add_epi32(s);
  sink = static_cast<uint64_t>(total);
  return 12.0 * 64 * static_cast<double>(rounds);
}
#elif defined(__AVXVNNI__)
constexpr const char* kName = "vpdpbusd, 256 bits";
double multiply_adds(int64_t rounds) {
  __m256i sum[12];
  for (int k = 0; k < 12; ++k) sum[k] = _mm256_set1_epi32(k);
  __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(3);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sum) s = _mm256_dpbusd_avx_epi32(s, a, b);
    asm volatile("" : "+x"(a), "+x"(b));
  }
  for (auto& s : sum) sink = static_cast<uint64_t>(_mm256_extract_epi32(s, 0));
  return 12.0 * 32 * static_cast<double>(rounds);
}
#elif defined(__AVX2__)
constexpr const char* kName = "maddubs + madd, 256 bits";
double multiply_adds(int64_t rounds) {
  __m256i sum[12];
  for (int k = 0; k < 12; ++k) sum[k] = _mm256_set1_epi32(k);
  __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(3);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sum) {
      s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
      asm volatile("" : "+x"(a), "+x"(b));
    }
  }
  for (auto& s : sum) sink = static_cast<uint64_t>(_mm256_extract_epi32(s, 0));
  return 12.0 * 32 * static_cast<double>(rounds);
}
#else
constexpr const char* kName = "scalar";
double multiply_adds(int64_t rounds) {
  int32_t sum[12] = {};
  int8_t a = 1, b = 3;
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sum) s += a * b;
    asm volatile("" : "+r"(a), "+r"(b));
  }
  for (auto& s : sum) sink = static_cast<uint64_t>(s);
  return 12.0 * static_cast<double>(rounds);
}
#endif

// The same in f32, in vectors as wide as the compiler has them.
#if defined(__AVX512F__)
constexpr int kFloats = 16;
#elif defined(__AVX2__)
constexpr int kFloats = 8;
#else
constexpr int kFloats = 4;
#endif
double float_multiply_adds(int64_t rounds) {
  using Floats = float __attribute__((vector_size(4 * kFloats)));
  Floats sum[12], a = Floats{} + 0.5f, b = Floats{} + 1.0f;
  for (int k = 0; k < 12; ++k) sum[k] = Floats{} + static_cast<float>(k);  // or they would be one
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sum) s = s * a + b;
#if defined(__x86_64__)
    asm volatile("" : "+v"(a), "+v"(b));  // nothing is known of the next round
#endif
  }
  for (auto& s : sum) sink = static_cast<uint64_t>(s[0]);
  return 12.0 * kFloats * static_cast<double>(rounds);
}

// The most that the threads do together in a second, in billions: work(thread) returns multiply-adds done.
double best_gops(int threads, double budget, const std::function<double()>& work) {
  double best = 0, used = 0;
  for (int i = 0; i < 3 || used < budget; ++i) {
    std::vector<double> done(static_cast<size_t>(threads));
    const double s = seconds([&] { on_all(threads, [&](int t) { done[static_cast<size_t>(t)] = work(); }); });
    double total = 0;
    for (double d : done) total += d;
    best = std::max(best, 2 * total / s / 1e9);
    used += s;
  }
  return best;
}

// Products of whole tiles, from registers to registers; 0 where there are none.
double tile_gflops([[maybe_unused]] int threads, [[maybe_unused]] double budget) {
#if defined(__AMX_BF16__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return 0;
  return best_gops(threads, budget, [] {
    // Volatile: the intrinsic of GCC 12 names only eight bytes as read, and stores to the others would be dropped.
    alignas(64) volatile unsigned char shape[64] = {1};
    for (int t = 0; t < 8; ++t) shape[16 + 2 * t] = 64, shape[48 + t] = 16;
    _tile_loadconfig(const_cast<unsigned char*>(shape));
    constexpr int64_t kRounds = 2'000'000;
    for (int64_t i = 0; i < kRounds; ++i) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 16 * 16 * 32 * kRounds;
  });
#else
  return 0;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
  const double budget = argc > 2 ? std::atof(argv[2]) : 2.0;
  const double int8 = best_gops(threads, budget, [] { return multiply_adds(20'000'000); });
  const double f32 = best_gops(threads, budget, [] { return float_multiply_adds(20'000'000); });
  std::printf(
      "{\"threads\": %d, \"read_gb_s\": %.2f, \"int8_gops\": %.1f, \"int8_instruction\": \"%s\", "
      "\"f32_gflops\": %.1f, \"tile_gflops\": %.1f}\n",
      threads, read_gb_s(threads, budget), int8, kName, f32, tile_gflops(threads, budget));
}
