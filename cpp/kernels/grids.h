// The grids of IQ2 and IQ3: which quants eight or four neighbours may have together. Parts of the formats.
// Knows: tables. Must not know: blocks. Data alone, so that the tables of all instruction sets may share it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gemma4::grids {

template <class Word, size_t n>
struct Table {
  Word of[n];
};

// The quants of an entry, a byte each, the first one lowest.
extern const Table<uint64_t, 256> kIQ2_XXS;
extern const Table<uint64_t, 512> kIQ2_XS;
extern const Table<uint64_t, 1024> kIQ2_S;
extern const Table<uint32_t, 256> kIQ3_XXS;
extern const Table<uint32_t, 512> kIQ3_S;

// Byte j is 0xff if bit j of the index is set.
extern const Table<uint64_t, 256> kSigns;
// The same for seven bits and an eighth that makes their number even.
extern const Table<uint64_t, 128> kEvenSigns;

}  // namespace gemma4::grids
