#include "bindings/bindings.h"
#include "engine/sampler.h"

namespace gemma4 {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<int32_t, py::array::c_style>;

}  // namespace

void bind_sampler(py::module_& m) {
  py::class_<SamplingOptions>(m, "SamplingOptions", "How the next token is chosen.")
      .def(py::init<>())
      .def_readwrite("temperature", &SamplingOptions::temperature)
      .def_readwrite("top_k", &SamplingOptions::top_k)
      .def_readwrite("top_p", &SamplingOptions::top_p)
      .def_readwrite("min_p", &SamplingOptions::min_p)
      .def_readwrite("repetition_penalty", &SamplingOptions::repetition_penalty);
  py::class_<Sampler>(m, "Sampler", "Chooses token ids from logits; deterministic for a seed.")
      .def(py::init<const SamplingOptions&, uint64_t>(), py::arg("options"), py::arg("seed"))
      .def(
          "sample",
          [](Sampler& s, const Floats& logits, const Ids& history) {
            const Choice c = s.sample(logits.data(), logits.size(), history.data(), history.size());
            return py::make_tuple(c.id, c.logprob);
          },
          py::arg("logits"), py::arg("history"));
  m.def(
      "top_logprobs",
      [](const Floats& logits, size_t n) {
        py::list best;
        for (const Choice& c : top_logprobs(logits.data(), logits.size(), n)) {
          best.append(py::make_tuple(c.id, c.logprob));
        }
        return best;
      },
      py::arg("logits"), py::arg("n"), "The n most likely ids with their log-probabilities.");
}

}  // namespace gemma4
