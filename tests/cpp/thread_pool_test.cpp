// cpp/core's thread pool: each item once, whoever runs it, and nobody waits for who has none.
#include "core/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "expect_error.h"

namespace gemma4 {
namespace {

// How often each item ran; every thread index must be in range.
std::vector<int> visits(ThreadPool& pool, size_t items) {
  std::vector<std::atomic<int>> count(items);
  std::atomic<bool> in_range{true};
  pool.parallel_for(items, [&](size_t item, int thread) {
    if (thread < 0 || thread >= pool.size()) in_range = false;
    count[item].fetch_add(1);
  });
  EXPECT_TRUE(in_range);
  return {count.begin(), count.end()};
}

// Pools share where it pays, or always.
class ThreadPoolTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ::setenv("GEMMA4_SHARE", GetParam(), 1); }
  void TearDown() override { ::unsetenv("GEMMA4_SHARE"); }
};
INSTANTIATE_TEST_SUITE_P(Sharing, ThreadPoolTest, testing::Values("", "all"),
                         [](const auto& share) { return *share.param != '\0' ? "All" : "WherePays"; });

// Work that cannot be mistaken for little.
void take_time(std::chrono::microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

TEST_P(ThreadPoolTest, RunsEachItemOnce) {
  for (int threads : {1, 2, 3, 16}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (size_t items : {0, 1, 2, 15, 1000}) EXPECT_EQ(visits(pool, items), std::vector<int>(items, 1)) << threads;
  }
}

TEST_P(ThreadPoolTest, NoThreadsMeansTheCaller) {
  for (int threads : {0, -3}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), 1);
    EXPECT_EQ(visits(pool, 10), std::vector<int>(10, 1));
  }
}

TEST_P(ThreadPoolTest, TheCallerIsThreadZero) {
  ThreadPool pool(4);
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> right{true};
  pool.parallel_for(1000, [&](size_t, int thread) {
    if ((thread == 0) != (std::this_thread::get_id() == caller)) right = false;
  });
  EXPECT_TRUE(right);
}

TEST_P(ThreadPoolTest, ManyShortLoops) {
  ThreadPool pool(4);
  std::atomic<size_t> sum{0};
  for (int i = 0; i < 100'000; ++i) pool.parallel_for(3, [&](size_t item, int) { sum += item; });
  EXPECT_EQ(sum, 300'000u);
}

TEST_P(ThreadPoolTest, WakesAfterASleep) {
  ThreadPool pool(3);
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_EQ(visits(pool, 100), std::vector<int>(100, 1));
  }
}

TEST_P(ThreadPoolTest, AnExceptionReachesTheCallerAndThePoolLivesOn) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (size_t bad : {0, 7, 99}) {
      expect_error(ErrorKind::kRequest, "item " + std::to_string(bad), [&] {
        pool.parallel_for(100, [&](size_t item, int) {
          if (item == bad) fail(ErrorKind::kRequest, "item " + std::to_string(item));
        });
      });
      EXPECT_EQ(visits(pool, 50), std::vector<int>(50, 1));
    }
    // All of them at once: one is reported.
    EXPECT_THROW(pool.parallel_for(100, [](size_t, int) { throw std::bad_alloc(); }), std::bad_alloc);
    EXPECT_EQ(visits(pool, 50), std::vector<int>(50, 1));
  }
}

TEST_P(ThreadPoolTest, AnExceptionStopsTheRest) {
  ThreadPool pool(2);
  std::atomic<size_t> ran{0};
  EXPECT_THROW(pool.parallel_for(1'000'000,
                                 [&](size_t, int) {
                                   if (++ran == 10) throw std::runtime_error("enough");
                                   std::this_thread::yield();
                                 }),
               std::runtime_error);
  EXPECT_LT(ran, 1'000'000u);
}

TEST_P(ThreadPoolTest, ManyCallersAtOnce) {
  ThreadPool pool(3);
  std::atomic<int> wrong{0}, caught{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&, c] {
      for (int i = 0; i < 200; ++i) {
        const size_t items = static_cast<size_t>(1 + (c * 31 + i) % 40);
        std::atomic<size_t> sum{0};
        try {
          pool.parallel_for(items, [&](size_t item, int) {
            if (c == 0 && item == 3) throw std::runtime_error("mine");
            sum += item + 1;
          });
          if (sum != items * (items + 1) / 2) ++wrong;
          if (c == 0 && items > 3) ++wrong;
        } catch (const std::runtime_error&) {
          ++(c == 0 ? caught : wrong);
        }
      }
    });
  }
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(caught, 0);
}

