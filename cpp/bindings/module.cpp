#include "bindings/bindings.h"
#include "kernels/kernels.h"

PYBIND11_MODULE(_core, m) {
  using namespace gemma4;
  m.doc() = "The compiled engine of gemma4: token ids and pixels in, logits and soft tokens out.";
  m.attr("__version__") = GEMMA4_VERSION;
  register_errors(m);
  bind_config(m);
  bind_store(m);
  bind_text(m);
  bind_sampler(m);
  bind_model(m);
  m.def(
      "isa", [] { return std::string(kernels().name); }, "Name of the instruction set in use.");
  m.def(
      "supported_isas",
      [] {
        std::vector<std::string> names;
        for (const Kernels* k : supported_kernels()) names.emplace_back(k->name);
        return names;
      },
      "Instruction sets that this CPU can run, best first.");
  m.def("cpu_features", &cpu_features, "CPU features that the operating system has enabled.");
}
