// A file mapped read-only. Knows: bytes. Must not know: formats.
// The size is fixed at opening; a file that was truncated or rewritten afterwards is noticed by `check_unchanged`
// before the bytes are used again (reading past a truncated mapping would kill the process).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace gemma4 {

class MappedFile {
 public:
  // Throws kModelFile if the path is not a regular readable file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }
  bool holds(const std::byte* p) const { return p >= data_ && p < data_ + size_; }
  // Pages of [offset, offset + size) do not become resident because pages before or behind them are used. Their own use
  // becomes slow: it is for what `read` copies.
  void set_apart(size_t offset, size_t size) const;
  // Copies the bytes from `offset` on without touching the mapping. Throws kModelFileChanged if they are not there.
  void read(size_t offset, std::span<std::byte> to) const;
  // Throws kModelFileChanged if the mapped file is not what it was when it was opened.
  void check_unchanged() const;

 private:
  std::string path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int64_t mtime_ns_ = 0;
};

}  // namespace gemma4
