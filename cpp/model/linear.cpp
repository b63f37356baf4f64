// Matrix products: see linear.h for the contract.
// Two ways through one matrix. Few rows of x: memory-bound, so each weight is read once, as stored, by the kernel of
// its format. Many rows: compute-bound, so a tile of weights is unpacked to f32 once per block of rows and OpenBLAS
// multiplies it. Both split the work by the shapes alone, and the inner dimension is never split. Block formats take
// the same two ways through kernels of their own, with x rounded to int8 once for all. Quants go as plain weights do:
// where a row has one scale, it multiplies the sums of the quants; where a row has more, it is unpacked with them
// first. Where the processor multiplies tiles (kernels/tiles.h), many rows of any other format take that way.
#include "model/linear.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "model/blas.h"
#include "model/quants.h"

namespace gemma4 {
namespace {

// Up to so many rows of x, unpacking and packing the weights would cost more than it saves.
constexpr size_t kStreamedRows = 24;
// Weights that one item streams at most: its first rows come without prefetch, so it is long (measured on two threads:
// 12.3 GB/s with 128 KiB, 14.0 with 512).
constexpr size_t kStreamBytes = 512 * 1024;
// Items of a small matrix, to balance threads.
constexpr size_t kStreamItems = 4;
// A loop ends with small items, so that threads end together: its last kTailItems become ones of about kTailBytes.
constexpr size_t kTailItems = 2;
constexpr size_t kTailBytes = 128 * 1024;
// Rows of weights and of x in one OpenBLAS product. OpenBLAS packs both operands, so neither may be small; a product of
// these takes a few milliseconds, which is also how soon an interrupt is noticed.
constexpr size_t kTileRows = 256;
constexpr size_t kBlockRows = 512;
// Bound of a thread's unpacked tile.
constexpr size_t kTileFloats = size_t{1} << 20;
// Rows of quants that are unpacked at once where they are streamed: they stay in L2.
constexpr size_t kUnpackedRows = 4;
// Split sizes are multiples of this, so that kernels see few ragged edges.
constexpr size_t kGranule = 16;
// Up to so many rows of x, blocks of weights are streamed too.
constexpr size_t kStreamedBlockRows = 4;
// Rows of blocks that one item unpacks and multiplies: a multiple of every table's panel.
constexpr size_t kPanelRows = 64;
// From so many rows of x on, products by tiles are the fastest.
constexpr size_t kTiledRows = 16;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// `total` things in `count` blocks: `whole` ones of `size`, then those of `part`; the last one may be smaller.
struct Split {
  Split(size_t all, size_t most) : total(all) {
    const size_t blocks = (all + most - 1) / most;
    size = part = round_up((all + blocks - 1) / blocks, kGranule);
    count = whole = (all + size - 1) / size;
  }
  // The last `blocks` blocks divided again, into parts of `most` rounded up to a granule.
  Split with_tail(size_t blocks, size_t most) const {
    Split s = *this;
    s.part = round_up(most, kGranule);
    if (s.part >= size) return *this;
    s.whole = count > blocks ? count - blocks : 0;
    s.count = s.whole + (total - s.begin(s.whole) + s.part - 1) / s.part;
    return s;
  }
  size_t begin(size_t block) const {
    const size_t before = std::min(block, whole);
    return before * size + (block - before) * part;
  }
  size_t length(size_t block) const { return std::min(block < whole ? size : part, total - begin(block)); }

