#include "core/thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <system_error>

namespace gemma4 {
namespace {

// A decode step has hundreds of short loops; threads that slept after each would spend the step waking up.
constexpr int kSpins = 4000;

// Tells the processor that this is a waiting loop.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : process_(::getpid()) {
  try {
    workers_.reserve(static_cast<size_t>(std::max(threads, 1)));
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error&) {  // no memory for its stack
    stop();
    throw std::bad_alloc();
  }
  // Its first allocation maps 64 MiB for a thread: before anybody asks how much is left, not while it computes.
  parallel_for(static_cast<size_t>(size()), [](size_t, int) {});
}

ThreadPool::~ThreadPool() {
  if (::getpid() != process_) {
    for (auto& w : workers_) w.detach();
    (void)signals_.release();  // NOLINT(bugprone-unused-return-value): a thread of the parent may hold its mutex
    return;
  }
  stop();
}

void ThreadPool::stop() {
  {
    std::scoped_lock lock(signals_->mutex);
    stop_ = true;
    generation_.fetch_add(1);
  }
  signals_->wake.notify_all();
  for (auto& w : workers_) w.join();
}

void ThreadPool::parallel_for(size_t items, const std::function<void(size_t, int)>& body) {
  if (items == 0) return;
  if (workers_.empty() || items == 1 || ::getpid() != process_) {
    for (size_t i = 0; i < items; ++i) body(i, 0);
    return;
  }
  std::scoped_lock one_at_a_time(callers_);
  body_ = &body;
  items_ = items;
  next_ = 0;
  error_ = nullptr;
  busy_.store(static_cast<int>(workers_.size()));
  generation_.fetch_add(1);
  if (asleep_.load() > 0) {  // who falls asleep now sees the new generation first
    std::scoped_lock lock(signals_->mutex);
    signals_->wake.notify_all();
  }
  drain(0);
  for (int i = 0; i < kSpins && busy_.load(std::memory_order_acquire) != 0; ++i) relax();
  if (busy_.load() != 0) {
    std::unique_lock<std::mutex> lock(signals_->mutex);
    caller_asleep_.store(true);
    signals_->idle.wait(lock, [this] { return busy_.load() == 0; });
    caller_asleep_.store(false);
  }
  body_ = nullptr;
  if (error_) std::rethrow_exception(error_);
}

void ThreadPool::drain(int thread) {
  try {
    for (size_t i = next_.fetch_add(1); i < items_; i = next_.fetch_add(1)) (*body_)(i, thread);
  } catch (...) {
    std::scoped_lock lock(signals_->mutex);
    if (!error_) error_ = std::current_exception();
    next_ = items_;
  }
}

void ThreadPool::work(int thread) {
  void* volatile first = std::malloc(1);  // volatile: so that it happens
  std::free(first);
  uint64_t seen = 0;
  while (true) {
    for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) {
      relax();
    }
    if (generation_.load() == seen) {
      std::unique_lock<std::mutex> lock(signals_->mutex);
      asleep_.fetch_add(1);
      signals_->wake.wait(lock, [&] { return generation_.load() != seen; });
      asleep_.fetch_sub(1);
    }
    seen = generation_.load();
    if (stop_) return;
    drain(thread);
    if (busy_.fetch_sub(1) == 1 && caller_asleep_.load()) {
      std::scoped_lock lock(signals_->mutex);
      signals_->idle.notify_one();
    }
  }
}

}  // namespace gemma4
