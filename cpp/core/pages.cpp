#include "core/pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace gemma4 {
namespace {

// Asks for pages of 2 MiB, which a thread that reads all of a long context finds faster, except at the beginning: there
// a short context would take whole ones for a few rows.
void want_huge_pages([[maybe_unused]] char* memory, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr size_t kHuge = size_t{2} << 20, kBeginning = 2 * kHuge;
  const size_t skip = kBeginning + (kHuge - reinterpret_cast<uintptr_t>(memory) % kHuge) % kHuge;
  const size_t whole = bytes > skip ? (bytes - skip) / kHuge * kHuge : 0;
  if (whole > 0) (void)::madvise(memory + skip, whole, MADV_HUGEPAGE);  // a system without them says no
#endif
}

}  // namespace

Pages::Pages(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  data_ = p;
  want_huge_pages(static_cast<char*>(p), bytes);
}

Pages::~Pages() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace gemma4
