// Vision and audio without encoders: see projectors.h for the contract. Published as Gemma4UnifiedVisionEmbedder and
// Gemma4UnifiedMultimodalEmbedder. No soft token knows another, so they pass in chunks that bound the wide buffer.
#include "model/projectors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "model/rows.h"

namespace gemma4 {
namespace {

// Inputs at once (16 MB): 606 squares of the published size.
constexpr size_t kChunkValues = size_t{1} << 22;
// Of the layer norms, which take their class's default and not the config's value.
constexpr double kLayerNormEps = 1e-5;

// x = (x - mean) / sqrt(variance + eps) * weight + bias.   x: (n)
void layer_norm(float* x, const LayerNorm& w) {
  const size_t n = w.weight.size();
  double sum = 0, squares = 0;
  for (size_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  for (size_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + kLayerNormEps);
  for (size_t i = 0; i < n; ++i) {
    x[i] = static_cast<float>((x[i] - mean) * factor) * w.weight[i] + w.bias[i];
  }
}

// Reads the square of row `y`, column `x` of the picture's grid as (row, column, channel), 0 to 1.
void read_square(const ImageView& image, size_t side, size_t y, size_t x, float* out) {
  constexpr auto kByte = static_cast<float>(1 / 255.0);
  for (size_t line = 0; line < side; ++line) {
    const uint8_t* rgb = image.rgb + (y * side + line) * image.stride + x * side * 3;
    for (size_t i = 0; i < side * 3; ++i) *out++ = static_cast<float>(rgb[i]) * kByte;
  }
}

// Soft tokens of the largest chunk.
size_t chunk_of(size_t tokens, size_t values) { return std::min(tokens, std::max<size_t>(1, kChunkValues / values)); }

}  // namespace

size_t soft_token_count(const PixelConfig& config, size_t height, size_t width) {
  const size_t side = config.side;
  return square_count(height, width, side, side * config.positions);
}

void project_image(const Compute& c, const PixelConfig& config, const PixelWeights& weights, const ImageView& image,
                   float* out, const Adapter* adapter) {
  const size_t tokens = soft_token_count(config, image.height, image.width), side = config.side, width = config.width;
  const size_t values = 3 * side * side, across = image.width / side, chunk = chunk_of(tokens, values);
  std::vector<float> pixels(chunk * values);  // (chunk, row, column, channel)
  std::vector<float> h(chunk * width);        // (chunk, width)
  // (threads)(2, width): one row of each position table
  std::vector<std::vector<float>> position(c.pool.size(), std::vector<float>(2 * width));
  const auto to_f32 = c.k.of(weights.positions.dtype).to_f32;

  for (size_t first = 0; first < tokens; first += chunk) {
    const size_t rows = std::min(chunk, tokens - first);
    for_rows(c, rows, [&](size_t r, int) {
      float* x = &pixels[r * values];
      read_square(image, side, (first + r) / across, (first + r) % across, x);
      layer_norm(x, weights.pixel_norm);
    });
    linear(c, weights.dense, pixels.data(), rows, h.data());
    adapt(c, adapter, weights.dense, pixels.data(), rows, h.data());
    for_rows(c, rows, [&](size_t r, int thread) {
      float* x = &h[r * width];
      c.k.axpy(1.0f, weights.dense_bias.data(), x, width);
      layer_norm(x, weights.dense_norm);
      float* at_x = position[thread].data();
      float* at_y = at_x + width;
      to_f32(weights.positions.row(2 * ((first + r) % across)), at_x, width);
      to_f32(weights.positions.row(2 * ((first + r) / across) + 1), at_y, width);
      c.k.axpy(1.0f, at_y, at_x, width);
      c.k.axpy(1.0f, at_x, x, width);
      layer_norm(x, weights.position_norm);
      c.k.rms_norm(x, nullptr, x, width, config.norm_eps);
    });
    float* soft = out + first * weights.projection.rows();
    linear(c, weights.projection, h.data(), rows, soft);
    adapt(c, adapter, weights.projection, h.data(), rows, soft);
  }
}

void project_frames(const Compute& c, const SampleConfig& config, const SampleWeights& weights, const float* frames,
                    size_t n, float* out, const Adapter* adapter) {
  const size_t frame = config.frame, chunk = chunk_of(n, frame);
  std::vector<float> normed(chunk * frame);  // (chunk, frame)
  for (size_t first = 0; first < n; first += chunk) {
    const size_t rows = std::min(chunk, n - first);
    for_rows(c, rows, [&](size_t r, int) {
      c.k.rms_norm(frames + (first + r) * frame, nullptr, &normed[r * frame], frame, config.norm_eps);
    });
    float* soft = out + first * weights.projection.rows();
    linear(c, weights.projection, normed.data(), rows, soft);
    adapt(c, adapter, weights.projection, normed.data(), rows, soft);
  }
}

}  // namespace gemma4