  size_t total, size, part, whole, count;
};

// Rows of w for each item of a memory-bound product; `last`: w is the last matrix of the loop.
Split streamed(const TensorView& w, bool last) {
  const Split s(w.rows(), std::max(kGranule, std::min(kStreamBytes / w.stride(), w.rows() / kStreamItems)));
  return last ? s.with_tail(kTailItems, std::max(kGranule, kTailBytes / w.stride())) : s;
}

// y = clamp(y) while it is in a cache.   y: (m, n), rows `ldy` floats apart
void clamp_rows(const Compute& c, Bounds bounds, float* y, size_t m, size_t n, size_t ldy) {
  if (bounds == Bounds{}) return;
  for (size_t j = 0; j < m; ++j) c.k.clamp(y + j * ldy, n, bounds.lo, bounds.hi);
}

// body(product, first, n, lane) for pieces of the rows of every matrix, as `split` divides them, in one loop: threads
// meet once, however small the matrices are.
template <class SplitRows, class Body>
void for_pieces(const Compute& c, std::span<const Product> products, const SplitRows& split, const Body& body) {
  const auto split_of = [&](const Product& p) { return split(p.w, &p == &products.back()); };
  size_t items = 0;
  for (const Product& p : products) items += split_of(p).count;
  c.pool.parallel_for(items, [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    const Product* p = products.data();
    Split rows = split_of(*p);
    while (item >= rows.count) {
      item -= rows.count;
      rows = split_of(*++p);
    }
    body(*p, rows.begin(item), rows.length(item), c.workspace.lanes[static_cast<size_t>(thread)]);
  });
}

// Whether the products of w are those of its quants, each times one factor of its row.
bool scaled_after(const TensorView& w) { return is_quants(w.dtype) && w.scales.groups == 1; }

// Rows [first, first + rows) of w as (rows, w.cols) f32, valid until the lane's next call; without their scales where
// these come after.
const float* unpacked(const Compute& c, const TensorView& w, size_t first, size_t rows, Workspace::Lane& lane) {
  const std::byte* source = w.row(first);
  const bool aligned = reinterpret_cast<uintptr_t>(source) % alignof(float) == 0;
  if (w.dtype == DType::kF32 && aligned) return reinterpret_cast<const float*>(source);

  const size_t n = rows * w.cols();  // at most kTileFloats, or kGranule rows
  float* tile = lane.weights.room(n);
  if (w.dtype == DType::kF32) {
    std::memcpy(tile, source, n * sizeof(float));
  } else if (is_quants(w.dtype)) {
    for (size_t r = 0; r < rows; ++r) {
      float* row = tile + r * w.cols();
      c.k.of(w.dtype).to_f32(w.row(first + r), row, w.cols());  // row by row: the last byte of one may not be full
      if (!scaled_after(w)) scale_row(c.k, w, first + r, row);
    }
  } else {
    c.k.of(w.dtype).to_f32(source, tile, n);
  }
  return tile;
}

// What is left to do to y = x w^T while it is in a cache: scales of quants, the lattice of the output, bounds.
//   y: (m, n), rows p.stride() floats apart: columns [first, first + n) of the product
void finish(const Compute& c, const Product& p, size_t first, size_t n, float* y, size_t m, Workspace::Lane& lane) {
  const Scales& s = p.w.scales;
  if (is_quants(p.w.dtype)) {
    const float step = s.input > 0 ? s.input : 1.0f;  // x lies before us in steps
    float* factors = lane.factors.room(n);
    if (scaled_after(p.w)) {
      scales_to_f32(c.k, p.w, first, n, factors);
      c.k.scale(step, factors, factors, n);
    } else {
      std::fill_n(factors, n, step);
    }
    for (size_t j = 0; j < m; ++j) {
      float* row = y + j * p.stride();
      c.k.mul(row, factors, row, n);
      if (s.output > 0) c.k.to_lattice(row, row, n, s.output, s.output);
    }
  }
  clamp_rows(c, p.bounds, y, m, n, p.stride());
}

// y = x w^T by the kernel of their format.
void multiply_streamed(const Compute& c, std::span<const Product> products, const float* x, size_t m) {
  for_pieces(c, products, streamed, [&](const Product& p, size_t first, size_t n, Workspace::Lane& lane) {
    const size_t k = p.w.cols();
    const float* own = x + p.row * k;
    if (is_quants(p.w.dtype) && !scaled_after(p.w)) {
      const auto rows_dot = c.k.of(DType::kF32).rows_dot;
      for (size_t r = 0; r < n; r += kUnpackedRows) {
        const size_t rows = std::min(kUnpackedRows, n - r);
        const float* w = unpacked(c, p.w, first + r, rows, lane);
        rows_dot({w, k * sizeof(float), rows, k}, {own, k, m}, {p.y + first + r, p.stride()});
      }
    } else {
      c.k.of(p.w.dtype).rows_dot({p.w.row(first), p.w.stride(), n, k}, {own, k, m}, {p.y + first, p.stride()});
    }
    finish(c, p, first, n, p.y + first, m, lane);
  });
}

// y = x w^T by OpenBLAS, tile by tile.
void multiply_by_blas(const Compute& c, const Product& p, const float* x, size_t m) {
  const size_t cols = p.w.cols();
  const Split tiles(p.w.rows(), std::clamp(kTileFloats / cols, kGranule, kTileRows));
  const Split blocks(m, kBlockRows);
  const BlasMemory memory(c.pool.size());
  c.pool.parallel_for(tiles.count * blocks.count, [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    Workspace::Lane& lane = c.workspace.lanes[static_cast<size_t>(thread)];
    const size_t tile = item / blocks.count, block = item % blocks.count;
    const size_t first = tiles.begin(tile), rows = tiles.length(tile), row = blocks.begin(block);
    const size_t count = blocks.length(block);
    float* y = p.y + row * p.stride() + first;
    multiply_transposed({x + row * cols, count, cols, cols}, {unpacked(c, p.w, first, rows, lane), rows, cols, cols}, y,
                        p.stride());
    finish(c, p, first, rows, y, count, lane);
  });
}

// y = clamp(x) w^T by tiles.   x: (m, cols)
void multiply_by_tiles(const Compute& c, std::span<const Product> products, const float* x, size_t m, Bounds bounds) {
  const TileKernels& tiles = *c.isa.tiles;
  const DType format = products[0].w.dtype;
  const size_t k = products[0].w.cols(), groups = (m + kTileGroup - 1) / kTileGroup;
  const size_t bytes = tiles.group_bytes(format, k);
  char* packed = c.workspace.packed.room(groups * bytes);
  c.pool.parallel_for(groups, [&](size_t group, int) {
    const size_t first = group * kTileGroup;
    tiles.pack(format, {x + first * k, k, std::min(kTileGroup, m - first)}, k, bounds, packed + group * bytes);
  });
  const auto split = [](const TensorView& w, bool) { return Split(w.rows(), kTilePanel); };
  for (size_t first = 0; first < m; first += kTileBlock) {
    const size_t count = std::min(kTileBlock, m - first);
    for_pieces(c, products, split, [&](const Product& p, size_t row, size_t n, Workspace::Lane& lane) {
      tiles.multiply(format, {p.w.row(row), p.w.stride(), n, k}, packed + first / kTileGroup * bytes, count, p.bounds,
                     {p.y + first * p.stride() + row, p.stride()}, lane.tiles.room(tiles.scratch_bytes));
    });
  }
}

// f(j, thread) for every row of x, several of them an item.
template <class Fn>
void for_input_rows(const Compute& c, size_t m, const Fn& f) {
  c.pool.parallel_for((m + kGranule - 1) / kGranule, [&](size_t item, int) {
    for (size_t j = item * kGranule; j < std::min(m, (item + 1) * kGranule); ++j) f(j);
  });
}

// clamp(x), where `step` is positive in steps of its lattice; x itself where there is nothing to do.   x: (m, k)
const float* clamped(const Compute& c, Bounds bounds, float step, const float* x, size_t m, size_t k) {
  if (bounds == Bounds{} && !(step > 0)) return x;
  float* out = c.workspace.clamped.room(m * k);
  for_input_rows(c, m, [&](size_t j) {
    float* y = out + j * k;
    std::memcpy(y, x + j * k, k * sizeof(float));
    if (bounds != Bounds{}) c.k.clamp(y, k, bounds.lo, bounds.hi);
    if (step > 0) c.k.to_lattice(y, y, k, step, 1.0f);
  });
  return out;
}

// The rows of clamp(x) as int8.   x: (m, k)
const Int8Chunk* quantized(const Compute& c, DType format, Bounds bounds, const float* x, size_t m, size_t k) {
  const size_t stride = chunk_stride(k);
  Int8Chunk* chunks = c.workspace.quantized.room(m * stride);
  const auto quantize = c.k.of(format).quantize;
  for_input_rows(c, m, [&](size_t j) { quantize(x + j * k, k, bounds, chunks + j * stride); });
  return chunks;
}

// y = x w^T for blocks of weights.   x: as `quantized` returns it
void multiply_int8(const Compute& c, std::span<const Product> products, const Int8Chunk* x, RowCounts rows) {
  const FormatKernels& kernels = c.k.of(products[0].w.dtype);
  // A piece that rows which belong together and single ones meet one after the other stays in L2 meanwhile; within one
  // that only single rows meet, the kernel sees to that itself.
  const bool stream = rows.together == 0 || (rows.together <= kStreamedBlockRows && rows.single == 0);
  const auto split = [&](const TensorView& w, bool last) {
    return stream ? streamed(w, last) : Split(w.rows(), kPanelRows);
  };
  for_pieces(c, products, split, [&](const Product& p, size_t first, size_t n, Workspace::Lane&) {
    const size_t k = p.w.cols();
    const size_t stride = chunk_stride(k);
    const auto some = [&](auto multiply, size_t row, size_t m) {
      if (m == 0) return;
      multiply({p.w.row(first), p.w.stride(), n, k}, {x + (p.row + row) * stride, stride, m}, p.bounds,
               {p.y + row * p.stride() + first, p.stride()});
    };
    some(kernels.multiply_int8, 0, rows.together);
    some(kernels.multiply_streamed, rows.together, rows.single);
  });
}

// The ways through one matrix.
enum class Route { kTiles, kInt8, kStreamed, kBlas };

// Which one `m` rows of x take through weights of a format.
Route route(const Isa& isa, DType t, size_t m) {
  // Tiles round both sides to bf16, which quants with scales of their own are too exact for.
  if (isa.tiles != nullptr && m >= kTiledRows && !is_quants(t)) return Route::kTiles;
  if (is_block_format(t)) return Route::kInt8;
  return m <= kStreamedRows ? Route::kStreamed : Route::kBlas;
}

// Products of one format, all rows by one route.
void multiply(const Compute& c, Route way, std::span<const Product> alike, const float* x, RowCounts rows,
              Bounds bounds) {
  const TensorView& w = alike[0].w;
  const size_t m = rows.all(), k = w.cols();
  size_t all = m;  // rows of x
  for (const Product& p : alike) all = std::max(all, p.row + m);
  switch (way) {
    case Route::kTiles:
      multiply_by_tiles(c, alike, x + alike[0].row * k, m, bounds);
      break;
    case Route::kInt8:
      multiply_int8(c, alike, quantized(c, w.dtype, bounds, x, all, k), rows);
      break;
    case Route::kStreamed:
      multiply_streamed(c, alike, clamped(c, bounds, w.scales.input, x, all, k), m);
      break;
    case Route::kBlas: {
      const float* within = clamped(c, bounds, w.scales.input, x, all, k);
      for (const Product& p : alike) multiply_by_blas(c, p, within + p.row * k, m);
      break;
    }
  }
}

}  // namespace

void linear(const Compute& c, std::span<const Product> products, const float* x, RowCounts rows, Bounds bounds) {
  if (rows.all() == 0) return;
  while (!products.empty()) {
    const TensorView& w = products[0].w;
    const Route way = route(c.isa, w.dtype, rows.together), alone = route(c.isa, w.dtype, 1);
    const auto same = [&](const Product& p) {
      return p.w.dtype == w.dtype && p.w.scales.input == w.scales.input &&
             (way != Route::kTiles || p.row == products[0].row);
    };
    const auto count = static_cast<size_t>(std::ranges::find_if_not(products, same) - products.begin());
    const auto alike = products.first(count);
    if (way == alone || rows.single == 0) {
      multiply(c, way, alike, x, rows, bounds);
    } else {
      if (rows.together > 0) multiply(c, way, alike, x, {.together = rows.together}, bounds);
      for (const Product& p : alike) {
        Product behind = p;
        behind.row += rows.together;
        behind.y += rows.together * p.stride();
        behind.ldy = p.stride();
        multiply(c, alone, {&behind, 1}, x, {.single = rows.single}, bounds);
      }
    }
    products = products.subspan(count);
  }
}

void linear(const Compute& c, const TensorView& w, const float* x, RowCounts rows, float* y, size_t ldy) {
  const Product one{.w = w, .y = y, .ldy = ldy};
  linear(c, {&one, 1}, x, rows);
}

void single_threaded_blas() { GEMMA4_BLAS(openblas_set_num_threads)(1); }

}  // namespace gemma4
