// Matrix products: see linear.h for the contract.
// Two ways through one matrix. Few rows of x: memory-bound, so each weight is read once, as stored, by the kernel of
// its format. Many rows: compute-bound, so a tile of weights is unpacked to f32 once per block of rows and OpenBLAS
// multiplies it. Both split the work by the shapes alone, and the inner dimension is never split. Block formats take
// the same two ways through kernels of their own, with x rounded to int8 once for all.
#include "model/linear.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "model/blas.h"

namespace gemma4 {
namespace {

// Up to so many rows of x, unpacking and packing the weights would cost more than it saves.
constexpr size_t kStreamedRows = 24;
// Weights that one item streams at most: its first rows come without prefetch, so it is long (measured on two threads:
// 12.3 GB/s with 128 KiB, 14.0 with 512).
constexpr size_t kStreamBytes = 512 * 1024;
// Items of a small matrix, to balance threads.
constexpr size_t kStreamItems = 4;
// Rows of weights and of x in one OpenBLAS product. OpenBLAS packs both operands, so neither may be small; a product of
// these takes a few milliseconds, which is also how soon an interrupt is noticed.
constexpr size_t kTileRows = 256;
constexpr size_t kBlockRows = 512;
// Bound of a thread's unpacked tile.
constexpr size_t kTileFloats = size_t{1} << 20;
// Split sizes are multiples of this, so that kernels see few ragged edges.
constexpr size_t kGranule = 16;
// Up to so many rows of x, blocks of weights are streamed too.
constexpr size_t kStreamedBlockRows = 4;
// Rows of blocks that one item unpacks and multiplies: a multiple of every table's panel.
constexpr size_t kPanelRows = 64;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// `total` things in `count` blocks of `size`, the last one smaller.
struct Split {
  Split(size_t all, size_t most) : total(all) {
    const size_t blocks = (all + most - 1) / most;
    size = round_up((all + blocks - 1) / blocks, kGranule);
    count = (all + size - 1) / size;
  }
  size_t begin(size_t block) const { return block * size; }
  size_t length(size_t block) const { return std::min(size, total - begin(block)); }

  size_t total, size, count;
};

// Rows of w for each item of a memory-bound product.
Split streamed(const TensorView& w) {
  return {w.rows(), std::max(kGranule, std::min(kStreamBytes / w.stride(), w.rows() / kStreamItems))};
}

// y = x w^T by the format's own kernel.
void stream(const Compute& c, const TensorView& w, const float* x, size_t m, float* y, size_t ldy) {
  const size_t stride = w.stride(), cols = w.cols();
  const Split rows = streamed(w);
  const auto rows_dot = c.k.of(w.dtype).rows_dot;
  c.pool.parallel_for(rows.count, [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    const size_t first = rows.begin(item);
    rows_dot(w.row(first), stride, rows.length(item), cols, x, cols, m, y + first, ldy);
  });
}

// Rows [first, first + rows) of w as (rows, w.cols) f32, valid until the thread's next call.
const float* unpacked(const Compute& c, const TensorView& w, size_t first, size_t rows) {
  const std::byte* source = w.row(first);
  const bool aligned = reinterpret_cast<uintptr_t>(source) % alignof(float) == 0;
  if (w.dtype == DType::kF32 && aligned) return reinterpret_cast<const float*>(source);

  // Kept between calls: fresh memory for every product would be paid in page faults.
  thread_local std::vector<float> tile;  // (rows, w.cols), at most kTileFloats or kGranule rows
  const size_t n = rows * w.cols();
  if (tile.size() < n) tile.resize(n);
  if (w.dtype == DType::kF32) {
    std::memcpy(tile.data(), source, n * sizeof(float));
  } else {
    c.k.of(w.dtype).to_f32(source, tile.data(), n);
  }
  return tile.data();
}

// y = x w^T by OpenBLAS, tile by tile.
void multiply_tiles(const Compute& c, const TensorView& w, const float* x, size_t m, float* y, size_t ldy) {
  const size_t cols = w.cols();
  const Split tiles(w.rows(), std::clamp(kTileFloats / cols, kGranule, kTileRows));
  const Split blocks(m, kBlockRows);
  c.pool.parallel_for(tiles.count * blocks.count, [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    const size_t tile = item / blocks.count, block = item % blocks.count;
    const size_t first = tiles.begin(tile), rows = tiles.length(tile), row = blocks.begin(block);
    multiply_transposed({x + row * cols, blocks.length(block), cols, cols},
                        {unpacked(c, w, first, rows), rows, cols, cols}, y + row * ldy + first, ldy);
  });
}

// The rows of x as int8, kept between calls of the same thread.
const Int8Chunk* rounded(const Compute& c, const TensorView& w, const float* x, size_t m, size_t stride) {
  thread_local std::vector<Int8Chunk> kept;
  if (kept.size() < m * stride) kept.resize(m * stride);
  Int8Chunk* chunks = kept.data();
  const auto quantize = c.k.of(w.dtype).quantize;
  const size_t k = w.cols(), items = (m + kGranule - 1) / kGranule;
  c.pool.parallel_for(items, [&](size_t item, int) {
    for (size_t j = item * kGranule; j < std::min(m, (item + 1) * kGranule); ++j) {
      quantize(x + j * k, k, chunks + j * stride);
    }
  });
  return chunks;
}

// y = x w^T for blocks of weights.
void multiply_blocks(const Compute& c, const TensorView& w, const float* x, size_t m, float* y, size_t ldy) {
  const size_t k = w.cols(), ldx = chunk_stride(k), stride = w.stride();
  const Int8Chunk* q = rounded(c, w, x, m, ldx);
  const auto multiply = c.k.of(w.dtype).multiply_int8;
  const Split rows = m <= kStreamedBlockRows ? streamed(w) : Split(w.rows(), kPanelRows);
  c.pool.parallel_for(rows.count, [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    const size_t first = rows.begin(item);
    multiply(w.row(first), stride, rows.length(item), k, q, ldx, m, y + first, ldy);
  });
}

}  // namespace

void linear(const Compute& c, const TensorView& w, const float* x, size_t m, float* y, size_t ldy) {
  if (m == 0) return;
  if (ldy == 0) ldy = w.rows();
  if (is_block_format(w.dtype)) {
    multiply_blocks(c, w, x, m, y, ldy);
  } else if (m <= kStreamedRows) {
    stream(c, w, x, m, y, ldy);
  } else {
    multiply_tiles(c, w, x, m, y, ldy);
  }
}

void single_threaded_blas() { GEMMA4_BLAS(openblas_set_num_threads)(1); }

}  // namespace gemma4
