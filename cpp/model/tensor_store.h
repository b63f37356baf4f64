// All tensors of a checkpoint as views on its mapped files, by name.
// Knows: names, shapes, extents. Must not know: what a tensor is for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/tensor.h"

namespace gemma4 {

class TensorStore {
 public:
  // Maps a file whose tensor bytes begin at `data_start`; returns its index.
  int add_file(const std::string& path, uint64_t data_start);
  // Registers a tensor at bytes [begin, end) after the file's data_start. The one place where a size is computed from a
  // file's numbers: shape x format == end - begin, inside the file. Throws kModelFile naming file and tensor.
  void add(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape, int file,
           uint64_t begin, uint64_t end);
  // Every byte after data_start of every file belongs to exactly one tensor. Throws kModelFile otherwise.
  void validate() const;

  const TensorView* find(const std::string& name) const;  // null if there is none
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
    std::vector<Extent> extents;
  };
  std::vector<File> files_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace gemma4
