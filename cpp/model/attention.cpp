#include "model/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace gemma4 {
namespace {

constexpr size_t kKeyBlock = 128;   // keys scored at once: their scores stay in L1
constexpr size_t kMaxQueries = 16;  // queries of one key/value head served by one pass over its keys

// The running state of online softmax for up to kMaxQueries queries.
struct Running {
  float max[kMaxQueries];
  float sum[kMaxQueries];
};

// Folds the keys [first, first + n), contiguous in memory, into out (m, head_dim).
void fold_block(const Compute& c, const AttentionShape& s, KVCache& cache, size_t head, size_t first, size_t n,
                const float* q, size_t m, Running& state, float* scores, float* out) {
  const FormatKernels& format = c.k.of(cache.dtype());
  const size_t stride = row_bytes(cache.dtype(), s.head_dim);
  format.rows_dot(cache.key(s.kv_layer, head, first), stride, n, s.head_dim, q, s.head_dim, m, scores, kKeyBlock);
  for (size_t j = 0; j < m; ++j) {
    float* row = scores + j * kKeyBlock;
    const float highest = c.k.max(row, n);
    if (!(highest <= state.max[j])) {  // also when it is NaN, which must reach the output
      const float shrink = std::exp(state.max[j] - highest);
      state.sum[j] *= shrink;
      c.k.scale(shrink, out + j * s.head_dim, out + j * s.head_dim, s.head_dim);
      state.max[j] = highest;
    }
    state.sum[j] += c.k.exp_sum(row, n, state.max[j]);
  }
  format.rows_axpy(cache.value(s.kv_layer, head, first), stride, n, s.head_dim, scores, kKeyBlock, m, out, s.head_dim);
}

// `m` queries of one row that share one key/value head.
void attend_group(const Compute& c, const AttentionShape& s, KVCache& cache, size_t head, Visible visible,
                  const float* q, size_t m, float* scores, float* out) {
  Running state;
  std::fill_n(state.max, m, -std::numeric_limits<float>::infinity());
  std::fill_n(state.sum, m, 0.0f);
  std::fill_n(out, m * s.head_dim, 0.0f);
  for (size_t p = visible.first; p < visible.last;) {
    const size_t n = std::min(kKeyBlock, cache.contiguous(s.kv_layer, p, visible.last));
    fold_block(c, s, cache, head, p, n, q, m, state, scores, out);
    p += n;
  }
  for (size_t j = 0; j < m; ++j) {
    c.k.scale(1.0f / state.sum[j], out + j * s.head_dim, out + j * s.head_dim, s.head_dim);
  }
}

}  // namespace

void attend(const Compute& c, const AttentionShape& s, KVCache& cache, const float* q, const Visible* visible,
            size_t rows, float* out) {
  const size_t group = s.heads / s.kv_heads;
  const size_t pass = std::min(group, kMaxQueries);
  const size_t per_group = (group + pass - 1) / pass;
  c.pool.parallel_for(rows * s.kv_heads * per_group, [&](size_t item, int thread) {
    const size_t part = item % per_group, head = item / per_group % s.kv_heads, row = item / per_group / s.kv_heads;
    const size_t from = part * pass, m = std::min(pass, group - from);
    float scores[kMaxQueries * kKeyBlock];
    const size_t at = (row * s.heads + head * group + from) * s.head_dim;
    if (thread == 0) c.interrupt.check();
    attend_group(c, s, cache, head, visible[row], q + at, m, scores, out + at);
  });
}

}  // namespace gemma4
