// Attention: see attention.h for the contract.
// An item is a tile of query rows, one key/value head and a part of the context. It goes through its keys and values
// once, block by block, for all its queries: a block is unpacked to f32 where several rows meet it, and read as it is
// stored where one row does (decode). A tile whose context is cut into parts is put together by whoever ends last, in
// the order of the parts.
#include "model/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/lines.h"

namespace gemma4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr size_t kKeyBlock = 64;       // keys scored at once: unpacked they take 128 KiB where a head has 512 channels
constexpr size_t kTileQueries = 64;    // queries of a tile: their sums stay in L2 too
constexpr size_t kUnpackRows = 2;      // from so many rows of a tile on, a block is unpacked first
constexpr size_t kItems = 16;          // so many items keep the threads of most machines busy,
constexpr size_t kShortestPart = 128;  // but no part of the context is shorter

size_t blocks(size_t n, size_t size) { return (n + size - 1) / size; }

// How a call is cut.
struct Plan {
  Plan(const AttentionShape& s, const Visible* visible, size_t all_rows)
      : rows(all_rows), group(s.heads / s.kv_heads), row(padded_head(s.head_dim)) {
    tile_rows = std::clamp<size_t>(kTileQueries / group, 1, rows);
    tiles = blocks(rows, tile_rows);
    size_t longest = 1;
    for (size_t t = 0; t < tiles; ++t) longest = std::max(longest, range(visible, t).last - range(visible, t).first);
    parts = std::clamp<size_t>(longest / kShortestPart, 1, blocks(kItems, tiles * s.kv_heads));
  }
  size_t first_row(size_t tile) const { return tile * tile_rows; }
  size_t rows_of(size_t tile) const { return std::min(tile_rows, rows - first_row(tile)); }
  size_t queries() const { return tile_rows * group; }

  // What any row of the tile sees.
  Visible range(const Visible* visible, size_t tile) const {
    Visible all = visible[first_row(tile)];
    for (size_t r = first_row(tile); r < first_row(tile) + rows_of(tile); ++r) {
      all.first = std::min(all.first, visible[r].first);
      all.last = std::max(all.last, visible[r].last);
    }
    return all;
  }
  Visible part_of(Visible all, size_t part) const {
    const size_t length = all.last - all.first;
    return {all.first + length * part / parts, all.first + length * (part + 1) / parts};
  }

  size_t rows, group, row;  // row: elements of a cache row
  size_t tile_rows, tiles, parts;
};

// Online softmax of some queries: the sums so far, for exponentials relative to the highest score so far.
struct Running {
  float* sums;     // (queries, row)
  float* highest;  // (queries)
  float* total;    // (queries)
};

struct Call {
  const Compute& c;
  const AttentionShape& s;
  const KVCache& cache;
  const float* q;
  const Visible* visible;
  const Plan& plan;
  float* out;

  size_t at(size_t row, size_t head) const { return (row * s.heads + head * plan.group) * s.head_dim; }
};

// The format that a tile's queries meet.
DType format_met(const Call& call, size_t tile) {
  return call.plan.rows_of(tile) >= kUnpackRows ? DType::kF32 : call.cache.dtype();
}

// The queries of a tile for one key/value head, packed row by row.
void gather(const Call& call, size_t tile, size_t head, Workspace::Lane& w) {
  const Plan& p = call.plan;
  const CacheKernels& kernels = call.c.isa.attention.of(format_met(call, tile));
  const size_t bytes = kernels.query_bytes(p.row, p.group), rows = p.rows_of(tile);
  char* q = w.queries.room(rows * bytes);
  float* plain = w.plain.room(p.group * p.row);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t j = 0; j < p.group; ++j) {
      float* one = plain + j * p.row;
      std::copy_n(call.q + call.at(p.first_row(tile) + r, head) + j * call.s.head_dim, call.s.head_dim, one);
      std::fill(one + call.s.head_dim, one + p.row, 0.0f);
      if (is_quantized_cache(call.cache.dtype())) call.c.isa.attention.hadamard(one, p.row);
    }
    kernels.pack(plain, p.row, p.group, q + r * bytes);
  }
}

