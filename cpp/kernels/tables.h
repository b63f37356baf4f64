// The tables that this build contains, one function per instruction set.
// Knows: names. Must not know: whether the CPU can run them; only dispatch.cpp may call these, after asking the CPU.
// Each is the one symbol that its object file exports (tests/cpp/check_isa_symbols.sh), so no function that was
// compiled for AVX-512 can be picked by the linker for a CPU without it.
#pragma once

#include "kernels/kernels.h"

namespace gemma4 {

const Kernels* scalar_kernels();
#if defined(__x86_64__)
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512vnni_kernels();
#elif defined(__aarch64__)
const Kernels* neon_kernels();
#endif

}  // namespace gemma4
