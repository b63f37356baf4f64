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

Interrupt python_interrupt() {
  return Interrupt([] {
    py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    return false;
  });
}

}  // namespace gemma4
