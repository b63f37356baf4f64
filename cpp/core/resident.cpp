#include "core/resident.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace gemma4 {
namespace {

// A fault maps up to so many bytes around the page that was asked for (the kernel's fault-around default).
constexpr size_t kFaultBytes = 64 * 1024;

// The whole pages inside the table: pages at its ends may hold other tensors.
void advise(const TensorView& table, int advice) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(table.data), last = first + table.rows() * table.stride();
  const uintptr_t begin = (first + page - 1) / page * page, end = last / page * page;
  // Only advice: a system that refuses it loses memory, not results.
  if (begin < end) (void)::madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

RowBudget::RowBudget(const TensorView& table, size_t bytes)
    : table_(table), most_rows_(std::max<size_t>(1, bytes / kFaultBytes)) {
  if (!table_.empty()) advise(table_, MADV_RANDOM);
}

void RowBudget::touched(size_t rows) {
  rows_ += rows;
  if (rows_ < most_rows_) return;
  rows_ = 0;
  advise(table_, MADV_DONTNEED);
}

}  // namespace gemma4
