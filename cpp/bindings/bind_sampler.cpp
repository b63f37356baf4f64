#include <optional>

#include "bindings/bindings.h"
#include "core/error.h"
#include "engine/sampler.h"

namespace gemma4 {
namespace {

using Floats = Array<float>;
using Ids = Array<int32_t>;
using Words = Array<uint32_t>;

// None, or the (ceil(vocab / 32)) words of a mask.
const uint32_t* mask_words(const std::optional<Words>& allowed, size_t vocab) {
  if (!allowed) return nullptr;
  const size_t expected = (vocab + 31) / 32;
  require(static_cast<size_t>(allowed->size()) == expected, ErrorKind::kRequest,
          "allowed: expected " + std::to_string(expected) + " words for " + std::to_string(vocab) + " logits, found " +
              std::to_string(allowed->size()));
  return allowed->data();
}

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
          [](Sampler& s, const Floats& logits, const Ids& history, const std::optional<Words>& allowed) {
            const size_t vocab = logits.size();
            const Choice c = s.sample(logits.data(), vocab, history.data(), history.size(), mask_words(allowed, vocab));
            return py::make_tuple(c.id, c.logprob);
          },
          py::arg("logits"), py::arg("history"), py::arg("allowed") = py::none());
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
