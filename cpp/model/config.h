// What a checkpoint is: sizes and the specification of each layer. Immutable after `validate`.
// Knows: numbers. Must not know: files, JSON, names of models.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace gemma4 {

// One decoder layer. Layers differ only in what is written here.
struct LayerSpec {
  bool sliding = true;       // attends to the last `window` positions, else to all
  bool k_is_v = false;       // the value is the k projection before its norm and rotation
  bool moe = false;          // experts beside the dense MLP
  int kv_layer = 0;          // the layer whose keys and values it reads; its own index if it owns them
  int head_dim = 0;          // channels of one head
  int kv_heads = 0;          // key/value heads
  int ffn = 0;               // width of the dense MLP
  double rope_theta = 0;     // base of the rotation frequencies
  int rope_pairs = 0;        // how many of the head_dim / 2 channel pairs rotate
  double rope_factor = 1.0;  // positions are divided by it
};

struct TextConfig {
  int vocab = 0;
  int hidden = 0;
  int heads = 0;
  int window = 0;        // positions that a sliding layer sees, its own included
  int context = 0;       // largest position + 1
  int ple_dim = 0;       // per-layer embedding width; 0 = none
  int ple_vocab = 0;     // rows of the per-layer embedding table
  int experts = 0;       // experts of a MoE layer; 0 = none
  int experts_used = 0;  // experts that a token visits
  int expert_ffn = 0;    // width of one expert
  int pad_id = 0;        // what is embedded where a placeholder stands
  float norm_eps = 1e-6f;
  float logit_cap = 0;                // logits = cap * tanh(logits / cap); 0 = none
  bool bidirectional_images = false;  // tokens of one image see each other both ways: on sliding layers, in the window
  bool whole_images = false;          // ... or rather on every layer, and beyond the window
  bool tied_embeddings = true;        // the output matrix is the embedding table
  bool owns_none = false;             // every kv_layer is one of another model's
  std::vector<int> placeholders;      // ids of pictures, sound and video
  std::vector<LayerSpec> layers;

  bool owns_kv(int layer) const { return !owns_none && layers[layer].kv_layer == layer; }
  // Layers from this index on only read keys and values.
  int first_reader() const;
  // Positions whose logits nobody wants end with the keys and values of this layer.
  int last_owner() const { return first_reader() - 1; }
};

struct VisionConfig {
  int hidden = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int ffn = 0;
  int patch = 0;      // pixels on a side of a patch
  int pool = 0;       // patches on a side of a soft token
  int positions = 0;  // rows of each position table
  float norm_eps = 1e-6f;
  double rope_theta = 100;
  bool clipped = false;      // linears clamp input and output to bounds of the checkpoint
  bool standardize = false;  // soft tokens are shifted and scaled by vectors of the checkpoint
};

struct AudioConfig {
  int mel_bins = 0;  // channels of an input frame
  int hidden = 0;
  int layers = 0;
  int heads = 0;
  int channels1 = 0;    // of the first subsampling convolution
  int channels2 = 0;    // of the second
  int conv_kernel = 0;  // tokens that the depthwise convolution sees
  int chunk = 0;        // block of the reference's attention; here it only says how many relative positions there are
  int left = 0;         // a token sees left - 1 tokens of the past, itself included,
  int right = 0;        // and right - 1 tokens of the future
  int out = 0;          // width that leaves the encoder, before the projection into text space
  float norm_eps = 1e-6f;
  float residual_weight = 0.5f;  // of a feed-forward block
  float logit_cap = 50;          // attention logits = cap * tanh(logits / cap)
  float gradient_clip = 1e10f;   // bound of the values between blocks
  bool clipped = false;          // linears clamp input and output to bounds of the checkpoint
};

// Vision without an encoder: a square of raw pixels becomes one soft token.
struct PixelConfig {
  int side = 0;       // pixels on a side of the square
  int width = 0;      // channels between the two projections
  int positions = 0;  // rows of each position table
  float norm_eps = 1e-6f;
};

// Audio without an encoder: a frame of raw samples becomes one soft token.
struct SampleConfig {
  int frame = 0;  // samples of a frame
  float norm_eps = 1e-6f;
};

struct ModelConfig {
  TextConfig text;
  // At most one kind of vision and one kind of audio.
  std::optional<VisionConfig> vision;
  std::optional<AudioConfig> audio;
  std::optional<PixelConfig> pixels;
  std::optional<SampleConfig> samples;
};

// A small model that guesses the next tokens of another one, its target, whose keys and values its layers read.
struct DrafterConfig {
  TextConfig text;
  int target_hidden = 0;   // width of the target
  int centroids = 0;       // groups of tokens, of which only some get logits; 0 = every token gets one
  int centroids_used = 0;  // groups that get logits
};

// Throws kModelFile naming the field that is out of range or inconsistent. Nothing is allocated from a config before.
void validate(const ModelConfig& config);

// Checks a drafter, too, and says of its layers which of the target's keys and values they read, and where they end.
// Throws kModelFile also for what does not fit the target.
DrafterConfig fitted(DrafterConfig drafter, const TextConfig& target);

}  // namespace gemma4
