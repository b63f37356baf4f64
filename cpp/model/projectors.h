// Vision and audio without encoders: squares of raw pixels and frames of raw samples, projected straight into text
// space. Knows: their config and weights. Must not know: the text decoder, files, how a picture or a sound was decoded.
#pragma once

#include <cstddef>

#include "model/config.h"
#include "model/linear.h"
#include "model/vision.h"
#include "model/weights.h"

namespace gemma4 {

// Throws kMedia if a side is zero, not a multiple of the square's, or beyond the position tables.
size_t soft_token_count(const PixelConfig& config, size_t height, size_t width);

// out: (soft_token_count, text hidden) f32.
void project_image(const Compute& c, const PixelConfig& config, const PixelWeights& weights, const ImageView& image,
                   float* out, const Adapter* adapter = nullptr);

// frames: (n, frame) f32; out: (n, text hidden) f32.
void project_frames(const Compute& c, const SampleConfig& config, const SampleWeights& weights, const float* frames,
                    size_t n, float* out, const Adapter* adapter = nullptr);

}  // namespace gemma4
