// Attention of query rows over the KV cache, with online softmax over blocks of keys.
// Knows: caches and which positions a query sees. Must not know: projections, norms, rotations.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

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

// Consecutive query rows of one sequence, and the cache that they look into.
struct Look {
  const KVCache* cache;
  size_t rows;
};

// How the work of one look is cut: into tiles of rows, key/value heads and parts of the context.
struct AttentionPlan {
  const KVCache* cache;
  size_t begin, rows;       // of all rows of the call
  size_t tile_rows, tiles;  // rows of a tile; the last one may be smaller
  size_t parts;             // of the context, the same for each tile
  size_t first_pair;        // (tile, key/value head) pairs of the looks before
  size_t first_item;        // (tile, head, part) items of the looks before
  size_t first_place;       // where its items leave their sums for each other; those of one part need no place
};

// What the parts of one call leave behind for each other. Kept between calls.
struct AttentionScratch {
  std::vector<AttentionPlan> plans;  // (looks)
  Lines<float> sums;                 // (places, queries of a tile, row): weighted sums of values
  Lines<float> highest;              // (places, queries of a tile): the largest score
  Lines<float> total;                // (places, queries of a tile): the sum of the exponentials
  Lines<size_t> left;                // (pairs): parts that are not done
};

// The rows of all looks, one after the other; visible: one per row. No scale, no T x T matrix.
//   q, out: (rows, heads, head_dim) f32
// A look is cut by its own shapes alone: its rows get the same bits for any number of threads and in any company.
void attend(const Compute& c, const AttentionShape& shape, std::span<const Look> looks, const float* q,
            const Visible* visible, AttentionScratch& scratch, float* out);

}  // namespace gemma4
