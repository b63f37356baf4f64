// The kernels of attention in which every query sees every key, once per instruction set, beside the table of
// kernels.h. Knows: one head. Must not know: layers, positions, threads.
#pragma once

#include <cstddef>

#include "kernels/kernels.h"

namespace gemma4 {

// Keys of one packed block, and queries of one call at most: what they need together stays in a core's L2.
inline constexpr size_t kFullKeys = 256;
inline constexpr size_t kFullQueries = 96;

// One way of computing it. Keys and values are packed once for all queries, kFullKeys at a time, by any number of
// threads; then blocks of queries pass over all of them with an online softmax, so that no (queries, keys) matrix is
// ever in memory. A query's result does not depend on the others of its call.
struct FullAttention {
  size_t (*block_bytes)(size_t dim);    // of one packed block; blocks and scratch lie at multiples of 64 bytes
  size_t (*scratch_bytes)(size_t dim);  // that a call of `attend` works in
  // block = rows of k and v.   k, v: (keys, dim), rows `ld` floats apart; 0 < keys <= kFullKeys
  void (*pack)(const float* k, const float* v, size_t ld, size_t keys, size_t dim, void* block);
  // q = softmax(q k^T) v, scale 1.   q: (queries, dim), rows `ld` floats apart; 0 < queries <= kFullQueries
  //   blocks: of all `keys` keys, block_bytes apart (a multiple of 64), each full but the last
  void (*attend)(const void* blocks, size_t keys, size_t dim, float* q, size_t ld, size_t queries, void* scratch);
};

struct FullAttentionKernels {
  FullAttention exact;  // in f32
  // The weighted sum of values in int8: each value has a scale of its own, and so have the weights that one query gives
  // to one block of keys; or in bf16, where tiles multiply that. Scores in bf16 where there are instructions for it, in
  // f32 elsewhere. For layers whose matrix products round their inputs, too.
  FullAttention rounded;
};

// One source file for each, which exports nothing else (see tables.h).
const FullAttentionKernels* full_attention_scalar_kernels();
#if defined(__x86_64__)
const FullAttentionKernels* full_attention_avx2_kernels();
const FullAttentionKernels* full_attention_avx512_kernels();
const FullAttentionKernels* full_attention_avx512vnni_kernels();
const FullAttentionKernels* full_attention_avx512bf16_kernels();
const FullAttentionKernels* full_attention_amx_kernels();
#elif defined(__aarch64__)
const FullAttentionKernels* full_attention_neon_kernels();
#endif

}  // namespace gemma4
