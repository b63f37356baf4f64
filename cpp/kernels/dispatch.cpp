// Chooses the kernel table. Knows: CPUID, XCR0, HWCAP, GEMMA4_ISA. Must not know: what a kernel computes.
// An instruction set counts only if the CPU has it and the operating system saves its registers (XCR0 on x86; on
// AArch64 Linux says both in one word); a table runs only if every feature that its source file is compiled with is
// there.
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <iterator>

#include "core/error.h"
#include "kernels/attention.h"
#include "kernels/full_attention.h"
#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "kernels/tiles.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace gemma4 {
namespace {

struct Feature {
  std::string_view name;
  bool enabled;
};

#if defined(__x86_64__)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero for a leaf that the CPU does not have.
Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool bit(uint64_t value, int n) { return (value >> n) & 1u; }

// The register states that the operating system saves; 0 if it does not use XSAVE (reading XCR0 would then fault).
uint64_t read_xcr0(const Registers& leaf1) {
  if (!bit(leaf1.ecx, 27)) return 0;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

#if defined(__linux__)

// Whether the process may use tiles: Linux hands out their registers on request (Documentation/arch/x86/xstate.rst),
// and refuses where a thread's signal stack is too small.
bool tiles_granted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#else

bool tiles_granted() { return false; }

#endif

// Intel SDM volume 2A, CPUID, and volume 1, 13.3 (XCR0).
std::vector<Feature> detect() {
  Registers leaf1 = cpuid(1, 0);
  Registers leaf7 = cpuid(7, 0);
  Registers leaf7_1 = leaf7.eax >= 1 ? cpuid(7, 1) : Registers{};
  uint64_t xcr0 = read_xcr0(leaf1);
  bool ymm = (xcr0 & 0x6) == 0x6 && bit(leaf1.ecx, 28);  // SSE and AVX state
  bool zmm = ymm && (xcr0 & 0xe0) == 0xe0;               // opmask, high halves of zmm0-15, zmm16-31
  bool tiles = (xcr0 & 0x60000) == 0x60000 && bit(leaf7.edx, 24) && tiles_granted();  // their configuration and data
#if defined(GEMMA4_EMULATE_TILES)
  tiles = true;
  leaf7.edx |= 1u << 22 | 1u << 25;
#endif
  bool avx512f = zmm && bit(leaf7.ebx, 16);
  return {
      {"avx2", ymm && bit(leaf7.ebx, 5)},
      {"fma", ymm && bit(leaf1.ecx, 12)},
      {"f16c", ymm && bit(leaf1.ecx, 29)},
      {"avx512f", avx512f},
      {"avx512bw", avx512f && bit(leaf7.ebx, 30)},
      {"avx512dq", avx512f && bit(leaf7.ebx, 17)},
      {"avx512vl", avx512f && bit(leaf7.ebx, 31)},
      {"avx512_vnni", avx512f && bit(leaf7.ecx, 11)},
      {"avx512_bf16", avx512f && bit(leaf7_1.eax, 5)},
      {"avx_vnni", ymm && bit(leaf7_1.eax, 4)},
      {"amx_int8", tiles && bit(leaf7.edx, 25)},
      {"amx_bf16", tiles && bit(leaf7.edx, 22)},
  };
}

#elif defined(__aarch64__) && defined(__linux__)

// Linux's documentation, arch/arm64/elf_hwcaps.
std::vector<Feature> detect() {
  constexpr unsigned long kAsimd = 1ul << 1, kAsimdDp = 1ul << 20;
  const unsigned long caps = getauxval(AT_HWCAP);
  return {{"asimd", (caps & kAsimd) != 0}, {"asimddp", (caps & kAsimdDp) != 0}};
}

#else

std::vector<Feature> detect() { return {}; }

#endif

const std::vector<Feature>& features() {
  static const std::vector<Feature> found = detect();
  return found;
}

bool has(std::string_view name) {
  for (const Feature& f : features())
    if (f.name == name) return f.enabled;
  return false;
}

struct Candidate {
  std::string_view name;
  const Kernels* (*table)();
  const AttentionKernels* (*attention)();
  const FullAttentionKernels* (*full_attention)();
  const TileKernels* (*tiles)();                  // null where there are none
  std::initializer_list<std::string_view> needs;  // the -m flags of its source file (CMakeLists.txt)

  bool runs() const {
    for (std::string_view feature : needs)
      if (!has(feature)) return false;
    return true;
  }
};

#if defined(__x86_64__)
// The table of AVX-512 with VNNI under another name: what tells them apart is not in it.
template <const char* name>
const Kernels* vnni_kernels() {
  static const Kernels table = [] {
    Kernels t = *avx512vnni_kernels();
    t.name = name;
    return t;
  }();
  return &table;
}
constexpr char kAmx[] = "amx", kBf16[] = "avx512bf16";
#endif

// Best first.
const Candidate kCandidates[] = {
#if defined(__x86_64__)
    {kAmx,
     vnni_kernels<kAmx>,
     attention_amx_kernels,
     full_attention_amx_kernels,
     tiles_amx_kernels,
     {"amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2",
      "fma", "f16c"}},
    {kBf16,
     vnni_kernels<kBf16>,
     attention_avx512vnni_kernels,
     full_attention_avx512bf16_kernels,
     nullptr,
     {"avx512_bf16", "avx512_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"}},
    {"avx512vnni",
     avx512vnni_kernels,
     attention_avx512vnni_kernels,
     full_attention_avx512vnni_kernels,
     nullptr,
     {"avx512_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"}},
    {"avx512",
     avx512_kernels,
     attention_avx512_kernels,
     full_attention_avx512_kernels,
     nullptr,
     {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"}},
    {"avx2", avx2_kernels, attention_avx2_kernels, full_attention_avx2_kernels, nullptr, {"avx2", "fma", "f16c"}},
#elif defined(__aarch64__)
    {"neon", neon_kernels, attention_neon_kernels, full_attention_neon_kernels, nullptr, {"asimd", "asimddp"}},
#endif
    {"scalar", scalar_kernels, attention_scalar_kernels, full_attention_scalar_kernels, nullptr, {}},
};

// The candidate that a table is of; scalar, the last, for one that none hands out.
const Candidate& candidate_of(const Kernels& table) {
  const Candidate* c = std::begin(kCandidates);
  while (c + 1 != std::end(kCandidates) && c->name != table.name) ++c;
  return *c;
}

std::string supported_names() {
  std::string names;
  for (const Kernels* table : supported_kernels()) names += (names.empty() ? "" : ", ") + std::string(table->name);
  return names;
}

const Kernels& choose() {
  const char* forced = std::getenv("GEMMA4_ISA");
  if (!forced || !*forced) return *supported_kernels().front();
  try {
    return kernels_by_name(forced);
  } catch (const Error& e) {
    fail(e.kind(), std::string("GEMMA4_ISA: ") + e.what());
  }
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& active = choose();
  return active;
}

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> tables;
  for (const Candidate& c : kCandidates)
    if (c.runs()) tables.push_back(c.table());
  return tables;
}

const Kernels& kernels_by_name(std::string_view name) {
  std::string quoted = std::string("'").append(name).append("'");
  for (const Candidate& c : kCandidates) {
    if (c.name != name) continue;
    require(c.runs(), ErrorKind::kRequest,
            "instruction set " + quoted + " is not available on this CPU; it can run: " + supported_names());
    return *c.table();
  }
  fail(ErrorKind::kRequest, "unknown instruction set " + quoted + "; this CPU can run: " + supported_names());
}

const AttentionKernels& attention_kernels(const Kernels& table) { return *candidate_of(table).attention(); }

const FullAttentionKernels& full_attention_kernels(const Kernels& table) {
  return *candidate_of(table).full_attention();
}

const TileKernels* tile_kernels(const Kernels& table) {
  const Candidate& of = candidate_of(table);
  return of.tiles == nullptr ? nullptr : of.tiles();
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (const Feature& f : features())
    if (f.enabled) names.emplace_back(f.name);
  return names;
}

}  // namespace gemma4
