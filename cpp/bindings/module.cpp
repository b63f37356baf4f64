#include "bindings/bindings.h"
#include "kernels/isa.h"

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
      "isa", [] { return std::string(active_isa().name); }, "Name of the instruction set in use.");
  m.def(
      "supported_isas",
      [] {
        std::vector<std::string> names;
        for (const Isa* isa : supported_isas()) names.emplace_back(isa->name);
        return names;
      },
      "Instruction sets that this CPU can run, best first.");
  m.def("cpu_features", &cpu_features, "CPU features that the operating system has enabled.");
}
