// Keys and values of one sequence. Only layers that own them have a place here; others read an owner's.
// Knows: positions and heads. Must not know: how attention uses them.
// A full layer stores every position. A sliding layer is a ring over its window plus the tokens computed at once, so
// that the first token of a chunk still finds its whole window after the last one was written.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "model/config.h"

namespace gemma4 {

class KVCache {
 public:
  // `context`: positions that fit; `chunk`: the most tokens written before attention reads them.
  KVCache(const TextConfig& config, DType dtype, size_t context, size_t chunk);

  DType dtype() const { return dtype_; }
  size_t context() const { return context_; }
  size_t chunk() const { return chunk_; }
  size_t bytes() const;

  // A ring can only grow: keeps its content and holds `chunk` tokens at once from now on.
  void reserve_chunk(const TextConfig& config, size_t chunk, size_t position);

  std::byte* key(int layer, size_t head, size_t position) { return at(layers_[layer].keys, layer, head, position); }
  std::byte* value(int layer, size_t head, size_t position) { return at(layers_[layer].values, layer, head, position); }

  // Positions [first, last) are one run of rows in memory up to the end of the ring: how many from `first` on.
  size_t contiguous(int layer, size_t first, size_t last) const;

 private:
  // From calloc: pages of a long context that nobody has written cost no memory.
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  using Buffer = std::unique_ptr<std::byte, Free>;
  struct Layer {
    size_t head_dim = 0;
    size_t kv_heads = 0;
    size_t capacity = 0;  // positions per head; a ring where it is less than the context
    size_t bytes = 0;     // of the keys, and of the values
    Buffer keys;          // (kv_heads, capacity, head_dim) in dtype_
    Buffer values;        // (kv_heads, capacity, head_dim) in dtype_
  };
  std::byte* at(const Buffer& store, int layer, size_t head, size_t position) const {
    const Layer& l = layers_[layer];
    return store.get() + (head * l.capacity + position % l.capacity) * row_bytes(dtype_, l.head_dim);
  }
  size_t capacity(const LayerSpec& spec, size_t window) const;

  DType dtype_;
  size_t context_;
  size_t chunk_;
  std::vector<Layer> layers_;  // empty where the layer reads another's
};

}  // namespace gemma4
