// The table for AVX2 with FMA and F16C.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but avx2_kernels, and no
// inline function of another header may be called, or the linker could hand its AVX2 copy to everybody.
#include "kernels/bytes256.h"
#include "kernels/tables.h"

namespace gemma4 {
namespace {

constexpr Kernels kTable = with_block_formats<Bytes256>(make_table<Vec256>());

}  // namespace

const Kernels* avx2_kernels() { return &kTable; }

}  // namespace gemma4
