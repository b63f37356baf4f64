#include "bindings/bindings.h"
#include "model/config.h"

namespace gemma4 {
namespace {

void bind_text_config(py::module_& m) {
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
      .def_readwrite("placeholders", &TextConfig::placeholders)
      .def_readwrite("norm_eps", &TextConfig::norm_eps)
      .def_readwrite("logit_cap", &TextConfig::logit_cap)
      .def_readwrite("bidirectional_images", &TextConfig::bidirectional_images)
      .def_readwrite("whole_images", &TextConfig::whole_images)
      .def_readwrite("tied_embeddings", &TextConfig::tied_embeddings)
      .def_readwrite("layers", &TextConfig::layers);
}

void bind_encoder_configs(py::module_& m) {
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
  py::class_<AudioConfig>(m, "AudioConfig", "Sizes of the audio encoder.")
      .def(py::init<>())
      .def_readwrite("mel_bins", &AudioConfig::mel_bins)
      .def_readwrite("hidden", &AudioConfig::hidden)
      .def_readwrite("layers", &AudioConfig::layers)
      .def_readwrite("heads", &AudioConfig::heads)
      .def_readwrite("channels1", &AudioConfig::channels1)
      .def_readwrite("channels2", &AudioConfig::channels2)
      .def_readwrite("conv_kernel", &AudioConfig::conv_kernel)
      .def_readwrite("chunk", &AudioConfig::chunk)
      .def_readwrite("left", &AudioConfig::left)
      .def_readwrite("right", &AudioConfig::right)
      .def_readwrite("out", &AudioConfig::out)
      .def_readwrite("norm_eps", &AudioConfig::norm_eps)
      .def_readwrite("residual_weight", &AudioConfig::residual_weight)
      .def_readwrite("logit_cap", &AudioConfig::logit_cap)
      .def_readwrite("gradient_clip", &AudioConfig::gradient_clip)
      .def_readwrite("clipped", &AudioConfig::clipped);
}

void bind_encoderless_configs(py::module_& m) {
  py::class_<PixelConfig>(m, "PixelConfig", "Sizes of vision without an encoder.")
      .def(py::init<>())
      .def_readwrite("side", &PixelConfig::side)
      .def_readwrite("width", &PixelConfig::width)
      .def_readwrite("positions", &PixelConfig::positions)
      .def_readwrite("norm_eps", &PixelConfig::norm_eps);
  py::class_<SampleConfig>(m, "SampleConfig", "Sizes of audio without an encoder.")
      .def(py::init<>())
      .def_readwrite("frame", &SampleConfig::frame)
      .def_readwrite("norm_eps", &SampleConfig::norm_eps);
}

}  // namespace

void bind_config(py::module_& m) {
  bind_text_config(m);
  bind_encoder_configs(m);
  bind_encoderless_configs(m);
  py::class_<DrafterConfig>(m, "DrafterConfig", "What a drafter is.")
      .def(py::init<>())
      .def_readwrite("text", &DrafterConfig::text)
      .def_readwrite("target_hidden", &DrafterConfig::target_hidden)
      .def_readwrite("centroids", &DrafterConfig::centroids)
      .def_readwrite("centroids_used", &DrafterConfig::centroids_used);
  py::class_<ModelConfig>(m, "ModelConfig", "What a checkpoint is.")
      .def(py::init<>())
      .def_readwrite("text", &ModelConfig::text)
      .def_readwrite("vision", &ModelConfig::vision)
      .def_readwrite("audio", &ModelConfig::audio)
      .def_readwrite("pixels", &ModelConfig::pixels)
      .def_readwrite("samples", &ModelConfig::samples)
      .def("validate", &validate, "Raises ModelFileError naming the field that is out of range or inconsistent.");
}

}  // namespace gemma4
