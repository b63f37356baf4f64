#include "core/thread_pool.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>
#include <string_view>
#include <system_error>
#include <typeinfo>
#include <utility>

namespace gemma4 {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Work of each thread of a loop, at least: below it, meeting costs more than is gained (6,400 loops of 3 us took two
// threads a third longer than one).
constexpr Clock::duration kShare = 20us;
// Work that is worth waking somebody for.
constexpr Clock::duration kWake = 100us;
// How long a worker looks for the next loop before it sleeps, and a caller for the end of its own: sleeping and waking
// take some 50 us, and what a decode step does alone between its products takes less.
constexpr Clock::duration kSpin = 100us;
// Waiting longer than that for a worker whose processor was taken away means that there are too few of them.
constexpr Clock::duration kStall = 100us;
// How long others are left alone then: doubled each time, up to the last.
constexpr Clock::duration kHold = 20ms, kLongestHold = 1s;
// Work that pays with everybody even so: for each thread, about the time that a system gives to another process.
constexpr Clock::duration kLongWork = 4ms;

// Tells the processor that this is a waiting loop.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether done() came true within `most`.
template <class Done>
bool spin(Clock::duration most, const Done& done) {
  if (done()) return true;
  for (const auto end = Clock::now() + most; Clock::now() < end;) {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      relax();
    }
  }
  return false;
}

// How often the calling thread has lost its processor to another one, other than by waiting.
long times_displaced() {
  rusage usage{};
  return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nivcsw : 0;
}

bool asked_to_share_all() {
  const char* share = std::getenv("GEMMA4_SHARE");  // NOLINT(concurrency-mt-unsafe): nobody here sets it
  return share != nullptr && std::string_view(share) == "all";
}

// Parts of `state_`.
constexpr uint64_t kLeft = 0xffffffff;
uint32_t left(uint64_t state) { return static_cast<uint32_t>(state & kLeft); }

// A caller that loses its processor measures nonsense: an estimate at most doubles.
void remember(std::atomic<int64_t>& habit, Clock::duration time, size_t items) {
  const int64_t old = habit.load(std::memory_order_relaxed);
  int64_t each = std::chrono::nanoseconds(time).count() / static_cast<int64_t>(items);
  if (old > 0) each = std::min(each, 2 * old);
  habit.store(std::max<int64_t>(each, 1), std::memory_order_relaxed);
}

// How much time goes to so many items of `each` nanoseconds, and the reverse.
Clock::duration times(double each, size_t items) {
  constexpr double kMost = 1e15;  // for numbers that come from nonsense
  return std::chrono::nanoseconds(static_cast<int64_t>(std::min(each * static_cast<double>(items), kMost)));
}
size_t items_of(Clock::duration time, double each) {
  return static_cast<size_t>(static_cast<double>(std::chrono::nanoseconds(time).count()) / std::max(each, 1.0));
}

}  // namespace

ThreadPool::ThreadPool(int threads)
    : share_all_(asked_to_share_all()),
      process_(::getpid()),
      started_(std::max(threads, 1) - 1),
      seats_(new Seat[static_cast<size_t>(std::max(threads, 1))]),
      limit_(std::max(threads, 1) - 1),
      hold_(kHold) {
  try {
    workers_.reserve(static_cast<size_t>(std::max(threads, 1)));
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error&) {  // no memory for its stack
    stop();
    throw std::bad_alloc();
  }
  // A thread's first allocation maps 64 MiB for it: before anybody asks how much is left, not while it computes.
  started_.wait();
}

ThreadPool::~ThreadPool() {
  if (::getpid() != process_) {
    for (auto& w : workers_) w.detach();
    (void)seats_.release();  // NOLINT(bugprone-unused-return-value): a thread of the parent may hold a mutex there
    return;
  }
  stop();
}

void ThreadPool::stop() {
  stop_ = true;
  for (size_t i = 1; i <= workers_.size(); ++i) call(static_cast<int>(i));
  for (auto& w : workers_) w.join();
}

// What loops took is remembered by their body's type, which stands for a place in the source, and by the magnitude of
// their number of items. Kinds that meet in one entry cost each other some time, nothing else.
ThreadPool::Habit& ThreadPool::habit(const Body& body, size_t items) {
  const auto place = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(&body.target_type()));
  const uint64_t mixed = (place + static_cast<uint64_t>(std::bit_width(items))) * 0x9e3779b97f4a7c15;
  return habits_[mixed >> 58];
}

void ThreadPool::parallel_for(size_t items, const Body& body) {
  size_t i = 0;
  if (!workers_.empty() && items > 1 && items <= kLeft) {
    Habit& known = habit(body, items);
    Time work = times(static_cast<double>(known.load(std::memory_order_relaxed)), items);  // that is left
    const auto start = Clock::now();
    Time spent{};
    size_t look = 1;  // at the clock again after so many items
    while (i < items) {
      if ((share_all_ || work >= 2 * kShare) && share(i, items, body, work, known)) return;
      for (; i < look; ++i) body(i, 0);
      spent = Clock::now() - start;
      const double each = static_cast<double>(std::chrono::nanoseconds(spent).count()) / static_cast<double>(i);
      work = times(each, items - i);
      const size_t more = work < 2 * kShare ? i : 1 + items_of(kShare, each);
      look = std::min(items, i + more);
    }
    remember(known, spent, items);
  }
  for (; i < items; ++i) body(i, 0);
}

