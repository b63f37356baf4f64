// The kernels of full attention for AVX-512 F, BW, DQ, VL and VNNI.
// Compiled with flags of its own (CMakeLists.txt): nothing here may have external linkage but
// full_attention_avx512vnni_kernels, and no inline function of another header may be called (see tables.h).
#include "kernels/bytes512.h"
#include "kernels/full_attention_body.h"

namespace gemma4 {
namespace {

struct Full512 : Bytes512 {
  static constexpr int kTile = 6, kVecs = 4, kRoundedTile = 6;  // 24 of the 32 registers accumulate
};

constexpr FullAttentionKernels kTable = make_full_attention<Full512>();

}  // namespace

const FullAttentionKernels* full_attention_avx512vnni_kernels() { return &kTable; }

}  // namespace gemma4
