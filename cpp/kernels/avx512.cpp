// The table for AVX-512 F, BW, DQ and VL.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but avx512_kernels, and no
// inline function of another header may be called, or the linker could hand its AVX-512 copy to everybody.
#include "kernels/bytes512.h"
#include "kernels/tables.h"

namespace gemma4 {
namespace {

constexpr Kernels kTable = with_block_formats<Bytes512>(make_table<Vec512>());

}  // namespace

const Kernels* avx512_kernels() { return &kTable; }

}  // namespace gemma4
