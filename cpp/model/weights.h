// The weights of a model: views on the mapped checkpoint, in the order in which the forward pass reads them.
// Knows: names and shapes of the published checkpoints. Must not know: how to compute with them.
// Matrices stay in the file's own format, quants with their scales in theirs; vectors (norms, scales, bounds) are small
// and become f32 at load.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "model/config.h"
#include "model/row_source.h"
#include "model/tensor_store.h"

namespace gemma4 {

using Vector = std::vector<float>;
using Matrix = TensorView;  // (out, in)

// A matrix whose input and output are clamped; infinite bounds leave the values alone.
struct ClippedMatrix {
  Matrix w;  // (out, in)
  float in_min = -std::numeric_limits<float>::infinity();
  float in_max = std::numeric_limits<float>::infinity();
  float out_min = -std::numeric_limits<float>::infinity();
  float out_max = std::numeric_limits<float>::infinity();
};

struct TextLayerWeights {
  Vector attn_norm;       // (hidden)
  Matrix q;               // (heads * head_dim, hidden)
  Matrix k;               // (kv_heads * head_dim, hidden)  only where the layer owns its keys and values
  Matrix v;               // (kv_heads * head_dim, hidden)  absent where k is v
  Matrix o;               // (hidden, heads * head_dim)
  Vector q_norm;          // (head_dim)
  Vector k_norm;          // (head_dim)
  Vector post_attn_norm;  // (hidden)

  Vector ffn_norm;       // (hidden)
  Matrix gate;           // (ffn, hidden)
  Matrix up;             // (ffn, hidden)
  Matrix down;           // (hidden, ffn)
  Vector post_ffn_norm;  // (hidden)

  Matrix router;        // (experts, hidden)
  Vector router_scale;  // (hidden)
  Vector expert_scale;  // (experts)
  // One (experts, 2 * expert_ffn, hidden), of each expert gate, then up; or gate and up apart, (experts, expert_ffn,
  // hidden) each, as some files have them.
  std::vector<TensorView> expert_gate_up;
  TensorView expert_down;   // (experts, hidden, expert_ffn)
  Vector dense_post_norm;   // (hidden)
  Vector expert_pre_norm;   // (hidden)
  Vector expert_post_norm;  // (hidden)