// Items that differ, so that threads are late for some loops and in time for others.
TEST_P(ThreadPoolTest, LoopsOfAllSizes) {
  ThreadPool pool(3);
  for (int i = 0; i < 3000; ++i) {
    const auto items = static_cast<size_t>(1 + i * 7 % 23);
    const int time = i % 11 == 0 ? 200 : i % 5;
    std::vector<int> count(items);  // plain: an item that ran late, or twice, is a race
    pool.parallel_for(items, [&](size_t item, int) {
      take_time(std::chrono::microseconds(time));
      ++count[item];
    });
    ASSERT_EQ(count, std::vector<int>(items, 1)) << i;
  }
}

TEST_P(ThreadPoolTest, WorkersHelpWithMuchWork) {
  ThreadPool pool(3);
  std::array<std::atomic<int>, 3> ran{};
  for (int i = 0; i < 5; ++i) {
    pool.parallel_for(30, [&](size_t, int thread) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // needs no processor of its own
      ++ran[static_cast<size_t>(thread)];
    });
  }
  for (const auto& each : ran) EXPECT_GT(each, 0);
  EXPECT_EQ(ran[0] + ran[1] + ran[2], 150);
}

// Everybody who may help does, also where those who would call the others had not gone to sleep.
TEST(ThreadPoolAloneTest, WhoIsAwakeCallsThoseThatSleep) {
  ::setenv("GEMMA4_SHARE", "all", 1);
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool(9);  // which does not know yet how few processors there are, so that its workers stay awake a while
    for (const int threads : {3, 9}) {
      std::atomic<int> inside{0};
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      pool.parallel_for(threads, [&](size_t, int) {
        for (++inside; inside < threads && std::chrono::steady_clock::now() < end;) std::this_thread::yield();
      });
      ASSERT_LT(std::chrono::steady_clock::now(), end) << threads << " threads in round " << round;
    }
  }
  ::unsetenv("GEMMA4_SHARE");
}

// The caller waits for items, not for threads: here the only worker has one, and is asked nothing by other loops.
TEST_P(ThreadPoolTest, NobodyWaitsForAThreadWithoutAnItem) {
  ThreadPool pool(2);
  std::atomic<bool> held{false}, release{false};
  std::thread other([&] {
    pool.parallel_for(2, [&](size_t item, int thread) {
      if (item == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));  // worth sharing
      if (thread == 1 || item == 1) held = true;
      while (item == 1 && !release) std::this_thread::yield();
    });
  });
  while (!held) std::this_thread::yield();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(visits(pool, 50), std::vector<int>(50, 1));  // would wait for ever
  release = true;
  other.join();
}

TEST(ThreadPoolAloneTest, LittleWorkStaysWithTheCaller) {
  ::unsetenv("GEMMA4_SHARE");
  ThreadPool pool(4);
  std::atomic<int> elsewhere{0};
  for (int i = 0; i < 10'000; ++i) {
    pool.parallel_for(4, [&](size_t, int thread) { elsewhere += thread != 0; });
  }
  EXPECT_LT(elsewhere, 400);  // where the system takes the processor away, time tells of much work
}

TEST_P(ThreadPoolTest, AForkedChildWorksAlone) {
  auto pool = std::make_unique<ThreadPool>(3);
  EXPECT_EQ(visits(*pool, 100), std::vector<int>(100, 1));
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(20);  // a hang fails, too
    size_t sum = 0;
    bool alone = true;
    pool->parallel_for(100, [&](size_t item, int thread) {
      sum += item;
      alone = alone && thread == 0;
    });
    pool.reset();  // must not wait for threads that do not exist here
    ::_exit(alone && sum == 4950 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  EXPECT_EQ(visits(*pool, 100), std::vector<int>(100, 1));
}

}  // namespace
}  // namespace gemma4
