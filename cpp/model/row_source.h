// A table that is read row by row. Knows: where its rows are. Must not know: what they mean.
// Touching a page of a mapped file maps its neighbours too, up to megabytes where the page cache holds large folios, so
// a table of gigabytes would become resident within a long text. Rows of a file are therefore read, not mapped: their
// bytes stay in the page cache, which other processes share and the system may take back.
#pragma once

#include <cstddef>
#include <vector>

#include "core/mapped_file.h"
#include "core/tensor.h"

namespace gemma4 {

class RowSource {
 public:
  RowSource() = default;
  // `file` is the one whose mapping holds the view, null for a table in memory.
  RowSource(const TensorView& view, const MappedFile* file) : view_(view), file_(file) {
    if (file_ != nullptr) file_->set_apart(offset(0), view_.rows() * view_.stride());
  }

  bool empty() const { return view_.empty(); }
  // The table; where it is in a file, its rows are to be read, its scales may be touched.
  const TensorView& view() const { return view_; }

  // The bytes of a row: in place, or in `buffer`. Throws kModelFileChanged if the file has become shorter.
  const std::byte* read(size_t row, std::vector<std::byte>& buffer) const {
    if (file_ == nullptr) return view_.row(row);
    buffer.resize(view_.stride());
    file_->read(offset(row), buffer);
    return buffer.data();
  }

 private:
  size_t offset(size_t row) const { return static_cast<size_t>(view_.row(row) - file_->data()); }

  TensorView view_;
  const MappedFile* file_ = nullptr;
};

}  // namespace gemma4