  Matrix ple_gate;       // (ple_dim, hidden)
  Matrix ple_out;        // (hidden, ple_dim)
  Vector post_ple_norm;  // (hidden)
  float scalar = 1.0f;   // multiplies the layer's output
};

struct TextWeights {
  Matrix embed;         // (vocab, hidden)
  RowSource ple_table;  // (ple_vocab, layers * ple_dim)  gigabytes, of which a token needs one row
  Matrix ple_proj;      // (layers * ple_dim, hidden)
  Vector ple_norm;      // (ple_dim)
  std::vector<TextLayerWeights> layers;
  Vector norm;  // (hidden)
  Matrix head;  // (vocab, hidden)  the embedding table where tied
};

struct VisionLayerWeights {
  Vector attn_norm;       // (hidden)
  ClippedMatrix q;        // (heads * head_dim, hidden)
  ClippedMatrix k;        // (kv_heads * head_dim, hidden)
  ClippedMatrix v;        // (kv_heads * head_dim, hidden)
  ClippedMatrix o;        // (hidden, heads * head_dim)
  Vector q_norm;          // (head_dim)
  Vector k_norm;          // (head_dim)
  Vector post_attn_norm;  // (hidden)
  Vector ffn_norm;        // (hidden)
  ClippedMatrix gate;     // (ffn, hidden)
  ClippedMatrix up;       // (ffn, hidden)
  ClippedMatrix down;     // (hidden, ffn)
  Vector post_ffn_norm;   // (hidden)
};

struct VisionWeights {
  Matrix patch;          // (hidden, 3 * patch * patch)  input order: row, column, channel
  TensorView positions;  // (2, positions, hidden)  x table, then y table
  std::vector<VisionLayerWeights> layers;
  Vector std_bias;    // (hidden)  only with standardize
  Vector std_scale;   // (hidden)
  Matrix projection;  // (text hidden, hidden)
};

struct AudioFeedForwardWeights {
  Vector norm;         // (hidden)
  ClippedMatrix up;    // (4 * hidden, hidden)
  ClippedMatrix down;  // (hidden, 4 * hidden)
  Vector post_norm;    // (hidden)
};

struct AudioLayerWeights {
  AudioFeedForwardWeights ffn1;
  Vector attn_norm;        // (hidden)
  ClippedMatrix q;         // (hidden, hidden)
  ClippedMatrix k;         // (hidden, hidden)
  ClippedMatrix v;         // (hidden, hidden)
  ClippedMatrix o;         // (hidden, hidden)
  Matrix relative_k;       // (hidden, hidden)
  Vector per_dim_scale;    // (hidden / heads)
  Vector post_attn_norm;   // (hidden)
  Vector conv_pre_norm;    // (hidden)
  ClippedMatrix conv_in;   // (2 * hidden, hidden)  values, then gates
  Vector conv;             // (conv_kernel, hidden)  oldest token first
  Vector conv_norm;        // (hidden)
  ClippedMatrix conv_out;  // (hidden, hidden)
  AudioFeedForwardWeights ffn2;
  Vector norm_out;  // (hidden)
};

struct AudioWeights {
  Vector conv1;       // (channels1, 3, 3)  time, frequency
  Vector conv1_norm;  // (channels1)
  Vector conv2;       // (channels2, 3, 3, channels1)  time, frequency, input channel
  Vector conv2_norm;  // (channels2)
  Matrix input;       // (hidden, channels1 / 4 * channels2)  input order: frequency, channel
  std::vector<AudioLayerWeights> layers;
  Matrix output;          // (out, hidden)
  Vector output_bias;     // (out)
  float output_step = 0;  // of the lattice that their sum is rounded to; 0: it is not
  Matrix projection;      // (text hidden, out)
};

struct LayerNorm {
  Vector weight;  // (n)
  Vector bias;    // (n)
};

struct PixelWeights {
  LayerNorm pixel_norm;     // (3 * side * side)
  Matrix dense;             // (width, 3 * side * side)  input order: row, column, channel
  Vector dense_bias;        // (width)
  LayerNorm dense_norm;     // (width)
  TensorView positions;     // (positions, 2, width)  x, then y
  LayerNorm position_norm;  // (width)
  Matrix projection;        // (text hidden, width)
};

struct SampleWeights {
  Matrix projection;  // (text hidden, frame)
};

struct Weights {
  TextWeights text;
  VisionWeights vision;
  AudioWeights audio;
  PixelWeights pixels;
  SampleWeights samples;
  std::vector<std::string> unused;  // names of tensors that nothing reads
};

struct DrafterWeights {
  TextWeights text;
  Matrix before;                  // (hidden, 2 * target_hidden)  of the last token's embedding, then the target's state
  Matrix after;                   // (target_hidden, hidden)      to what stands for the target's next state
  Matrix centroids;               // (centroids, hidden)
  std::vector<int32_t> ordering;  // (centroids, vocab / centroids)  the tokens of each
  std::vector<std::string> unused;
};

// Binds every tensor that the config asks for. Throws kModelFile listing the missing and mis-shaped ones, or the values
// of vectors that are NaN or infinite (five of each at most); matrices are read only when they are used. `text_prefix`
// is "model.language_model." in a full checkpoint and "model." in a text-only one; names that start with one of
// `ignored_prefixes` belong to parts that this config does not use. Where the store holds packed quants, their views
// there become those of the quants.
Weights bind_weights(const ModelConfig& config, TensorStore& store, const std::string& text_prefix,
                     const std::vector<std::string>& ignored_prefixes);
DrafterWeights bind_drafter(const DrafterConfig& config, TensorStore& store);

}  // namespace gemma4
