#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace gemma4 {
namespace {

int64_t modification_time(const struct stat& s) {
  return static_cast<int64_t>(s.st_mtim.tv_sec) * 1'000'000'000 + s.st_mtim.tv_nsec;
}

std::string reason(const std::string& path, const char* what) {
  return path + ": " + what + ": " + std::strerror(errno);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: opening a FIFO by mistake must not hang.
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) fail(ErrorKind::kModelFile, reason(path, "cannot open"));
  struct stat s {};
  const bool known = ::fstat(fd_, &s) == 0;
  if (!known || !S_ISREG(s.st_mode) || s.st_size <= 0) {
    ::close(fd_);
    fail(ErrorKind::kModelFile, path + ": not a regular file with any content");
  }
  size_ = static_cast<size_t>(s.st_size);
  mtime_ns_ = modification_time(s);
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_, 0);
  if (p == MAP_FAILED) {
    const std::string message = reason(path, "cannot map");
    ::close(fd_);
    fail(ErrorKind::kModelFile, message);
  }
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<std::byte*>(data_), size_);
  ::close(fd_);
}

// A mapping of its own ends what one fault maps around it, which is megabytes where the page cache holds large folios.
void MappedFile::set_apart(size_t offset, size_t size) const {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page, end = (offset + size) / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(data_ + begin), end - begin, MADV_RANDOM);
}

void MappedFile::read(size_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t n = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::kModelFileChanged, reason(path_, "cannot read"));
    if (n == 0) fail(ErrorKind::kModelFileChanged, path_ + ": the file became shorter after it was loaded");
    to = to.subspan(static_cast<size_t>(n));
    offset += static_cast<size_t>(n);
  }
}

void MappedFile::check_unchanged() const {
  struct stat s {};
  if (::fstat(fd_, &s) != 0) fail(ErrorKind::kModelFileChanged, reason(path_, "cannot stat"));
  if (static_cast<size_t>(s.st_size) != size_ || modification_time(s) != mtime_ns_) {
    fail(ErrorKind::kModelFileChanged, path_ + ": the file changed after it was loaded (" + std::to_string(size_) +
                                           " bytes then, " + std::to_string(s.st_size) + " now); load the model again");
  }
}

}  // namespace gemma4
