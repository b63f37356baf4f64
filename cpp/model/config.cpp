// The one check of a configuration. What passes here can be multiplied in size_t and divided without another look:
// every size is positive and bounded, every index points at what its reader expects.
#include "model/config.h"

#include <cmath>
#include <cstdint>
#include <string>

#include "core/error.h"

namespace gemma4 {
namespace {

// Several times what any published model has, and small enough that no product of three of them leaves 64 bits.
constexpr int kMaxVocab = 1 << 24;
constexpr int kMaxContext = 1 << 26;
constexpr int kMaxWidth = 1 << 18;  // hidden, ffn, per-layer embedding
constexpr int kMaxHeads = 1 << 10;
constexpr int kMaxHeadDim = 1 << 12;
constexpr int kMaxLayers = 1 << 10;
constexpr int kMaxExperts = 1 << 12;
constexpr int kMaxPatch = 1 << 8;
constexpr int kMaxPool = 1 << 6;
constexpr int kMaxPositions = 1 << 16;
constexpr int kMaxChannels = 1 << 12;
constexpr int kMaxAudioWindow = 1 << 12;
constexpr int kMaxConvKernel = 1 << 8;
constexpr int kMaxFrame = 1 << 16;
constexpr int kMaxSide = 1 << 10;

void in_range(const std::string& field, int64_t value, int64_t low, int64_t high) {
  require(value >= low && value <= high, ErrorKind::kModelFile,
          "config: " + field + " is " + std::to_string(value) + "; it must be from " + std::to_string(low) + " to " +
              std::to_string(high));
}

void divides(const std::string& field, int divisor, const std::string& of, int value) {
  require(value % divisor == 0, ErrorKind::kModelFile,
          "config: " + field + " is " + std::to_string(divisor) + "; it must divide " + of + " (" +
              std::to_string(value) + ")");
}

void multiple_of(const std::string& field, int value, int factor) {
  require(value % factor == 0, ErrorKind::kModelFile,
          "config: " + field + " is " + std::to_string(value) + "; it must be a multiple of " + std::to_string(factor));
}

// A NaN fails every comparison, so it is refused too.
void real_in_range(const std::string& field, double value, bool ok, const char* meaning) {
  require(std::isfinite(value) && ok, ErrorKind::kModelFile,
          "config: " + field + " is " + std::to_string(value) + "; it must be " + meaning);
}

void norm_eps_in_range(const std::string& field, float eps) {
  real_in_range(field, eps, eps > 0 && eps < 1, "a number between 0 and 1");
}

// Below 1 the frequencies would grow with the channel, without bound.
void theta_in_range(const std::string& field, double theta) {
  real_in_range(field, theta, theta >= 1, "a finite number, 1 or more");
}

void validate_heads(const std::string& prefix, int heads, int kv_heads, int head_dim) {
  in_range(prefix + "kv_heads", kv_heads, 1, heads);
  divides(prefix + "kv_heads", kv_heads, "heads", heads);
  in_range(prefix + "head_dim", head_dim, 2, kMaxHeadDim);
}

void same_as_target(const std::string& field, int value, int target) {
  require(value == target, ErrorKind::kModelFile,
          "config: " + field + " is " + std::to_string(value) + "; the target's is " + std::to_string(target));
}

// A layer without keys and values of its own reads those of an earlier layer, which must look the same.
void validate_kv_layer(const TextConfig& text, int index, const std::string& prefix) {
  const LayerSpec& layer = text.layers[index];
  const std::string field = prefix + "kv_layer";
  in_range(field, layer.kv_layer, 0, index);
  if (layer.kv_layer == index) return;
  const LayerSpec& owner = text.layers[layer.kv_layer];
  const std::string says = "config: " + field + " is " + std::to_string(layer.kv_layer) + "; that layer ";
  require(text.owns_kv(layer.kv_layer), ErrorKind::kModelFile, says + "has no keys and values of its own");
  require(owner.sliding == layer.sliding, ErrorKind::kModelFile,
          says + "is of the other kind (sliding and global layers cannot share)");
  require(owner.head_dim == layer.head_dim, ErrorKind::kModelFile, says + "has another head_dim");
  require(owner.kv_heads == layer.kv_heads, ErrorKind::kModelFile, says + "has another number of kv_heads");
}

void validate_layer(const TextConfig& text, int index) {
  const LayerSpec& layer = text.layers[index];
  const std::string prefix = "text.layers[" + std::to_string(index) + "].";
  validate_heads(prefix, text.heads, layer.kv_heads, layer.head_dim);
  multiple_of(prefix + "head_dim", layer.head_dim, 2);
  in_range(prefix + "ffn", layer.ffn, 1, kMaxWidth);
  theta_in_range(prefix + "rope_theta", layer.rope_theta);
  in_range(prefix + "rope_pairs", layer.rope_pairs, 0, layer.head_dim / 2);
  real_in_range(prefix + "rope_factor", layer.rope_factor, layer.rope_factor > 0, "a finite number above 0");
  validate_kv_layer(text, index, prefix);
  require(!layer.moe || text.experts > 0, ErrorKind::kModelFile,
          "config: " + prefix + "moe is set, but text.experts is 0");
}

void validate_text(const TextConfig& text) {
  in_range("text.vocab", text.vocab, 1, kMaxVocab);
  in_range("text.hidden", text.hidden, 1, kMaxWidth);
  in_range("text.heads", text.heads, 1, kMaxHeads);
  in_range("text.window", text.window, 1, kMaxContext);
  in_range("text.context", text.context, 1, kMaxContext);
  in_range("text.pad_id", text.pad_id, 0, text.vocab - 1);
  norm_eps_in_range("text.norm_eps", text.norm_eps);
  real_in_range("text.logit_cap", text.logit_cap, text.logit_cap >= 0, "a finite number, 0 or more");
  require(text.bidirectional_images || !text.whole_images, ErrorKind::kModelFile,
          "config: text.whole_images is set, but text.bidirectional_images is not");

  in_range("text.ple_dim", text.ple_dim, 0, kMaxWidth);
  // Every token that can be embedded must find its row in the per-layer table too.
  if (text.ple_dim > 0) in_range("text.ple_vocab", text.ple_vocab, text.vocab, kMaxVocab);

  in_range("text.experts", text.experts, 0, kMaxExperts);
  if (text.experts > 0) {
    in_range("text.experts_used", text.experts_used, 1, text.experts);
    in_range("text.expert_ffn", text.expert_ffn, 1, kMaxWidth);
  }

  in_range("text.layers (their number)", static_cast<int64_t>(text.layers.size()), 1, kMaxLayers);
  for (int i = 0; i < static_cast<int>(text.layers.size()); ++i) validate_layer(text, i);
}

void validate_vision(const VisionConfig& vision) {
  in_range("vision.hidden", vision.hidden, 1, kMaxWidth);
  in_range("vision.layers", vision.layers, 1, kMaxLayers);
  in_range("vision.heads", vision.heads, 1, kMaxHeads);
  validate_heads("vision.", vision.heads, vision.kv_heads, vision.head_dim);
  // One half of a head turns with x, the other with y, each in pairs.
  multiple_of("vision.head_dim", vision.head_dim, 4);
  in_range("vision.ffn", vision.ffn, 1, kMaxWidth);
  in_range("vision.patch", vision.patch, 1, kMaxPatch);
  in_range("vision.pool", vision.pool, 1, kMaxPool);
  in_range("vision.positions", vision.positions, vision.pool, kMaxPositions);
  norm_eps_in_range("vision.norm_eps", vision.norm_eps);
  theta_in_range("vision.rope_theta", vision.rope_theta);
}

void validate_audio(const AudioConfig& audio) {
  in_range("audio.mel_bins", audio.mel_bins, 1, kMaxChannels);
  in_range("audio.hidden", audio.hidden, 2, kMaxWidth);
  multiple_of("audio.hidden", audio.hidden, 2);  // sines and cosines of the relative positions
  in_range("audio.layers", audio.layers, 1, kMaxLayers);
  in_range("audio.heads", audio.heads, 1, kMaxHeads);
  divides("audio.heads", audio.heads, "hidden", audio.hidden);
  in_range("audio.channels1", audio.channels1, 1, kMaxChannels);
  in_range("audio.channels2", audio.channels2, 1, kMaxChannels);
  // What the convolutions leave of the frequencies, by the formula with which the checkpoints size the next matrix.
  require(audio.channels1 / 4 == (audio.mel_bins + 3) / 4, ErrorKind::kModelFile,
          "config: audio.channels1 is " + std::to_string(audio.channels1) +
              "; a quarter of it must be a quarter of the " + std::to_string(audio.mel_bins) + " mel_bins");
  in_range("audio.conv_kernel", audio.conv_kernel, 1, kMaxConvKernel);
  in_range("audio.chunk", audio.chunk, 1, kMaxAudioWindow);
  in_range("audio.left", audio.left, 2, kMaxAudioWindow);
  in_range("audio.right", audio.right, 0, kMaxAudioWindow);
  in_range("audio.out", audio.out, 1, kMaxWidth);
  norm_eps_in_range("audio.norm_eps", audio.norm_eps);
  real_in_range("audio.residual_weight", audio.residual_weight, true, "a finite number");
  real_in_range("audio.logit_cap", audio.logit_cap, audio.logit_cap > 0, "a finite number above 0");
  real_in_range("audio.gradient_clip", audio.gradient_clip, audio.gradient_clip > 0, "a finite number above 0");
}

void validate_pixels(const PixelConfig& pixels) {
  in_range("pixels.side", pixels.side, 1, kMaxSide);
  in_range("pixels.width", pixels.width, 1, kMaxWidth);
  in_range("pixels.positions", pixels.positions, 1, kMaxPositions);
  norm_eps_in_range("pixels.norm_eps", pixels.norm_eps);
}

void validate_samples(const SampleConfig& samples) {
  in_range("samples.frame", samples.frame, 1, kMaxFrame);
  norm_eps_in_range("samples.norm_eps", samples.norm_eps);
}

}  // namespace

int TextConfig::first_reader() const {
  int first = static_cast<int>(layers.size());
  while (first > 0 && !owns_kv(first - 1)) --first;
  return first;
}

void validate(const ModelConfig& config) {
  validate_text(config.text);
  if (config.vision) validate_vision(*config.vision);
  if (config.audio) validate_audio(*config.audio);
  if (config.pixels) validate_pixels(*config.pixels);
  if (config.samples) validate_samples(*config.samples);
  require(!config.vision || !config.pixels, ErrorKind::kModelFile, "config: both vision and pixels are given");
  require(!config.audio || !config.samples, ErrorKind::kModelFile, "config: both audio and samples are given");
}

DrafterConfig fitted(DrafterConfig drafter, const TextConfig& target) {
  TextConfig& text = drafter.text;
  for (size_t i = 0; i < text.layers.size(); ++i) text.layers[i].kv_layer = static_cast<int>(i);
  validate_text(text);
  require(text.ple_dim == 0 && text.experts == 0, ErrorKind::kModelFile,
          "config: a drafter has neither per-layer embeddings nor experts");
  same_as_target("target_hidden", drafter.target_hidden, target.hidden);
  same_as_target("text.vocab", text.vocab, target.vocab);
  same_as_target("text.window", text.window, target.window);
  in_range("centroids", drafter.centroids, 0, text.vocab);
  if (drafter.centroids > 0) {
    divides("centroids", drafter.centroids, "vocab", text.vocab);
    in_range("centroids_used", drafter.centroids_used, 1, drafter.centroids);
  }
  for (size_t i = 0; i < text.layers.size(); ++i) {
    LayerSpec& layer = text.layers[i];
    const std::string prefix = "text.layers[" + std::to_string(i) + "].";
    int owner = static_cast<int>(target.layers.size()) - 1;
    const auto is_read = [&](int i) { return target.owns_kv(i) && target.layers[i].sliding == layer.sliding; };
    while (owner >= 0 && !is_read(owner)) --owner;
    require(owner >= 0, ErrorKind::kModelFile,
            "config: " + prefix + "sliding: the target has no keys and values of that kind");
    same_as_target(prefix + "head_dim", layer.head_dim, target.layers[owner].head_dim);
    same_as_target(prefix + "kv_heads", layer.kv_heads, target.layers[owner].kv_heads);
    layer.kv_layer = owner;
  }
  text.owns_none = true;
  // A drafter stands at a position whose keys nobody has computed: it sees what lies before. There its window is one
  // wider than the target's, which counts the position itself.
  text.window += 2;
  text.bidirectional_images = text.whole_images = true;
  return drafter;
}

}  // namespace gemma4