// scores (m, n) become exponentials; the sums so far shrink where a new score is the highest.
void soften(const Kernels& k, float* scores, size_t n, size_t m, size_t row, Running state) {
  for (size_t j = 0; j < m; ++j) {
    float* own = scores + j * kKeyBlock;
    const float highest = k.max(own, n);
    if (!(highest <= state.highest[j])) {  // also when it is NaN, which must reach the output
      const float shrink = std::exp(state.highest[j] - highest);
      state.total[j] *= shrink;
      k.scale(shrink, state.sums + j * row, state.sums + j * row, row);
      state.highest[j] = highest;
    }
    state.total[j] += k.exp_sum(own, n, state.highest[j]);
  }
}

// The rows of a block that begin `skip` rows further on, which are f32 if they were unpacked.
CacheRows further(CacheRows rows, DType format, size_t skip, size_t row) {
  return {rows.quants + skip * cache_row_bytes(format, row), rows.scales + skip * cache_row_scales(format, row)};
}

// Folds the positions of `block`, contiguous in memory, into the state of a tile's queries, which `gather` left in w.
// Rows of one query are read as they are stored, and meanwhile those that come after them: a block's values after its
// keys, then the keys at `next`.
void fold_block(const Call& call, size_t tile, size_t head, Visible block, size_t next, Workspace::Lane& w,
                Running state) {
  const Plan& p = call.plan;
  const KVCache& cache = call.cache;
  const int layer = call.s.kv_layer;
  const size_t count = block.last - block.first, rows = p.rows_of(tile);
  const DType format = format_met(call, tile);
  const bool unpack = format != cache.dtype();
  const CacheKernels& kernels = call.c.isa.attention.of(format);
  const size_t bytes = kernels.query_bytes(p.row, p.group);  // of a row's queries
  const char* q = w.queries.room(rows * bytes);
  float* scores = w.scores.room(rows * p.group * kKeyBlock);
  float* unpacked = w.block.room(unpack ? kKeyBlock * p.row : 0);

  // body(row, the rows of the cache that it sees, how many, what is read after them)
  const auto each_row = [&](CacheRows source, CacheRows after, const auto& body) {
    if (unpack) {
      call.c.isa.attention.of(cache.dtype()).load(source, count, p.row, unpacked);
      source = {reinterpret_cast<const char*>(unpacked), source.scales};
    }
    for (size_t r = 0; r < rows; ++r) {
      const Visible sees = call.visible[p.first_row(tile) + r];
      const size_t from = std::max(sees.first, block.first), to = std::min(sees.last, block.last);
      if (from >= to) continue;
      const CacheRows seen = further(source, format, from - block.first, p.row);
      body(r, seen, to - from, rows == 1 ? after.quants : seen.quants);
    }
  };
  const CacheRows keys = cache.keys(layer, head, block.first), values = cache.values(layer, head, block.first);
  each_row(keys, values, [&](size_t r, CacheRows seen, size_t n, const char* after) {
    const size_t j = r * p.group;
    float* own = scores + j * kKeyBlock;
    kernels.scores(seen, n, p.row, q + r * bytes, p.group, {own, kKeyBlock}, after);
    soften(call.c.k, own, n, p.group, p.row, {state.sums + j * p.row, state.highest + j, state.total + j});
  });
  each_row(values, cache.keys(layer, head, next), [&](size_t r, CacheRows seen, size_t n, const char* after) {
    const size_t j = r * p.group;
    kernels.sum(seen, n, p.row, {scores + j * kKeyBlock, kKeyBlock, p.group}, state.sums + j * p.row, after);
  });
}

