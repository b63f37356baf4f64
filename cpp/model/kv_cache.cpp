#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/checked.h"

namespace gemma4 {

size_t KVCache::capacity(const LayerSpec& spec, size_t window) const {
  return spec.sliding ? std::min(context_, window + chunk_) : context_;
}

KVCache::KVCache(const TextConfig& config, DType dtype, size_t context, size_t chunk)
    : dtype_(dtype), context_(context), chunk_(std::min(chunk, context)), layers_(config.layers.size()) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerSpec& spec = config.layers[i];
    if (!config.owns_kv(static_cast<int>(i))) continue;
    Layer& l = layers_[i];
    l.head_dim = spec.head_dim;
    l.kv_heads = spec.kv_heads;
    l.capacity = capacity(spec, config.window);
    const size_t rows = checked_mul(l.kv_heads, l.capacity, "KV cache");
    l.bytes = checked_mul(rows, row_bytes(dtype_, l.head_dim), "KV cache");
    l.keys.reset(static_cast<std::byte*>(std::calloc(l.bytes, 1)));
    l.values.reset(static_cast<std::byte*>(std::calloc(l.bytes, 1)));
    if (!l.keys || !l.values) throw std::bad_alloc();
  }
}

size_t KVCache::bytes() const {
  size_t sum = 0;
  for (const Layer& l : layers_) sum += 2 * l.bytes;
  return sum;
}

void KVCache::reserve_chunk(const TextConfig& config, size_t chunk, size_t position) {
  if (std::min(chunk, context_) <= chunk_) return;
  KVCache bigger(config, dtype_, context_, chunk);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& l = layers_[i];
    const size_t kept = std::min(position, l.capacity);
    for (size_t head = 0; head < l.kv_heads; ++head) {
      for (size_t p = position - kept; p < position; ++p) {
        const size_t bytes = row_bytes(dtype_, l.head_dim);
        std::memcpy(bigger.key(static_cast<int>(i), head, p), key(static_cast<int>(i), head, p), bytes);
        std::memcpy(bigger.value(static_cast<int>(i), head, p), value(static_cast<int>(i), head, p), bytes);
      }
    }
  }
  *this = std::move(bigger);
}

size_t KVCache::contiguous(int layer, size_t first, size_t last) const {
  const size_t capacity = layers_[layer].capacity;
  return std::min(last - first, capacity - first % capacity);
}

}  // namespace gemma4
