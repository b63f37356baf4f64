// A fixed pool of threads that split one loop at a time.
// Knows: ranges. Must not know: what is computed. The split of the work into items never depends on the number of
// threads, so results do not either.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gemma4 {

class ThreadPool {
 public:
  // `threads` counts the caller too; 1 means no extra thread. Throws std::bad_alloc.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(item, thread) for item in [0, items), each item once, thread in [0, size()). The caller takes part.
  // A body must not call it again. Calls from several threads are served one after the other. An exception in a body
  // reaches the caller.
  void parallel_for(size_t items, const std::function<void(size_t item, int thread)>& body);

 private:
  void stop();
  void work(int thread);
  void drain(int thread);

  std::vector<std::thread> workers_;
  const int process_;   // threads do not survive a fork: in a child the caller works alone
  std::mutex callers_;  // one loop at a time
  // On the heap, because a child of a fork must not destroy what its parent's threads wait on.
  struct Signals {
    std::mutex mutex;
    std::condition_variable wake;
    std::condition_variable idle;
  };
  std::unique_ptr<Signals> signals_ = std::make_unique<Signals>();
  // Threads meet without a lock: the loop is written before `generation_` changes, and nobody is woken who is awake.
  const std::function<void(size_t, int)>* body_ = nullptr;
  size_t items_ = 0;
  std::atomic<size_t> next_{0};
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> busy_{0};    // workers that have not finished the loop
  std::atomic<int> asleep_{0};  // workers that wait for `wake`
  std::atomic<bool> caller_asleep_{false};
  std::exception_ptr error_;
  std::atomic<bool> stop_{false};
};

}  // namespace gemma4
