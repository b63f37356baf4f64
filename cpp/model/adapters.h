// What a fine-tuning adds to the matrices of a model (LoRA): beside each, two thin ones whose product is its change.
// Nothing is merged, so that one copy of the weights, in whatever format, serves any number of adapters at once.
// Knows: weights, and what the published checkpoints call their linears. Must not know: files, JSON, requests.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"
#include "model/compute.h"
#include "model/config.h"
#include "model/tensor_store.h"
#include "model/weights.h"

namespace gemma4 {

// The change of one matrix: y = factors * (w x + scale * b a x).
struct LowRank {
  TensorView a;                    // (rank, in), or of all experts (experts, rank, in)
  TensorView b;                    // (out, rank), or (experts, out, rank)
  float scale = 1;                 //
  const float* factors = nullptr;  // (out)  of weight-decomposed adapters (DoRA); null = none

  LowRank expert(size_t i) const { return {a.matrix(i), b.matrix(i), scale}; }
  // That of the rows [first, first + n) of the matrix.
  LowRank slice(size_t first, size_t n) const {
    return {a, b.slice(first, n), scale, factors == nullptr ? nullptr : factors + first};
  }
};

// Where an adapter's file has the change of one matrix.
struct AdapterPart {
  std::string module;     // without what comes before "layers.", "vision_tower." …: "layers.0.self_attn.q_proj"
  std::string a, b;       // tensors; of experts (experts * rank, in) and (out, rank * experts), the expert last
  size_t rank;            //
  float scale;            //
  std::string magnitude;  // tensor (out) of a weight-decomposed adapter; empty = none
};

class Adapter {
 public:
  // Throws kModelFile listing parts of modules that the model does not have, and tensors whose shape does not fit (five
  // of each at most). `weights` must outlive the adapter, and stay where they are. The store's views are read in place,
  // but for the second matrices of experts, which are brought into the order of the experts.
  Adapter(const Compute& c, const ModelConfig& config, const Weights& weights, std::shared_ptr<const TensorStore> store,
          const std::vector<AdapterPart>& parts);

  // The change of a matrix of the weights; null where there is none.
  const LowRank* of(const TensorView& w) const {
    const auto it = parts_.find(&w);
    return it == parts_.end() ? nullptr : &it->second;
  }

 private:
  std::shared_ptr<const TensorStore> store_;
  std::unordered_map<const TensorView*, LowRank> parts_;
  std::deque<std::vector<float>> factors_;
  std::deque<std::vector<std::byte>> regrouped_;
};

// Consecutive rows of a computation that belong to one request with an adapter.
struct AdaptedRows {
  size_t first, count;
  const Adapter* adapter;
};

// The same as seen from a product of some of them.
struct Adapted {
  std::span<const AdaptedRows> rows;  // in order, without overlap
  size_t from = 0;                    // the row of the computation that is the first of the product
};

// y = factors * (y + scale * b a x). A row's result does not depend on the others of the call.
//   x: (rows, in); y: (rows, out), `ldy` floats apart
void add_low_rank(const Compute& c, const LowRank& part, const float* x, size_t rows, float* y, size_t ldy);

// y, which is x w^T, as the adapters of its rows have it.   x: (rows, in); y: (rows, out)
void adapt(const Compute& c, Adapted adapted, const Matrix& w, const float* x, size_t rows, float* y);

// The same of the columns [first, first + n) of the product.   y: (rows, n), `ldy` floats apart
void adapt_columns(const Compute& c, Adapted adapted, const Matrix& w, size_t first, size_t n, const float* x,
                   size_t rows, float* y, size_t ldy);

// The same for all rows by one adapter, or none.
void adapt(const Compute& c, const Adapter* adapter, const Matrix& w, const float* x, size_t rows, float* y);

}  // namespace gemma4
