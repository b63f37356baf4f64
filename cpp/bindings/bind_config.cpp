#include "bindings/bindings.h"
#include "model/config.h"

namespace gemma4 {

void bind_config(py::module_& m) {
  py::class_<LayerSpec>(m, "LayerSpec", "One decoder layer.")
      .def(py::init<>())
      .def_readwrite("sliding", &LayerSpec::sliding)
      .def_readwrite("k_is_v", &LayerSpec::k_is_v)
      .def_readwrite("moe", &LayerSpec::moe)
      .def_readwrite("kv_layer", &LayerSpec::kv_layer)
      .def_readwrite("head_dim", &LayerSpec::head_dim)
      .def_readwrite("kv_heads", &LayerSpec::kv_heads)
      .def_readwrite("ffn", &LayerSpec::ffn)
      .def_readwrite("rope_theta", &LayerSpec::rope_theta)
      .def_readwrite("rope_pairs", &LayerSpec::rope_pairs)
      .def_readwrite("rope_factor", &LayerSpec::rope_factor);
  py::class_<TextConfig>(m, "TextConfig", "Sizes of the text decoder.")
      .def(py::init<>())
      .def_readwrite("vocab", &TextConfig::vocab)
      .def_readwrite("hidden", &TextConfig::hidden)
      .def_readwrite("heads", &TextConfig::heads)
      .def_readwrite("window", &TextConfig::window)
      .def_readwrite("context", &TextConfig::context)
      .def_readwrite("ple_dim", &TextConfig::ple_dim)
      .def_readwrite("ple_vocab", &TextConfig::ple_vocab)
      .def_readwrite("experts", &TextConfig::experts)
      .def_readwrite("experts_used", &TextConfig::experts_used)
      .def_readwrite("expert_ffn", &TextConfig::expert_ffn)
      .def_readwrite("pad_id", &TextConfig::pad_id)
      .def_readwrite("norm_eps", &TextConfig::norm_eps)
      .def_readwrite("logit_cap", &TextConfig::logit_cap)
      .def_readwrite("bidirectional_images", &TextConfig::bidirectional_images)
      .def_readwrite("tied_embeddings", &TextConfig::tied_embeddings)
      .def_readwrite("layers", &TextConfig::layers);
  py::class_<VisionConfig>(m, "VisionConfig", "Sizes of the vision encoder.")
      .def(py::init<>())
      .def_readwrite("hidden", &VisionConfig::hidden)
      .def_readwrite("layers", &VisionConfig::layers)
      .def_readwrite("heads", &VisionConfig::heads)
      .def_readwrite("kv_heads", &VisionConfig::kv_heads)
      .def_readwrite("head_dim", &VisionConfig::head_dim)
      .def_readwrite("ffn", &VisionConfig::ffn)
      .def_readwrite("patch", &VisionConfig::patch)
      .def_readwrite("pool", &VisionConfig::pool)
      .def_readwrite("positions", &VisionConfig::positions)
      .def_readwrite("norm_eps", &VisionConfig::norm_eps)
      .def_readwrite("rope_theta", &VisionConfig::rope_theta)
      .def_readwrite("clipped", &VisionConfig::clipped)
      .def_readwrite("standardize", &VisionConfig::standardize);
  py::class_<ModelConfig>(m, "ModelConfig", "What a checkpoint is.")
      .def(py::init<>())
      .def_readwrite("text", &ModelConfig::text)
      .def_readwrite("vision", &ModelConfig::vision)
      .def("validate", &validate, "Raises ModelFileError naming the field that is out of range or inconsistent.");
}

}  // namespace gemma4
