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
#include <iterator>
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

using Plan = AttentionPlan;

size_t first_row(const Plan& p, size_t tile) { return p.begin + tile * p.tile_rows; }
size_t rows_of(const Plan& p, size_t tile) { return std::min(p.tile_rows, p.rows - tile * p.tile_rows); }

// What any row of the tile sees.
Visible range(const Plan& p, const Visible* visible, size_t tile) {
  const size_t first = first_row(p, tile);
  Visible all = visible[first];
  for (size_t r = first; r < first + rows_of(p, tile); ++r) {
    all.first = std::min(all.first, visible[r].first);
    all.last = std::max(all.last, visible[r].last);
  }
  return all;
}

Visible part_of(const Plan& p, Visible all, size_t part) {
  const size_t length = all.last - all.first;
  return {all.first + length * part / p.parts, all.first + length * (part + 1) / p.parts};
}

// A plan of nothing that begins behind another one's rows, pairs, items and places.
Plan behind(const AttentionShape& s, const Plan& p) {
  const size_t pairs = p.tiles * s.kv_heads, items = pairs * p.parts;
  Plan next{};
  next.begin = p.begin + p.rows;
  next.first_pair = p.first_pair + pairs;
  next.first_item = p.first_item + items;
  next.first_place = p.first_place + (p.parts > 1 ? items : 0);
  return next;
}

// How a look is cut. `p`: where it begins.
Plan plan(const AttentionShape& s, Look look, const Visible* visible, Plan p) {
  p.cache = look.cache;
  p.rows = look.rows;
  p.tile_rows = std::clamp<size_t>(kTileQueries * s.kv_heads / s.heads, 1, p.rows);
  p.tiles = blocks(p.rows, p.tile_rows);
  size_t longest = 1;
  for (size_t t = 0; t < p.tiles; ++t) {
    const Visible all = range(p, visible, t);
    longest = std::max(longest, all.last - all.first);
  }
  p.parts = std::clamp<size_t>(longest / kShortestPart, 1, blocks(kItems, p.tiles * s.kv_heads));
  return p;
}

// Online softmax of some queries: the sums so far, for exponentials relative to the highest score so far.
struct Running {
  float* sums;     // (queries, row)
  float* highest;  // (queries)
  float* total;    // (queries)
};

struct Call {
  const Compute& c;
  const AttentionShape& s;
  const float* q;
  const Visible* visible;
  float* out;
  size_t group, row;  // queries that share a key; elements of a cache row

  size_t at(size_t row, size_t head) const { return (row * s.heads + head * group) * s.head_dim; }
};

// One tile of a look and a key/value head.
struct Pair {
  const Plan& plan;
  size_t first, rows;  // of all rows of the call
  size_t tile, head;

  const KVCache& cache() const { return *plan.cache; }
};

// The format that a tile's queries meet.
DType format_met(const Pair& p) { return p.rows >= kUnpackRows ? DType::kF32 : p.cache().dtype(); }

