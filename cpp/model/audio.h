// The audio encoder: log-mel frames in, soft tokens in text space out.
// Knows: its config and weights. Must not know: the text decoder, files, samples, how a frame was computed.
#pragma once

#include <cstddef>

#include "model/adapters.h"
#include "model/config.h"
#include "model/linear.h"
#include "model/weights.h"

namespace gemma4 {

// Two convolutions halve the frames, rounding up: four frames (40 ms) are one soft token.
inline size_t audio_soft_tokens(size_t frames) { return (frames + 3) / 4; }

// mel: (frames, mel_bins) f32; out: (audio_soft_tokens(frames), text hidden) f32.
void encode_audio(const Compute& c, const AudioConfig& config, const AudioWeights& weights, const float* mel,
                  size_t frames, float* out, const Adapter* adapter = nullptr);

}  // namespace gemma4
