// Helpers that the bindings share. Knows: pybind11 and the engine's types. Must not compute anything.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/interrupt.h"
#include "core/thread_pool.h"
#include "engine/batch.h"
#include "model/compute.h"
#include "model/tensor_store.h"
#include "model/weights.h"

namespace gemma4 {

namespace py = pybind11;

// What C++ reads of an array: numbers of this machine's byte order, aligned and one after the other. Where NumPy can
// convert an argument to that without loss, it is copied; another one is a TypeError.
constexpr int kPlain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
template <class T>
using Array = py::array_t<T, kPlain>;

// Whether an array is such numbers already, so that C++ may write where it lies.
template <class T>
bool is_plain(const py::array& a) {
  return a.dtype().equal(py::dtype::of<T>()) && (a.flags() & kPlain) == kPlain;
}

// What a step of text is computed with.
struct Stepper {
  Stepper(const ModelConfig& config, const Weights& weights, int threads)
      : workspace(threads), batch(config.text, weights.text) {}
  size_t bytes() const { return workspace.bytes(); }

  Workspace workspace;
  Batch batch;
};

// A loaded model: everything in it is constant except the pool's threads and what they work in.
struct LoadedModel {
  LoadedModel(ModelConfig config, std::shared_ptr<TensorStore> tensors, const std::string& text_prefix,
              const std::vector<std::string>& ignored_prefixes, int num_threads);

  ModelConfig config;
  std::shared_ptr<TensorStore> store;
  Weights weights;
  ThreadPool pool;
  Leases<Workspace> workspaces;  // of encoders
  Leases<Stepper> steppers;      // of steps of text
};

// The time in which a thread computes without the GIL, and that in which it has it again. A daemon thread that wants it
// back while the interpreter ends never gets it: it waits for the end of the process, as Python 3.14 has it. Older ones
// unwind it instead, through functions that must not throw.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};
class WithGil {
 public:
  WithGil();

 private:
  std::optional<py::gil_scoped_acquire> gil_;
};

// Asks Python, from a thread that has released the GIL, whether to go on: pending signals raise (Ctrl-C).
Interrupt python_interrupt();

void register_errors(py::module_& m);
void bind_config(py::module_& m);
void bind_store(py::module_& m);
void bind_text(py::module_& m);
void bind_sampler(py::module_& m);
void bind_model(py::module_& m);

}  // namespace gemma4
