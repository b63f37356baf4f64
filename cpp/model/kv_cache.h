// Keys and values of one sequence. Only layers that own them have a place here; others read an owner's.
// Knows: positions and heads, the formats of rows. Must not know: how attention uses them.
// A full layer stores every position. A sliding layer is a ring over its window plus the tokens computed at once, so
// that the first token of a chunk still finds its whole window after the last one was written.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "core/lines.h"
#include "core/pages.h"
#include "kernels/attention.h"
#include "model/config.h"

namespace gemma4 {

class KVCache {
 public:
  // `context`: positions that fit; `chunk`: the most tokens written before attention reads them; `dtype`: kF32, kBF16,
  // kQ8_0 or kQ4_0, else kRequest is thrown. Rows are padded to a multiple of 32 elements.
  KVCache(const TextConfig& config, DType dtype, size_t context, size_t chunk);

  DType dtype() const { return dtype_; }
  size_t context() const { return context_; }
  size_t chunk() const { return chunk_; }
  size_t bytes() const;

  // Positions that a sliding layer holds.
  size_t ring(size_t window) const { return ring(window, chunk_); }

  // A ring can only grow: keeps its content and holds `chunk` tokens at once from now on.
  void reserve_chunk(const TextConfig& config, size_t chunk, size_t position);

  // Takes the positions [first, last) of another cache of the same model and format. Those that a ring of either has no
  // place for are left out: the last ones are there.
  void copy_from(const KVCache& other, size_t first, size_t last);

  // The memory of each layer's keys and values, quants before scales, to be saved and restored byte for byte by a cache
  // of the same model, format, context and chunk.
  std::vector<std::span<std::byte>> memory();

  // Stores one key and value (head_dim) f32, rotated where the format asks for it. Different places may be written at
  // the same time, each with a row of its own, `kept`, to work in.
  void write(const AttentionKernels& k, int layer, size_t head, size_t position, const float* key, const float* value,
             Lines<float>& kept);

  CacheRows keys(int layer, size_t head, size_t position) const {
    return at(layers_[layer].keys, layer, head, position);
  }
  CacheRows values(int layer, size_t head, size_t position) const {
    return at(layers_[layer].values, layer, head, position);
  }

  // Positions [first, last) are one run of rows in memory up to the end of the ring: how many from `first` on.
  size_t contiguous(int layer, size_t first, size_t last) const;

 private:
  struct Store {
    Pages memory;                // those of a long context that nobody has written cost nothing
    char* quants = nullptr;      // (kv_heads, capacity, row)
    uint16_t* scales = nullptr;  // (kv_heads, capacity, groups)
  };
  struct Layer {
    size_t row = 0;  // elements, padded
    size_t head_dim = 0;
    size_t kv_heads = 0;
    size_t capacity = 0;  // positions per head; a ring where it is less than the context
    size_t bytes = 0;     // of the keys, and of the values
    Store keys, values;
  };

  size_t ring(size_t window, size_t chunk) const { return std::min(context_, window + chunk); }
  Layer empty_layer(const LayerSpec& spec, size_t capacity) const;
  Store allocate(const Layer& l) const;
  CacheRows at(const Store& s, int layer, size_t head, size_t position) const {
    const Layer& l = layers_[layer];
    const size_t index = head * l.capacity + position % l.capacity;
    return {s.quants + index * cache_row_bytes(dtype_, l.row), s.scales + index * cache_row_scales(dtype_, l.row)};
  }
  void copy_row(const Layer& from, Layer& to, size_t head, size_t position) const;
  void copy(const Layer& from, Layer& to, size_t first, size_t last) const;

  DType dtype_;
  size_t context_;
  size_t chunk_;
  std::vector<Layer> layers_;  // empty where the layer reads another's
};

}  // namespace gemma4