void attend_part(const Call& call, size_t tile, size_t head, size_t part, Workspace::Lane& w, Running state) {
  const Plan& p = call.plan;
  const size_t m = p.rows_of(tile) * p.group;
  gather(call, tile, head, w);
  std::fill_n(state.sums, m * p.row, 0.0f);
  std::fill_n(state.highest, m, -kInfinity);
  std::fill_n(state.total, m, 0.0f);
  const Visible range = p.part_of(p.range(call.visible, tile), part);
  for (size_t at = range.first, end; at < range.last; at = end) {
    end = at + std::min(kKeyBlock, call.cache.contiguous(call.s.kv_layer, at, range.last));
    fold_block(call, tile, head, {at, end}, end < range.last ? end : at, w, state);
  }
}

// Adds another part of the context to a state.
void merge(const Kernels& k, size_t queries, size_t row, Running into, Running other) {
  for (size_t j = 0; j < queries; ++j) {
    // NaN and the -inf of a part that a row does not see both end where they should: in the result, and in nothing.
    const float a = into.highest[j], b = other.highest[j];
    const float highest = a > b || std::isnan(a) ? a : b;
    const float keep = a == highest ? 1.0f : std::exp(a - highest), add = b == highest ? 1.0f : std::exp(b - highest);
    k.scale(keep, into.sums + j * row, into.sums + j * row, row);
    k.axpy(add, other.sums + j * row, into.sums + j * row, row);
    into.total[j] = into.total[j] * keep + other.total[j] * add;
    into.highest[j] = highest;
  }
}

void finish(const Call& call, size_t tile, size_t head, Running state) {
  const Plan& p = call.plan;
  for (size_t r = 0; r < p.rows_of(tile); ++r) {
    for (size_t j = 0; j < p.group; ++j) {
      float* sums = state.sums + (r * p.group + j) * p.row;
      call.c.k.scale(1.0f / state.total[r * p.group + j], sums, sums, p.row);
      if (is_quantized_cache(call.cache.dtype())) call.c.isa.attention.hadamard(sums, p.row);
      std::copy_n(sums, call.s.head_dim, call.out + call.at(p.first_row(tile) + r, head) + j * call.s.head_dim);
    }
  }
}

}  // namespace

void attend(const Compute& c, const AttentionShape& s, const KVCache& cache, const float* q, const Visible* visible,
            size_t rows, AttentionScratch& scratch, float* out) {
  if (rows == 0) return;
  const Plan plan(s, visible, rows);
  const Call call{c, s, cache, q, visible, plan, out};
  const size_t pairs = plan.tiles * s.kv_heads, queries = plan.queries();
  // Parts of a tile wait for each other; a tile of one part needs a place only while its thread is at it.
  const size_t places = plan.parts == 1 ? static_cast<size_t>(c.pool.size()) : pairs * plan.parts;
  float* sums = scratch.sums.room(places * queries * plan.row);
  float* highest = scratch.highest.room(places * queries);
  float* total = scratch.total.room(places * queries);
  const auto state = [&](size_t place) {
    const size_t first = place * queries;
    return Running{sums + first * plan.row, highest + first, total + first};
  };
  size_t* left = scratch.left.room(pairs);
  std::fill_n(left, pairs, plan.parts);
  c.pool.parallel_for(pairs * plan.parts, [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    const size_t part = item % plan.parts, pair = item / plan.parts, tile = pair / s.kv_heads, head = pair % s.kv_heads;
    const size_t place = plan.parts == 1 ? static_cast<size_t>(thread) : item, first = place - part;
    attend_part(call, tile, head, part, c.workspace.lanes[static_cast<size_t>(thread)], state(place));
    if (std::atomic_ref(left[pair]).fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    const size_t m = plan.rows_of(tile) * plan.group;
    for (size_t other = 1; other < plan.parts; ++other) merge(c.k, m, plan.row, state(first), state(first + other));
    finish(call, tile, head, state(first));
  });
}

}  // namespace gemma4
