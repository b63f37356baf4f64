// The vision encoder: pixels in, soft tokens in text space out.
// Knows: its config and weights. Must not know: the text decoder, files, how a picture was decoded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/adapters.h"
#include "model/config.h"
#include "model/linear.h"
#include "model/weights.h"

namespace gemma4 {

// A picture already resized: each side a multiple of patch * pool pixels.
struct ImageView {
  const uint8_t* rgb;  // (height, width, 3), rows `stride` bytes apart
  size_t height, width, stride;
};

// Squares of `side` pixels in a picture. Throws kMedia if a side of it is zero, no multiple of that, or over `most`.
size_t square_count(size_t height, size_t width, size_t side, size_t most);

// Throws kMedia if a side is zero, not a multiple of patch * pool, or beyond the position tables.
size_t soft_token_count(const VisionConfig& config, size_t height, size_t width);

// out: (soft_token_count, text hidden) f32.
void encode_image(const Compute& c, const VisionConfig& config, const VisionWeights& weights, const ImageView& image,
                  float* out, const Adapter* adapter = nullptr);

}  // namespace gemma4
