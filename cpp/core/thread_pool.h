// A fixed pool of threads that help a caller with its loops where that pays.
// Knows: ranges, time. Must not know: what is computed. The split of the work into items never depends on the number of
// threads, so results do not either, and a caller may run every item itself.
//
// A loop is over when its items are, whoever ran them: nobody waits for a thread that has no item, so one that the
// system has put aside costs nothing. Whether others are asked depends on time alone: what loops of a kind took before,
// and what the first items of this one took.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <latch>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gemma4 {

class ThreadPool {
 public:
  // `threads` counts the caller too; 1 means no extra thread. Where the environment says GEMMA4_SHARE=all, every loop
  // is shared with everybody, however small: tests of what bodies do side by side have little work. Throws
  // std::bad_alloc.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  using Body = std::function<void(size_t item, int thread)>;

  // Runs body(item, thread) for item in [0, items), each item once, thread in [0, size()). The caller takes part as
  // thread 0, in the order of the items. A body must not call it again. Several threads may call at once: one of them
  // has the workers, the others go on alone meanwhile. An exception in a body reaches the caller.
  void parallel_for(size_t items, const Body& body);

 private:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::duration;

  // Where a thread sleeps. A line of its own: a caller looks at those of all.
  struct alignas(64) Seat {
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<bool> taken{false};  // its thread sleeps, or is about to
    long displaced = 0;              // its thread's own: how often it had lost its processor when it last looked
  };
  // How long an item of the loops of a kind takes, in nanoseconds; 0: not known.
  using Habit = std::atomic<int64_t>;

  void stop();
  void work(int thread);
  void sleep(int thread);
  void call(int thread);
  void call_next(int thread);
  bool wanted(int thread) const;
  Time patience() const;
  uint32_t drain(int thread);
  uint32_t abandon();
  Habit& habit(const Body& body, size_t items);
  int crew(Time work, size_t items, Clock::time_point now);
  bool share(size_t first, size_t items, const Body& body, Time work, Habit& known);
  void meet();

  std::vector<std::thread> workers_;
  const bool share_all_;
  const int process_;              // threads do not survive a fork: in a child the caller works alone
  std::mutex callers_;             // held by the caller that has the workers
  std::latch started_;             // counts workers down
  std::unique_ptr<Seat[]> seats_;  // (threads), the caller's first; on the heap, where a child of a fork leaves them
  std::array<Habit, 64> habits_{};

  // The loop that is shared. `state_` is its number and how many items nobody has taken. Who takes one by
  // compare-and-swap knows that the loop is open, and that `body_` and `items_`, read before, are its own: they are not
  // written again before all that was taken is finished.
  alignas(64) std::atomic<uint64_t> state_{0};
  std::atomic<const Body*> body_{nullptr};
  std::atomic<size_t> items_{0};
  std::atomic<int> crew_{0};                      // workers [1, crew_] may help
  std::atomic<bool> calling_{false};              // and are worth waking
  alignas(64) std::atomic<uint32_t> pending_{0};  // items that are not finished
  std::exception_ptr error_;                      // guarded by the caller's seat
  std::atomic<bool> displaced_{false};            // a worker lost its processor while it had items
  std::atomic<bool> stop_{false};

  // How many workers may help: fewer while there are not enough processors for all. Written under `callers_`.
  std::atomic<int> limit_;
  Time hold_;  // until more are tried again
  Clock::time_point retry_{};
};

}  // namespace gemma4
