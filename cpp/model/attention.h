// Attention of query rows over the KV cache, with online softmax over blocks of keys.
// Knows: the cache and which positions a query sees. Must not know: projections, norms, rotations.
#pragma once

#include <cstddef>

#include "core/lines.h"
#include "model/kv_cache.h"
#include "model/linear.h"

namespace gemma4 {

// The cache positions [first, last) that one query row sees.
struct Visible {
  size_t first;
  size_t last;
};

struct AttentionShape {
  int kv_layer;     // whose cache is read
  size_t heads;     // query heads
  size_t kv_heads;  // heads / kv_heads queries share one key
  size_t head_dim;
};

// What the parts of one call leave behind for each other. Kept between calls.
struct AttentionScratch {
  Lines<float> sums;     // (parts, queries of a tile, row): weighted sums of values
  Lines<float> highest;  // (parts, queries of a tile): the largest score
  Lines<float> total;    // (parts, queries of a tile): the sum of the exponentials
  Lines<size_t> left;    // (tiles, kv_heads): parts that are not done
};

// q: (rows, heads, head_dim) f32; visible: one per row; out: (rows, heads, head_dim) f32. No scale, no T x T matrix.
// The work is cut into tiles of rows and parts of the context by the shapes alone: the result is the same for any
// number of threads.
void attend(const Compute& c, const AttentionShape& shape, const KVCache& cache, const float* q, const Visible* visible,
            size_t rows, AttentionScratch& scratch, float* out);

}  // namespace gemma4
