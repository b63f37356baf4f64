// The compiler's own 16-bit float, an independent check of the engine's conversions.
#pragma once

namespace gemma4 {

#if defined(__aarch64__)
using Half = __fp16;  // GCC 12 has no _Float16 in C++ here
#else
using Half = _Float16;
#endif

}  // namespace gemma4
