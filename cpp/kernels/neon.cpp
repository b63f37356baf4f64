// The table for AArch64 with dot products (Armv8.2 and later: Raspberry Pi 5, every current phone and server).
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but neon_kernels, and no
// inline function of another header may be called, or the linker could hand its copy to a CPU without FEAT_DotProd.
#include "kernels/bytes_neon.h"
#include "kernels/tables.h"

namespace gemma4 {
namespace {

constexpr Kernels kTable = with_block_formats<BytesNeon>(make_table<VecNeon>());

}  // namespace

const Kernels* neon_kernels() { return &kTable; }

}  // namespace gemma4