// How many workers `work` in so many items is for; 0 where the caller does better alone.
int ThreadPool::crew(Time work, size_t items, Clock::time_point now) {
  const int all = size() - 1;
  if (share_all_) return static_cast<int>(std::min(static_cast<size_t>(all), items - 1));
  if (now >= retry_) {
    if (limit_ == all) {
      hold_ = kHold;
    } else {
      limit_ = std::min(all, limit_ + std::max(1, all / 4));
      retry_ = now + hold_;
    }
  }
  const int allowed = work / size() >= kLongWork ? all : limit_.load();
  const auto useful = std::min(work / kShare, static_cast<int64_t>(items)) - 1;
  return static_cast<int>(std::clamp<int64_t>(useful, 0, allowed));
}

// Runs the items from `first` on with the help of workers; false where that does not pay or nobody is free.
bool ThreadPool::share(size_t first, size_t items, const Body& body, Time work, Habit& known) {
  const std::unique_lock<std::mutex> turn(callers_, std::try_to_lock);
  if (!turn || ::getpid() != process_) return false;
  const auto start = Clock::now();
  const int helpers = crew(work, items - first, start);
  if (helpers == 0) return false;

  const auto count = static_cast<uint32_t>(items - first);
  body_.store(&body, std::memory_order_relaxed);
  items_.store(items, std::memory_order_relaxed);
  crew_.store(helpers, std::memory_order_relaxed);
  pending_.store(count, std::memory_order_relaxed);
  displaced_.store(false, std::memory_order_relaxed);
  calling_.store(share_all_ || work >= kWake, std::memory_order_relaxed);
  state_.store((state_.load(std::memory_order_relaxed) | kLeft) + 1 + count);  // the next number
  call_next(0);
  const uint32_t own = drain(0);
  const auto drained = Clock::now();
  if (own > 0) remember(known, drained - start, own);
  meet();
  const auto met = Clock::now();
  if (met - drained > kStall && displaced_) {
    limit_ = limit_ / 2;
    retry_ = met + hold_;
    hold_ = std::min(2 * hold_, kLongestHold);
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  return true;
}

// Returns when every item is finished.
void ThreadPool::meet() {
  const auto done = [this] { return pending_.load() == 0; };
  if (spin(patience(), done)) return;
  Seat& seat = seats_[0];
  std::unique_lock<std::mutex> lock(seat.mutex);
  seat.taken = true;  // who finishes the last item now sees it, or is seen
  seat.wake.wait(lock, done);
  seat.taken = false;
}

// Threads that look for work take the processor from those that have some, where there are not enough.
ThreadPool::Time ThreadPool::patience() const { return limit_ == size() - 1 ? kSpin : Time::zero(); }

// Takes items of the shared loop until none is left, and says how many.
uint32_t ThreadPool::drain(int thread) {
  Clock::time_point start;
  uint32_t taken = 0, over = 0;
  while (true) {
    uint64_t state = state_.load(std::memory_order_acquire);
    if (left(state) == 0) break;
    const Body* body = body_.load(std::memory_order_relaxed);
    const size_t item = items_.load(std::memory_order_relaxed) - left(state);
    if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel)) continue;
    if (taken++ == 0 && thread != 0) start = Clock::now();
    try {
      (*body)(item, thread);
    } catch (...) {
      over = abandon();
      const std::scoped_lock lock(seats_[0].mutex);
      if (!error_) error_ = std::current_exception();
    }
  }
  if (taken == 0) return 0;
  Seat& caller = seats_[0];
  if (thread != 0 && Clock::now() - start > kStall) {
    Seat& own = seats_[static_cast<size_t>(thread)];
    if (const long times = times_displaced(); times > std::exchange(own.displaced, times)) displaced_ = true;
  }
  const uint32_t finished = taken + over;
  if (pending_.fetch_sub(finished) == finished && caller.taken) {
    { const std::scoped_lock lock(caller.mutex); }
    caller.wake.notify_one();
  }
  return taken;
}

// Takes all that is left, and says how much that was. For a thread that has an unfinished item.
uint32_t ThreadPool::abandon() {
  uint64_t state = state_.load();
  while (!state_.compare_exchange_weak(state, state & ~kLeft)) {
  }
  return left(state);
}

bool ThreadPool::wanted(int thread) const { return left(state_.load()) > 0 && thread <= crew_.load(); }

void ThreadPool::call(int thread) {
  Seat& seat = seats_[static_cast<size_t>(thread)];
  if (!seat.taken) return;  // who is about to sleep sees first what there is to do
  { const std::scoped_lock lock(seat.mutex); }
  seat.wake.notify_one();
}

// Calls those that this thread has to: each one calls two, so that nobody calls many. Who was awake anyway calls too:
// those below it may sleep.
void ThreadPool::call_next(int thread) {
  if (!calling_.load(std::memory_order_relaxed)) return;
  for (const int next : {2 * thread + 1, 2 * thread + 2}) {
    if (wanted(next)) call(next);
  }
}

// Until there is a reason not to.
void ThreadPool::sleep(int thread) {
  Seat& seat = seats_[static_cast<size_t>(thread)];
  std::unique_lock<std::mutex> lock(seat.mutex);
  seat.taken = true;
  seat.wake.wait(lock, [&] { return stop_ || wanted(thread); });
  seat.taken = false;
  seat.displaced = times_displaced();
}

void ThreadPool::work(int thread) {
  void* volatile first = std::malloc(1);  // volatile: so that it happens
  std::free(first);
  started_.count_down();
  while (!stop_) {
    bool helped = false;
    while (wanted(thread)) {
      call_next(thread);
      if (drain(thread) == 0) break;
      helped = true;
    }
    if (helped && spin(patience(), [&] { return stop_ || wanted(thread); })) continue;
    sleep(thread);
  }
}

}  // namespace gemma4
