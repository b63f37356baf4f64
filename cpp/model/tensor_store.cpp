#include "model/tensor_store.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "core/checked.h"

namespace gemma4 {
namespace {

constexpr size_t kMaxRank = 4;
constexpr size_t kMaxName = 1024;

DType dtype_by_name(const std::string& name, const std::string& where) {
  for (const FormatTraits& f : kFormats) {
    if (f.name == name) return f.dtype;
  }
  std::string known;
  for (const FormatTraits& f : kFormats) known += (known.empty() ? "" : ", ") + std::string(f.name);
  fail(ErrorKind::kModelFile, where + ": dtype " + name + " is not supported (supported: " + known + ")");
}

// The one place where a size is computed from a file's numbers: checks name, format and shape, and returns a view
// without data together with the bytes it needs.
std::pair<TensorView, size_t> described(const std::string& dtype, const std::vector<uint64_t>& shape,
                                        const std::string& where) {
  TensorView view;
  view.dtype = dtype_by_name(dtype, where);
  require(shape.size() <= kMaxRank, ErrorKind::kModelFile, where + ": more than 4 dimensions");
  view.rank = shape.empty() ? 1 : static_cast<int>(shape.size());
  view.shape[0] = 1;  // a scalar is a vector of one
  size_t elements = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    require(shape[i] > 0, ErrorKind::kModelFile, where + ": dimension " + std::to_string(i) + " is zero");
    view.shape[i] = shape[i];
    elements = checked_mul(elements, shape[i], where);
  }
  const FormatTraits& format = traits(view.dtype);
  require(view.cols() % format.block_elems == 0, ErrorKind::kModelFile,
          where + ": a row of " + std::to_string(view.cols()) + " is not a multiple of the block of " + dtype);
  return {view, checked_mul(elements / format.block_elems, format.block_bytes, where)};
}

void check_name(const std::string& name, const std::string& where) {
  require(!name.empty() && name.size() <= kMaxName && name.find('\0') == std::string::npos, ErrorKind::kModelFile,
          where + ": a tensor name is empty, longer than 1024 bytes or holds a NUL");
}

}  // namespace

int TensorStore::add_file(const std::string& path, uint64_t data_start, uint64_t alignment) {
  File file{std::make_unique<MappedFile>(path), data_start, alignment, {}};
  require(std::has_single_bit(alignment), ErrorKind::kModelFile,
          path + ": the alignment " + std::to_string(alignment) + " is not a power of two");
  require(data_start <= file.map->size(), ErrorKind::kModelFile,
          path + ": the header ends at byte " + std::to_string(data_start) + " but the file has " +
              std::to_string(file.map->size()));
  file.map->set_apart(0, data_start);  // the header has been read
  files_.push_back(std::move(file));
  return static_cast<int>(files_.size()) - 1;
}

void TensorStore::add(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape, int file,
                      uint64_t begin, uint64_t end) {
  require(file >= 0 && static_cast<size_t>(file) < files_.size(), ErrorKind::kModelFile, name + ": unknown file");
  File& f = files_[file];
  check_name(name, f.map->path());
  const std::string where = f.map->path() + ": tensor " + name;
  auto [view, bytes] = described(dtype, shape, where);
  require(begin <= end && end - begin == bytes, ErrorKind::kModelFile,
          where + ": shape and dtype need " + std::to_string(bytes) + " bytes, data_offsets give [" +
              std::to_string(begin) + ", " + std::to_string(end) + "]");
  const size_t last = checked_add(f.data_start, end, where);
  require(last <= f.map->size(), ErrorKind::kModelFile,
          where + ": ends at byte " + std::to_string(last) + " but the file has " + std::to_string(f.map->size()) +
              " (" + std::to_string(last > f.map->size() ? last - f.map->size() : 0) + " bytes are missing)");
  view.data = f.map->data() + f.data_start + begin;
  insert(name, view, where);
  f.extents.push_back({begin, end, name});
}

