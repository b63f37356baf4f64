// Chooses the instruction set. Knows: CPUID, XCR0, HWCAP, GEMMA4_ISA. Must not know: what a kernel computes.
// An instruction set counts only if the CPU has it and the operating system saves its registers (XCR0 on x86; on
// AArch64 Linux says both in one word); a table runs only if every feature that its source file is compiled with is
// there.
#include <cstdint>
#include <cstdlib>
#include <initializer_list>

#include "core/error.h"
#include "kernels/isa.h"
#include "kernels/tables.h"

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

// One instruction set as it is built in, and what it takes to run it.
struct Candidate {
  std::string_view name;
  const Kernels* (*k)();
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

// Best first.
const Candidate kCandidates[] = {
#if defined(__x86_64__)
    {.name = "amx",
     .k = avx512vnni_kernels,
     .attention = attention_amx_kernels,
     .full_attention = full_attention_amx_kernels,
     .tiles = tiles_amx_kernels,
     .needs = {"amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl",
               "avx2", "fma", "f16c"}},
    {.name = "avx512bf16",
     .k = avx512vnni_kernels,
     .attention = attention_avx512vnni_kernels,
     .full_attention = full_attention_avx512bf16_kernels,
     .tiles = nullptr,
     .needs = {"avx512_bf16", "avx512_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"}},
    {.name = "avx512vnni",
     .k = avx512vnni_kernels,
     .attention = attention_avx512vnni_kernels,
     .full_attention = full_attention_avx512vnni_kernels,
     .tiles = nullptr,
     .needs = {"avx512_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"}},
    {.name = "avx512",
     .k = avx512_kernels,
     .attention = attention_avx512_kernels,
     .full_attention = full_attention_avx512_kernels,
     .tiles = nullptr,
     .needs = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"}},
    {.name = "avx2",
     .k = avx2_kernels,
     .attention = attention_avx2_kernels,
     .full_attention = full_attention_avx2_kernels,
     .tiles = nullptr,
     .needs = {"avx2", "fma", "f16c"}},
#elif defined(__aarch64__)
    {.name = "neon",
     .k = neon_kernels,
     .attention = attention_neon_kernels,
     .full_attention = full_attention_neon_kernels,
     .tiles = nullptr,
     .needs = {"asimd", "asimddp"}},
#endif
    {.name = "scalar",
     .k = scalar_kernels,
     .attention = attention_scalar_kernels,
     .full_attention = full_attention_scalar_kernels,
     .tiles = nullptr,
     .needs = {}},
};

// Those that this CPU can run, best first. Tables are asked for only here: their files are compiled for CPUs that may
// not be this one. Never destroyed: a thread may still compute while the process ends.
const std::vector<Isa>& runnable() {
  static const std::vector<Isa>& found = *new std::vector<Isa>([] {
    std::vector<Isa> isas;
    for (const Candidate& c : kCandidates) {
      if (!c.runs()) continue;
      isas.push_back({.name = c.name,
                      .k = *c.k(),
                      .attention = *c.attention(),
                      .full_attention = *c.full_attention(),
                      .tiles = c.tiles == nullptr ? nullptr : c.tiles()});
    }
    return isas;
  }());
  return found;
}

std::string supported_names() {
  std::string names;
  for (const Isa& isa : runnable()) names += (names.empty() ? "" : ", ") + std::string(isa.name);
  return names;
}

const Isa& choose() {
  const char* forced = std::getenv("GEMMA4_ISA");
  if (!forced || !*forced) return runnable().front();
  try {
    return isa_by_name(forced);
  } catch (const Error& e) {
    fail(e.kind(), std::string("GEMMA4_ISA: ") + e.what());
  }
}

}  // namespace

const Isa& active_isa() {
  static const Isa& active = choose();
  return active;
}

std::vector<const Isa*> supported_isas() {
  std::vector<const Isa*> isas;
  for (const Isa& isa : runnable()) isas.push_back(&isa);
  return isas;
}

const Isa& isa_by_name(std::string_view name) {
  for (const Isa& isa : runnable()) {
    if (isa.name == name) return isa;
  }
  const std::string quoted = std::string("'").append(name).append("'");
  for (const Candidate& c : kCandidates) {
    require(c.name != name, ErrorKind::kRequest,
            "instruction set " + quoted + " is not available on this CPU; it can run: " + supported_names());
  }
  fail(ErrorKind::kRequest, "unknown instruction set " + quoted + "; this CPU can run: " + supported_names());
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (const Feature& f : features())
    if (f.enabled) names.emplace_back(f.name);
  return names;
}

}  // namespace gemma4
