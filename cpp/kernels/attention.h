// The kernels of attention over cache rows, once per instruction set, beside the table of kernels.h.
// Knows: rows of a cache. Must not know: positions, softmax, threads.
#pragma once

#include "kernels/cache_rows.h"
#include "kernels/kernels.h"

namespace gemma4 {

// Kernels of one format of a key/value cache, over rows of n elements, n a multiple of kCacheBlock; null for formats
// that are none. Every result takes the elements and rows in order, whatever the call: the same bits however queries
// and rows are split between calls, but for the sums of integers (cache_quants512.h), which round the weights of 64
// rows of a call together. `next` is where the rows begin that will be read after these: as many bytes are fetched
// meanwhile, so that memory and arithmetic work at the same time. It may be any address.
struct CacheKernels {
  // out (count, n) = the rows as floats: exactly what `scores` and `sum` multiply.
  void (*load)(CacheRows rows, size_t count, size_t n, float* out);
  // Queries as `scores` takes them: their bytes, and how they get there. On a cache line.   q: (m, n)
  size_t (*query_bytes)(size_t n, size_t m);
  void (*pack)(const float* q, size_t n, size_t m, void* out);
  // y[j][r] = q_j . row r for r < count, j < m.   q: as packed; y: (m, count)
  void (*scores)(CacheRows rows, size_t count, size_t n, const void* q, size_t m, OutputRows y, const char* next);
  // y_j += sum_r p[j][r] row r for all rows j of p.   p: (m, count); y: (m, n), one row after the other
  void (*sum)(CacheRows rows, size_t count, size_t n, InputRows<float> p, float* y, const char* next);
};

struct AttentionKernels {
  CacheKernels cache[kDTypeCount];  // indexed by DType
  // x = H x in place, n a multiple of 32: H is symmetric and its own inverse, so products of rotated vectors are those
  // of the vectors. Blocks of the largest power of two that divides n. The same bits on every instruction set.
  void (*hadamard)(float* x, size_t n);

  const CacheKernels& of(DType t) const { return cache[static_cast<int>(t)]; }
};

// One source file for each, which exports nothing else (see tables.h).
const AttentionKernels* attention_scalar_kernels();
#if defined(__x86_64__)
const AttentionKernels* attention_avx2_kernels();
const AttentionKernels* attention_avx512_kernels();
const AttentionKernels* attention_avx512vnni_kernels();
const AttentionKernels* attention_amx_kernels();
#elif defined(__aarch64__)
const AttentionKernels* attention_neon_kernels();
#endif

}  // namespace gemma4