void TensorStore::add_owned(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape,
                            std::span<const std::byte> bytes) {
  check_name(name, "a tensor in memory");
  const std::string where = "tensor " + name;
  auto [view, needed] = described(dtype, shape, where);
  require(bytes.size() == needed, ErrorKind::kModelFile,
          where + ": shape and dtype need " + std::to_string(needed) + " bytes, " + std::to_string(bytes.size()) +
              " are given");
  view.data = keep(bytes);
  insert(name, view, where);
}

void TensorStore::replace(const std::string& name, const std::string& dtype, std::span<const std::byte> bytes) {
  const auto it = tensors_.find(name);
  const std::string where = "tensor " + name;
  require(it != tensors_.end(), ErrorKind::kModelFile, where + ": there is no such tensor");
  const TensorView& old = it->second;
  auto [view, needed] = described(dtype, {old.shape.begin(), old.shape.begin() + old.rank}, where);
  require(bytes.size() == needed, ErrorKind::kModelFile,
          where + ": shape and dtype need " + std::to_string(needed) + " bytes, " + std::to_string(bytes.size()) +
              " are given");
  view.data = keep(bytes);
  it->second = view;
}

const std::byte* TensorStore::keep(std::span<const std::byte> bytes) {
  owned_.push_back(std::make_unique_for_overwrite<std::byte[]>(bytes.size()));
  std::memcpy(owned_.back().get(), bytes.data(), bytes.size());
  return owned_.back().get();
}

void TensorStore::drop(const std::string& name, uint64_t begin, uint64_t end) const {
  const TensorView* t = find(name);
  require(t != nullptr && begin <= end && end <= t->rows(), ErrorKind::kModelFile, name + ": no such rows");
  const std::byte *first = t->row(begin), *last = t->row(end);
  const MappedFile* file = file_of(*t);
  if (file == nullptr) return;  // only pages of a mapped file come back when they are read
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t before = static_cast<size_t>(first - file->data()) % page;
  ::madvise(const_cast<std::byte*>(first - before), static_cast<size_t>(last - first) + before, MADV_DONTNEED);
}

void TensorStore::add_rows(const std::string& name, const std::string& source, uint64_t begin, uint64_t end) {
  check_name(name, "rows of " + source);
  const TensorView* whole = find(source);
  require(whole != nullptr, ErrorKind::kModelFile, name + ": there is no tensor " + source);
  require(whole->rank == 2 && begin < end && end <= whole->shape[0], ErrorKind::kModelFile,
          name + ": rows " + std::to_string(begin) + " to " + std::to_string(end) + " are not in " + source);
  TensorView view = *whole;
  view.data = whole->row(begin);
  view.shape[0] = end - begin;
  insert(name, view, "tensor " + name);
}

void TensorStore::insert(const std::string& name, const TensorView& view, const std::string& where) {
  require(tensors_.emplace(name, view).second, ErrorKind::kModelFile, where + ": the name appears twice");
}

void TensorStore::validate() const {
  for (const File& f : files_) {
    std::vector<Extent> sorted = f.extents;
    std::ranges::sort(sorted, [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    uint64_t at = 0;
    for (const Extent& e : sorted) {
      // Extents lie inside the file (checked by add), so rounding up cannot overflow.
      const uint64_t expected = (at + f.alignment - 1) & ~(f.alignment - 1);
      require(e.begin == expected, ErrorKind::kModelFile,
              f.map->path() + ": tensor " + e.name + " begins at byte " + std::to_string(e.begin) +
                  " of the data, expected " + std::to_string(expected) + " (a gap or an overlap)");
      at = e.end;
    }
    const uint64_t left = f.map->size() - f.data_start - at;
    require(left < f.alignment, ErrorKind::kModelFile,
            f.map->path() + ": " + std::to_string(left) + " bytes after the last tensor belong to none");
  }
}

const TensorView* TensorStore::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

const MappedFile* TensorStore::file_of(const TensorView& view) const {
  for (const File& f : files_) {
    if (f.map->holds(view.data)) return f.map.get();
  }
  return nullptr;
}

void TensorStore::check_unchanged() const {
  for (const File& f : files_) f.map->check_unchanged();
}

}  // namespace gemma4
