// All tensors of a checkpoint as views on its mapped files, by name.
// Knows: names, shapes, extents. Must not know: what a tensor is for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/tensor.h"

namespace gemma4 {

class TensorStore {
 public:
  // Maps a file whose tensor bytes begin at `data_start`; returns its index. Each tensor begins at a multiple of
  // `alignment` (a power of two) after data_start; the fewer than `alignment` bytes before it are padding.
  int add_file(const std::string& path, uint64_t data_start, uint64_t alignment = 1);
  // Registers a tensor at bytes [begin, end) after the file's data_start. The one place where a size is computed from a
  // file's numbers: shape x format == end - begin, inside the file. Throws kModelFile naming file and tensor.
  void add(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape, int file,
           uint64_t begin, uint64_t end);
  // A tensor whose bytes the store keeps itself, for the few that cannot be read in place. The size is checked as
  // above.
  void add_owned(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape,
                 std::span<const std::byte> bytes);
  // The same for a tensor that is already registered, whose former bytes are not read any more. Views on those stay
  // valid.
  void replace(const std::string& name, const std::string& dtype, std::span<const std::byte> bytes);
  // Rows [begin, end) of a registered matrix under a name of their own; nothing is copied.
  void add_rows(const std::string& name, const std::string& source, uint64_t begin, uint64_t end);
  // What the bytes of a registered tensor are, now that its place in a model has said so. `view` lies on the same
  // bytes.
  void describe(const std::string& name, const TensorView& view) { tensors_.at(name) = view; }
  // Takes a name out; its bytes stay mapped and accounted for. For what is read once, while a checkpoint is loaded.
  void forget(const std::string& name) { tensors_.erase(name); }
  // Every byte after data_start of every file belongs to exactly one tensor or is padding. Throws kModelFile otherwise.
  void validate() const;

  // Takes the pages of rows [begin, end) of a mapped tensor out of this process's memory; reading them maps them again.
  void drop(const std::string& name, uint64_t begin, uint64_t end) const;

  const TensorView* find(const std::string& name) const;  // null if there is none
  // The file whose mapping holds the view; null for a tensor that the store keeps itself.
  const MappedFile* file_of(const TensorView& view) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  // Throws kModelFileChanged if a file was modified since it was mapped.
  void check_unchanged() const;

 private:
  struct Extent {
    uint64_t begin, end;
    std::string name;
  };
  struct File {
    std::unique_ptr<MappedFile> map;
    uint64_t data_start;
    uint64_t alignment;
    std::vector<Extent> extents;
  };
  const std::byte* keep(std::span<const std::byte> bytes);
  void insert(const std::string& name, const TensorView& view, const std::string& where);

  std::vector<File> files_;
  std::vector<std::unique_ptr<std::byte[]>> owned_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace gemma4
