// Blocks whose values lie on a lattice of a format: what training for that format leaves, written in 16 or 32 bits.
// Knows: 32 numbers. Must not know: how a format packs its quants.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/blocks.h"

namespace gemma4::codec {

struct Lattice {
  float scale;      // an f16
  float q[kBlock];  // integers in [low, high]
};

// Finds a scale and quants with store(scale * q[i]) == x[i] for all i, where `store` rounds to bf16 where all of x are
// bf16 numbers, else to f16 where all are that, else not at all. A zero may have either sign.
//
// `extremes` are the quants that the largest magnitude may have, in the order of preference; one above `high` is
// taken as negative, and so decides the sign of the scale, which else is positive. Of several scales for the same quant
// the one nearest to extreme / quant is taken, of those without any rounding the first; for Q4_0 and Q8_0 that is
// llama.cpp's own wherever llama.cpp's would do.
bool find_lattice(const float* x, std::span<const int> extremes, int low, int high, Lattice& out);

}  // namespace gemma4::codec
