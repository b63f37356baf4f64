// One instruction set: every family of its kernels, chosen once and carried by whoever computes.
// Knows: tables. Must not know: what a kernel computes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/attention.h"
#include "kernels/full_attention.h"
#include "kernels/kernels.h"
#include "kernels/tiles.h"

namespace gemma4 {

struct Isa {
  std::string_view name;  // "scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx", "neon"
  const Kernels& k;       // of rows
  const AttentionKernels& attention;
  const FullAttentionKernels& full_attention;
  const TileKernels* tiles;  // null: most have none
};

// The one in use: chosen at first use, constant afterwards; the best that the CPU and the operating system support
// (CPUID and XCR0, or HWCAP), or the one that GEMMA4_ISA names. Throws kRequest if that is one that this CPU lacks or
// that does not exist.
const Isa& active_isa();

// Every one that this CPU can run, best first; the last is always scalar. Tests compare them all.
std::vector<const Isa*> supported_isas();

// The one of that name. Throws kRequest for an unknown name or one that this CPU cannot run.
const Isa& isa_by_name(std::string_view name);

// CPU features that kernels care about and that the operating system has enabled, e.g. {"avx2", "fma", "avx512f"}.
std::vector<std::string> cpu_features();

}  // namespace gemma4
