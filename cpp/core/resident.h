// Keeps a mapped table that is read row by row from filling the memory.
// Knows: pages. Must not know: what the rows are. Touching a page of a mapped file also maps its neighbours, so a table
// of gigabytes would become resident within a long text. Dropping pages costs nothing but a later fault: the bytes stay
// in the page cache.
#pragma once

#include <cstddef>

#include "core/tensor.h"

namespace gemma4 {

class RowBudget {
 public:
  // `table` is read at random from now on; at most about `bytes` of it stay resident.
  RowBudget(const TensorView& table, size_t bytes);

  // Call after reading `rows` rows.
  void touched(size_t rows);

 private:
  TensorView table_;
  size_t most_rows_;  // reads after which pages are dropped
  size_t rows_ = 0;   // reads since
};

}  // namespace gemma4
