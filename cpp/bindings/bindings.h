// Helpers that the bindings share. Knows: pybind11 and the engine's types. Must not compute anything.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <memory>
#include <string>

#include "core/interrupt.h"
#include "core/thread_pool.h"
#include "engine/session.h"
#include "model/tensor_store.h"
#include "model/weights.h"

namespace gemma4 {

namespace py = pybind11;

// A loaded model: everything in it is constant except the pool's threads.
struct LoadedModel {
  LoadedModel(ModelConfig config, std::shared_ptr<TensorStore> tensors, const std::string& text_prefix,
              const std::vector<std::string>& ignored_prefixes, int num_threads);

  ModelConfig config;
  std::shared_ptr<TensorStore> store;
  Weights weights;
  ThreadPool pool;
};

// Asks Python, from a thread that has released the GIL, whether to go on: pending signals raise (Ctrl-C), and `stop`,
// if it is not None, may answer True.
Interrupt python_interrupt(const py::object& stop);

void register_errors(py::module_& m);
void bind_config(py::module_& m);
void bind_store(py::module_& m);
void bind_text(py::module_& m);
void bind_sampler(py::module_& m);
void bind_model(py::module_& m);

}  // namespace gemma4
