#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/checked.h"
#include "core/error.h"

namespace gemma4 {

KVCache::KVCache(const TextConfig& config, DType dtype, size_t context, size_t chunk)
    : dtype_(dtype), context_(context), chunk_(std::min(chunk, context)), layers_(config.layers.size()) {
  require(is_cache_format(dtype), ErrorKind::kRequest,
          "the KV cache cannot be " + std::string(traits(dtype).name) + ", expected F32, BF16, Q8_0 or Q4_0");
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerSpec& spec = config.layers[i];
    if (!config.owns_kv(static_cast<int>(i))) continue;
    layers_[i] = empty_layer(spec, spec.sliding ? ring(config.window) : context_);
  }
}

KVCache::Layer KVCache::empty_layer(const LayerSpec& spec, size_t capacity) const {
  Layer l;
  l.head_dim = spec.head_dim;
  l.row = padded_head(l.head_dim);
  l.kv_heads = spec.kv_heads;
  l.capacity = capacity;
  const size_t rows = checked_mul(l.kv_heads, l.capacity, "KV cache");
  const size_t row_bytes = cache_row_bytes(dtype_, l.row) + cache_row_scales(dtype_, l.row) * sizeof(uint16_t);
  l.bytes = checked_mul(rows, row_bytes, "KV cache");
  l.keys = allocate(l);
  l.values = allocate(l);
  return l;
}

KVCache::Store KVCache::allocate(const Layer& l) const {
  Store s;
  s.memory = Pages(l.bytes);
  s.quants = static_cast<char*>(s.memory.data());
  s.scales = reinterpret_cast<uint16_t*>(s.quants + l.kv_heads * l.capacity * cache_row_bytes(dtype_, l.row));
  return s;
}

size_t KVCache::bytes() const {
  size_t sum = 0;
  for (const Layer& l : layers_) sum += 2 * l.bytes;
  return sum;
}

std::vector<std::span<std::byte>> KVCache::memory() {
  std::vector<std::span<std::byte>> found;
  for (Layer& l : layers_) {
    for (Store* s : {&l.keys, &l.values}) {
      if (l.bytes > 0) found.emplace_back(reinterpret_cast<std::byte*>(s->quants), l.bytes);
    }
  }
  return found;
}

// The key and value at a position, from one cache's layer to another's.
void KVCache::copy_row(const Layer& from, Layer& to, size_t head, size_t position) const {
  const size_t quants = cache_row_bytes(dtype_, from.row), scales = cache_row_scales(dtype_, from.row);
  const size_t source = head * from.capacity + position % from.capacity;
  const size_t target = head * to.capacity + position % to.capacity;
  for (const auto store : {&Layer::keys, &Layer::values}) {
    const Store& s = from.*store;
    const Store& t = to.*store;
    std::memcpy(t.quants + target * quants, s.quants + source * quants, quants);
    std::memcpy(t.scales + target * scales, s.scales + source * scales, scales * sizeof(uint16_t));
  }
}

void KVCache::copy(const Layer& from, Layer& to, size_t first, size_t last) const {
  const size_t most = std::min({last - first, from.capacity, to.capacity});
  for (size_t head = 0; head < to.kv_heads; ++head) {
    for (size_t p = last - most; p < last; ++p) copy_row(from, to, head, p);
  }
}

void KVCache::copy_from(const KVCache& other, size_t first, size_t last) {
  for (size_t i = 0; i < layers_.size(); ++i) copy(other.layers_[i], layers_[i], first, last);
}

void KVCache::reserve_chunk(const TextConfig& config, size_t chunk, size_t position) {
  const size_t longer = std::min(chunk, context_);
  if (longer <= chunk_) return;
  const size_t capacity = ring(config.window, longer);
  std::vector<Layer> rings(layers_.size());  // all of them before any is replaced: memory may be short
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].bytes == 0 || !config.layers[i].sliding || layers_[i].capacity == capacity) continue;
    rings[i] = empty_layer(config.layers[i], capacity);
    copy(layers_[i], rings[i], 0, position);
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (rings[i].bytes > 0) layers_[i] = std::move(rings[i]);
  }
  chunk_ = longer;
}

void KVCache::write(const AttentionKernels& k, int layer, size_t head, size_t position, const float* key,
                    const float* value, Lines<float>& kept) {
  const Layer& l = layers_[layer];
  float* row = kept.room(l.row);
  const size_t index = head * l.capacity + position % l.capacity;
  for (const bool is_key : {true, false}) {
    std::copy_n(is_key ? key : value, l.head_dim, row);
    std::fill(row + l.head_dim, row + l.row, 0.0f);
    if (is_quantized_cache(dtype_)) k.hadamard(row, l.row);
    const Store& s = is_key ? l.keys : l.values;
    store_row(dtype_, row, l.row, s.quants + index * cache_row_bytes(dtype_, l.row),
              s.scales + index * cache_row_scales(dtype_, l.row));
  }
}

size_t KVCache::contiguous(int layer, size_t first, size_t last) const {
  const size_t capacity = layers_[layer].capacity;
  return std::min(last - first, capacity - first % capacity);
}

}  // namespace gemma4
