#include <cxxabi.h>
#include <unistd.h>

#include <new>

#include "bindings/bindings.h"
#include "core/error.h"

namespace gemma4 {
namespace {

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kModelFile:
      return "ModelFileError";
    case ErrorKind::kModelFileChanged:
      return "ModelFileChanged";
    case ErrorKind::kRequest:
      return "RequestError";
    case ErrorKind::kContextLength:
      return "ContextLengthError";
    case ErrorKind::kMedia:
      return "MediaError";
    case ErrorKind::kCancelled:
      return "Cancelled";
  }
  return "Gemma4Error";
}

void raise(const char* class_name, const char* message) {
  PyErr_SetString(py::module_::import("gemma4.errors").attr(class_name).ptr(), message);
}

// Takes the GIL. Where that ends this thread, because the interpreter ends, the thread waits here for the process.
template <class Take>
void or_wait_for_the_end(const Take& take) {
  try {
    take();
  } catch (const abi::__forced_unwind&) {
    while (true) ::pause();
  }
}

}  // namespace

void register_errors(py::module_&) {
  // NOLINTNEXTLINE(performance-unnecessary-value-param): pybind11's type
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& e) {
      raise(class_name(e.kind()), e.what());
    } catch (const std::bad_alloc&) {
      raise("OutOfMemoryError", "there is not enough memory for this call");
    }
  });
}

WithoutGil::~WithoutGil() {
  or_wait_for_the_end([this] { PyEval_RestoreThread(state_); });
}

WithGil::WithGil() {
  or_wait_for_the_end([this] { gil_.emplace(); });
}

Interrupt python_interrupt() {
  return Interrupt([] {
    const WithGil gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    return false;
  });
}

}  // namespace gemma4