// The queries of a pair, packed row by row.
void gather(const Call& call, const Pair& p, Workspace::Lane& w) {
  const CacheKernels& kernels = call.c.isa.attention.of(format_met(p));
  const size_t bytes = kernels.query_bytes(call.row, call.group);
  char* q = w.queries.room(p.rows * bytes);
  float* plain = w.plain.room(call.group * call.row);
  for (size_t r = 0; r < p.rows; ++r) {
    for (size_t j = 0; j < call.group; ++j) {
      float* one = plain + j * call.row;
      std::copy_n(call.q + call.at(p.first + r, p.head) + j * call.s.head_dim, call.s.head_dim, one);
      std::fill(one + call.s.head_dim, one + call.row, 0.0f);
      if (is_quantized_cache(p.cache().dtype())) call.c.isa.attention.hadamard(one, call.row);
    }
    kernels.pack(plain, call.row, call.group, q + r * bytes);
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

// Folds the positions of `block`, contiguous in memory, into the state of a pair's queries, which `gather` left in w.
// Rows of one query are read as they are stored, and meanwhile those that come after them: a block's values after its
// keys, then the keys at `next`.
void fold_block(const Call& call, const Pair& p, Visible block, size_t next, Workspace::Lane& w, Running state) {
  const KVCache& cache = p.cache();
  const int layer = call.s.kv_layer;
  const size_t count = block.last - block.first, group = call.group, row = call.row;
  const DType format = format_met(p);
  const bool unpack = format != cache.dtype();
  const CacheKernels& kernels = call.c.isa.attention.of(format);
  const size_t bytes = kernels.query_bytes(row, group);  // of a row's queries
  const char* q = w.queries.room(p.rows * bytes);
  float* scores = w.scores.room(p.rows * group * kKeyBlock);
  float* unpacked = w.block.room(unpack ? kKeyBlock * row : 0);

  // body(row, the rows of the cache that it sees, how many, what is read after them)
  const auto each_row = [&](CacheRows source, CacheRows after, const auto& body) {
    if (unpack) {
      call.c.isa.attention.of(cache.dtype()).load(source, count, row, unpacked);
      source = {reinterpret_cast<const char*>(unpacked), source.scales};
    }
    for (size_t r = 0; r < p.rows; ++r) {
      const Visible sees = call.visible[p.first + r];
      const size_t from = std::max(sees.first, block.first), to = std::min(sees.last, block.last);
      if (from >= to) continue;
      const CacheRows seen = further(source, format, from - block.first, row);
      body(r, seen, to - from, p.rows == 1 ? after.quants : seen.quants);
    }
  };
  const CacheRows keys = cache.keys(layer, p.head, block.first), values = cache.values(layer, p.head, block.first);
  each_row(keys, values, [&](size_t r, CacheRows seen, size_t n, const char* after) {
    const size_t j = r * group;
    float* own = scores + j * kKeyBlock;
    kernels.scores(seen, n, row, q + r * bytes, group, {own, kKeyBlock}, after);
    soften(call.c.k, own, n, group, row, {state.sums + j * row, state.highest + j, state.total + j});
  });
  each_row(values, cache.keys(layer, p.head, next), [&](size_t r, CacheRows seen, size_t n, const char* after) {
    const size_t j = r * group;
    kernels.sum(seen, n, row, {scores + j * kKeyBlock, kKeyBlock, group}, state.sums + j * row, after);
  });
}

void attend_part(const Call& call, const Pair& p, size_t part, Workspace::Lane& w, Running state) {
  const size_t m = p.rows * call.group;
  gather(call, p, w);
  std::fill_n(state.sums, m * call.row, 0.0f);
  std::fill_n(state.highest, m, -kInfinity);
  std::fill_n(state.total, m, 0.0f);
  const Visible seen = part_of(p.plan, range(p.plan, call.visible, p.tile), part);
  for (size_t at = seen.first, end; at < seen.last; at = end) {
    end = at + std::min(kKeyBlock, p.cache().contiguous(call.s.kv_layer, at, seen.last));
    fold_block(call, p, {at, end}, end < seen.last ? end : at, w, state);
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

void finish(const Call& call, const Pair& p, Running state) {
  for (size_t r = 0; r < p.rows; ++r) {
    for (size_t j = 0; j < call.group; ++j) {
      float* sums = state.sums + (r * call.group + j) * call.row;
      call.c.k.scale(1.0f / state.total[r * call.group + j], sums, sums, call.row);
      if (is_quantized_cache(p.cache().dtype())) call.c.isa.attention.hadamard(sums, call.row);
      std::copy_n(sums, call.s.head_dim, call.out + call.at(p.first + r, p.head) + j * call.s.head_dim);
    }
  }
}

}  // namespace

void attend(const Compute& c, const AttentionShape& s, std::span<const Look> looks, const float* q,
            const Visible* visible, AttentionScratch& scratch, float* out) {
  const Call call{c, s, q, visible, out, s.heads / s.kv_heads, padded_head(s.head_dim)};
  std::vector<Plan>& plans = scratch.plans;
  plans.clear();
  Plan end{};  // behind all looks so far
  size_t tile_rows = 0;
  for (const Look& look : looks) {
    if (look.rows == 0) continue;
    plans.push_back(plan(s, look, visible, end));
    end = behind(s, plans.back());
    tile_rows = std::max(tile_rows, plans.back().tile_rows);
  }
  if (plans.empty()) return;
  // Parts of a tile wait for each other; a tile of one part needs a place only while its thread is at it.
  const auto threads = static_cast<size_t>(c.pool.size());
  const size_t places = threads + end.first_place, queries = tile_rows * call.group;
  float* sums = scratch.sums.room(places * queries * call.row);
  float* highest = scratch.highest.room(places * queries);
  float* total = scratch.total.room(places * queries);
  const auto state = [&](size_t place) {
    const size_t first = place * queries;
    return Running{sums + first * call.row, highest + first, total + first};
  };
  size_t* left = scratch.left.room(end.first_pair);
  for (const Plan& p : plans) std::fill_n(left + p.first_pair, p.tiles * s.kv_heads, p.parts);
  c.pool.parallel_for(end.first_item, [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    const auto before = [](size_t i, const Plan& p) { return i < p.first_item; };
    const Plan& p = *std::prev(std::upper_bound(plans.begin(), plans.end(), item, before));
    const size_t own = item - p.first_item, part = own % p.parts, index = own / p.parts;
    const size_t tile = index / s.kv_heads;
    const Pair pair{p, first_row(p, tile), rows_of(p, tile), tile, index % s.kv_heads};
    const size_t place = p.parts == 1 ? static_cast<size_t>(thread) : threads + p.first_place + own;
    const size_t first = place - part;
    attend_part(call, pair, part, c.workspace.lanes[static_cast<size_t>(thread)], state(place));
    if (std::atomic_ref(left[p.first_pair + index]).fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    const size_t m = pair.rows * call.group;
    for (size_t other = 1; other < p.parts; ++other) merge(c.k, m, call.row, state(first), state(first + other));
    finish(call, pair, state(first));
  });
}

}  // namespace gemma4
