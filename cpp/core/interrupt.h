// How a long computation is asked to stop. Knows: a question to ask now and then. Must not know: who answers it.
// The calling thread asks between tiles of work, so a stop takes effect within a few milliseconds.
#pragma once

#include <chrono>
#include <functional>

#include "core/error.h"

namespace gemma4 {

class Interrupt {
 public:
  Interrupt() = default;
  // `stop` returns true when the work is no longer wanted; it may throw to end it with an error of its own.
  explicit Interrupt(std::function<bool()> stop) : stop_(std::move(stop)) {}

  // Only for the thread that started the computation. Throws kCancelled.
  void check() {
    if (!stop_) return;
    const auto now = Clock::now();
    if (now - last_ < kInterval) return;
    last_ = now;
    if (stop_()) fail(ErrorKind::kCancelled, "cancelled");
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kInterval{20};

  std::function<bool()> stop_;
  Clock::time_point last_ = Clock::now();
};

}  // namespace gemma4
