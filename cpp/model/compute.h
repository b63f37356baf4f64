// What a computation runs on: passed whole through the forward pass.
// Knows: the instruction set, threads, working memory. Must not know: what is computed.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/interrupt.h"
#include "core/lines.h"
#include "core/thread_pool.h"
#include "kernels/isa.h"

namespace gemma4 {

// Working memory of matrix products and attention. It belongs to one computation at a time and is kept between them:
// fresh memory for every product would be paid in page faults. Buffers grow to the largest that was asked for.
struct Workspace {
  explicit Workspace(int threads) : lanes(static_cast<size_t>(threads)) {}

  // Of one thread, inside a loop.
  struct Lane {
    Lines<float> weights;  // (rows, cols)       a tile of weights, unpacked
    Lines<float> factors;  // (rows)             of a tile's rows
    Lines<char> tiles;     //                    what products by tiles work in
    Lines<float> plain;    // (group, row)       a row of a cache, or a row's queries as the cache's rows are
    Lines<char> queries;   // (rows, bytes)      of a tile, packed
    Lines<float> scores;   // (group, keys)      of a block
    Lines<float> block;    // (keys, row)        a block of the cache, unpacked
    Lines<float> change;   // (rows, outputs)    what an adapter adds

    size_t bytes() const {
      return (weights.size() + factors.size() + plain.size() + scores.size() + block.size() + change.size()) *
                 sizeof(float) +
             tiles.size() + queries.size();
    }
  };

  Lines<float> clamped;        // (m, cols)          x within its bounds, maybe in steps of a lattice
  Lines<Int8Chunk> quantized;  // (m, chunks)        x as int8
  Lines<char> packed;          // (groups of rows)   x as tiles take it
  Lines<float> inner;          // (m, rank)          between the two matrices of an adapter
  std::vector<Lane> lanes;     // (threads)

  size_t bytes() const {
    size_t sum = (clamped.size() + inner.size()) * sizeof(float) + quantized.size() * sizeof(Int8Chunk) + packed.size();
    for (const Lane& lane : lanes) sum += lane.bytes();
    return sum;
  }
};

struct Compute {
  const Isa& isa;
  ThreadPool& pool;
  Interrupt& interrupt;
  Workspace& workspace;
  const Kernels& k = isa.k;  // the rows of most functions' arithmetic
};

// What a computation needs for itself: as many as there were computations at once, kept for the next ones.
template <class T>
class Leases {
 public:
  explicit Leases(std::function<std::unique_ptr<T>()> make) : make_(std::move(make)) {}

  // One for the time of a computation.
  class Lease {
   public:
    explicit Lease(Leases& from) : from_(from), own_(from.take()) {}
    ~Lease() { from_.give_back(std::move(own_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    T& operator*() { return *own_; }

   private:
    Leases& from_;
    std::unique_ptr<T> own_;
  };

  // Of those that nobody computes with.
  size_t bytes() const {
    const std::scoped_lock lock(mutex_);
    size_t sum = 0;
    for (const auto& one : free_) sum += one->bytes();
    return sum;
  }

 private:
  std::unique_ptr<T> take() {
    const std::scoped_lock lock(mutex_);
    if (free_.empty()) {
      free_.reserve(made_ + 1);  // so that nothing can fail when it is given back
      auto one = make_();
      ++made_;
      return one;
    }
    auto one = std::move(free_.back());
    free_.pop_back();
    return one;
  }
  void give_back(std::unique_ptr<T> one) {
    const std::scoped_lock lock(mutex_);
    free_.push_back(std::move(one));
  }

  const std::function<std::unique_ptr<T>()> make_;
  size_t made_ = 0;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
};

}  // namespace gemma4
