#include "model/tensor_store.h"

#include <algorithm>

#include "core/checked.h"

namespace gemma4 {
namespace {

constexpr size_t kMaxRank = 4;

DType dtype_by_name(const std::string& name, const std::string& where) {
  for (const FormatTraits& f : kFormats) {
    if (f.name == name) return f.dtype;
  }
  std::string known;
  for (const FormatTraits& f : kFormats) known += (known.empty() ? "" : ", ") + std::string(f.name);
  fail(ErrorKind::kModelFile, where + ": dtype " + name + " is not supported (supported: " + known + ")");
}

}  // namespace

int TensorStore::add_file(const std::string& path, uint64_t data_start) {
  File file{std::make_unique<MappedFile>(path), data_start, {}};
  require(data_start <= file.map->size(), ErrorKind::kModelFile,
          path + ": the header ends at byte " + std::to_string(data_start) + " but the file has " +
              std::to_string(file.map->size()));
  files_.push_back(std::move(file));
  return static_cast<int>(files_.size()) - 1;
}

void TensorStore::add(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape, int file,
                      uint64_t begin, uint64_t end) {
  require(file >= 0 && static_cast<size_t>(file) < files_.size(), ErrorKind::kModelFile, name + ": unknown file");
  File& f = files_[file];
  const std::string where = f.map->path() + ": tensor " + name;
  require(!name.empty() && name.size() <= 1024 && name.find('\0') == std::string::npos, ErrorKind::kModelFile,
          f.map->path() + ": a tensor name is empty, longer than 1024 bytes or holds a NUL");
  const DType type = dtype_by_name(dtype, where);
  require(shape.size() <= kMaxRank, ErrorKind::kModelFile, where + ": more than 4 dimensions");

  TensorView view;
  view.dtype = type;
  view.rank = shape.empty() ? 1 : static_cast<int>(shape.size());
  view.shape[0] = 1;  // a scalar is a vector of one
  size_t elements = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    require(shape[i] > 0, ErrorKind::kModelFile, where + ": dimension " + std::to_string(i) + " is zero");
    view.shape[i] = shape[i];
    elements = checked_mul(elements, shape[i], where);
  }
  const FormatTraits& format = traits(type);
  require(view.cols() % format.block_elems == 0, ErrorKind::kModelFile,
          where + ": a row of " + std::to_string(view.cols()) + " is not a multiple of the block of " + dtype);
  const size_t bytes = checked_mul(elements / format.block_elems, format.block_bytes, where);
  require(begin <= end && end - begin == bytes, ErrorKind::kModelFile,
          where + ": shape and dtype need " + std::to_string(bytes) + " bytes, data_offsets give [" +
              std::to_string(begin) + ", " + std::to_string(end) + "]");
  const size_t last = checked_add(f.data_start, end, where);
  require(last <= f.map->size(), ErrorKind::kModelFile,
          where + ": ends at byte " + std::to_string(last) + " but the file has " + std::to_string(f.map->size()) +
              " (" + std::to_string(last > f.map->size() ? last - f.map->size() : 0) + " bytes are missing)");
  view.data = f.map->data() + f.data_start + begin;
  require(tensors_.emplace(name, view).second, ErrorKind::kModelFile, where + ": the name appears twice");
  f.extents.push_back({begin, end, name});
}

void TensorStore::validate() const {
  for (const File& f : files_) {
    std::vector<Extent> sorted = f.extents;
    std::sort(sorted.begin(), sorted.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    uint64_t at = 0;
    for (const Extent& e : sorted) {
      require(e.begin == at, ErrorKind::kModelFile,
              f.map->path() + ": tensor " + e.name + " begins at byte " + std::to_string(e.begin) +
                  " of the data, expected " + std::to_string(at) + " (a gap or an overlap)");
      at = e.end;
    }
    require(f.data_start + at == f.map->size(), ErrorKind::kModelFile,
            f.map->path() + ": " + std::to_string(f.map->size() - f.data_start - at) +
                " bytes after the last tensor belong to none");
  }
}

const TensorView* TensorStore::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

void TensorStore::check_unchanged() const {
  for (const File& f : files_) f.map->check_unchanged();
}

}  // namespace gemma4
