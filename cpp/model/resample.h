// A picture in another size, bit for bit as torchvision gives it: bicubic, antialiased, on 8-bit RGB.
// Knows: bytes. Must not know: models, files. Pillow's result differs in a few bytes of a thousand: it keeps its
// weights in 22 bits, and may begin with the other axis.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/interrupt.h"

namespace gemma4 {

struct PixelGrid {
  size_t height, width;
};

// rgb: (from.height, from.width, 3), rows `stride` bytes apart; out: (to.height, to.width, 3). No size may be zero.
void resample(Interrupt& interrupt, const uint8_t* rgb, size_t stride, PixelGrid from, PixelGrid to, uint8_t* out);

}  // namespace gemma4
