// Included before every file of llama.cpp (see llama_cpp.py). GCC 12's _tile_loadconfig names eight of the sixty-four
// bytes as read, so stores to the others are dropped and the first tile instruction traps (SIGILL).
#ifdef __AMX_TILE__
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(shape) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(shape)))
#endif
