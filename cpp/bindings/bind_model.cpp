#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <optional>

#include "bindings/bindings.h"
#include "core/error.h"
#include "model/adapters.h"
#include "model/audio.h"
#include "model/projectors.h"
#include "model/resample.h"
#include "model/vision.h"

namespace gemma4 {

LoadedModel::LoadedModel(ModelConfig c, std::shared_ptr<TensorStore> tensors, const std::string& text_prefix,
                         const std::vector<std::string>& ignored_prefixes, int num_threads)
    : config((validate(c), std::move(c))),
      store(std::move(tensors)),
      weights(bind_weights(config, *store, text_prefix, ignored_prefixes)),
      pool(num_threads),
      workspaces([this] { return std::make_unique<Workspace>(pool.size()); }),
      steppers([this] { return std::make_unique<Stepper>(config, weights, pool.size()); }) {
  single_threaded_blas();
}

namespace {

using Rows = Array<float>;
using Ids = Array<int32_t>;
using Picture = py::array_t<uint8_t, 0>;  // read where it lies, with the strides that `view_of` allows
using ModelPtr = std::shared_ptr<LoadedModel>;

// An adapter, the model whose weights it changes, and its own file.
struct PyAdapter {
  ModelPtr model;
  std::shared_ptr<TensorStore> store;
  Adapter adapter;
};
using AdapterPtr = std::shared_ptr<PyAdapter>;

// What to compute with: null for none.
const Adapter* adapter_of(const LoadedModel& m, const AdapterPtr& adapter) {
  if (adapter == nullptr) return nullptr;
  require(adapter->model.get() == &m, ErrorKind::kRequest, "adapter: it belongs to another model");
  return &adapter->adapter;
}

// (module, a, b, rank, scale, magnitude or "")
using PyPart = std::tuple<std::string, std::string, std::string, size_t, float, std::string>;

AdapterPtr load_adapter(ModelPtr model, std::shared_ptr<TensorStore> store, const std::vector<PyPart>& given) {
  std::vector<AdapterPart> parts;
  for (const auto& [module, a, b, rank, scale, magnitude] : given) {
    parts.push_back({module, a, b, rank, scale, magnitude});
  }
  Interrupt interrupt = python_interrupt(py::none());
  py::gil_scoped_release no_gil;
  Leases<Workspace>::Lease workspace(model->workspaces);
  const Compute c{active_isa(), model->pool, interrupt, *workspace};
  Adapter adapter(c, model->config, model->weights, store, parts);
  return std::make_shared<PyAdapter>(PyAdapter{std::move(model), std::move(store), std::move(adapter)});
}

struct PySoftTokens {
  size_t start;
  Rows rows;  // (n, hidden)
  bool image;
};

Logits logits_by_name(const std::string& name) {
  if (name == "last") return Logits::kLast;
  if (name == "all") return Logits::kAll;
  if (name == "none") return Logits::kNone;
  fail(ErrorKind::kRequest, "logits is \"" + name + "\", expected \"last\", \"all\" or \"none\"");
}

DType kv_dtype_by_name(const std::string& name) {
  if (name == "f32") return DType::kF32;
  if (name == "bf16") return DType::kBF16;
  if (name == "q8_0") return DType::kQ8_0;
  if (name == "q4_0") return DType::kQ4_0;
  fail(ErrorKind::kRequest, "kv_cache is \"" + name + "\", expected \"f32\", \"bf16\", \"q8_0\" or \"q4_0\"");
}

class PySequence {
 public:
  PySequence(ModelPtr model, AdapterPtr adapter, SequenceOptions options)
      : model_(std::move(model)),
        adapter_(std::move(adapter)),
        sequence_(model_->config.text, (options.adapter = adapter_of(*model_, adapter_), options)) {}

  bool rewind(size_t position) {
    const Use use(*this);
    return sequence_.rewind(position);
  }

  bool begin_as(PySequence& other, size_t boundary) {
    require(model_.get() == other.model_.get(), ErrorKind::kRequest, "sequences of several models");
    const Use use(*this), other_use(other);
    return sequence_.begin_as(other.sequence_, boundary);
  }

  std::vector<size_t> boundaries() const { return {sequence_.boundaries().begin(), sequence_.boundaries().end()}; }

  const ModelPtr& model() const { return model_; }
  Sequence& sequence() { return sequence_; }
  size_t position() const { return sequence_.position(); }
  size_t kv_bytes() const { return sequence_.kv_bytes(); }

  // Of one thread.
  class Use {
   public:
    explicit Use(PySequence& s) : busy_(s.busy_) {
      require(!busy_.test_and_set(), ErrorKind::kRequest, "this sequence is in use by another thread");
    }
    ~Use() { busy_.clear(); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    std::atomic_flag& busy_;
  };

 private:
  ModelPtr model_;
  AdapterPtr adapter_;
  Sequence sequence_;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};
using SequencePtr = std::shared_ptr<PySequence>;

// Ids for a sequence, with the memory that they refer to.
class PyInput {
 public:
  // Logits go to `out` where there is one, of (rows, vocab): fresh memory for all logits is paid in page faults.
  PyInput(SequencePtr sequence, const Ids& ids, std::vector<PySoftTokens> soft, const std::string& logits, bool tokens,
          const std::optional<py::array>& out)
      : sequence_(std::move(sequence)),
        soft_(std::move(soft)),
        wanted_(logits_by_name(logits)),
        out_(checked(ids, out)),
        input_(tokens ? Input::Kind::kTokens : Input::Kind::kPrompt, text(), sequence_->sequence(),
               {ids.data(), static_cast<size_t>(ids.size())}, views(), wanted_,
               static_cast<float*>(out_.mutable_data())) {}

  bool done() const { return input_.done(); }
  py::object logits() const { return wanted_ == Logits::kNone ? py::object(py::none()) : py::object(out_); }
  PySequence& sequence() { return *sequence_; }
  Input& input() { return input_; }

 private:
  const TextConfig& text() const { return sequence_->model()->config.text; }

  py::array checked(const Ids& ids, const std::optional<py::array>& out) const {
    require(ids.ndim() == 1, ErrorKind::kRequest, "ids: expected a 1-D array");
    const size_t n = ids.size(), rows = wanted_ == Logits::kAll ? n : wanted_ == Logits::kLast && n > 0 ? 1 : 0;
    const size_t vocab = text().vocab;
    py::array to = out ? *out : py::array(Rows({rows, vocab}));
    require(is_plain<float>(to) && to.writeable() && to.ndim() == 2 && static_cast<size_t>(to.shape(0)) == rows &&
                static_cast<size_t>(to.shape(1)) == vocab,
            ErrorKind::kRequest,
            "out: expected a contiguous float32 array of (" + std::to_string(rows) + ", " + std::to_string(vocab) +
                ") that may be written");
    return to;
  }

  std::vector<SoftTokens> views() const {
    std::vector<SoftTokens> out;
    for (const PySoftTokens& s : soft_) {
      require(s.rows.ndim() == 2 && s.rows.shape(1) == text().hidden, ErrorKind::kRequest,
              "soft tokens: expected (n, " + std::to_string(text().hidden) + ") float32");
      out.push_back({s.start, static_cast<size_t>(s.rows.shape(0)), s.rows.data(), s.image});
    }
    return out;
  }

  SequencePtr sequence_;
  std::vector<PySoftTokens> soft_;
  Logits wanted_;
  py::array out_;  // (rows, vocab)
  Input input_;
};

// One step of sequences of one model; `whole`: steps until all inputs are done.
void step(const std::vector<PyInput*>& inputs, const py::object& stop, bool whole) {
  if (inputs.empty()) return;
  LoadedModel& model = *inputs[0]->sequence().model();
  std::deque<PySequence::Use> uses;
  std::vector<Input*> all;
  for (PyInput* input : inputs) {
    require(input->sequence().model().get() == &model, ErrorKind::kRequest, "inputs of several models");
    require(all.empty() || std::ranges::find(all, &input->input()) == all.end(), ErrorKind::kRequest,
            "one input twice");
    uses.emplace_back(input->sequence());
    all.push_back(&input->input());
  }
  Interrupt interrupt = python_interrupt(stop);
  py::gil_scoped_release no_gil;
  Leases<Stepper>::Lease lease(model.steppers);
  const Compute c{active_isa(), model.pool, interrupt, (*lease).workspace};
  do {
    (*lease).batch.step(c, all);
  } while (whole && !std::ranges::all_of(all, &Input::done));
}

py::object prefill(const SequencePtr& sequence, const Ids& ids, const std::vector<PySoftTokens>& soft,
                   const std::string& logits, const py::object& stop, const std::optional<py::array>& out) {
  PyInput input(sequence, ids, soft, logits, false, out);
  step({&input}, stop, true);
  return input.logits();
}

py::object decode(const SequencePtr& sequence, int32_t token) {
  Ids ids(1);
  *ids.mutable_data() = token;
  PyInput input(sequence, ids, {}, "last", true, std::nullopt);
  step({&input}, py::none(), true);
  return input.logits()[py::int_(0)];
}

size_t image_tokens(const ModelConfig& config, size_t height, size_t width) {
  require(config.vision || config.pixels, ErrorKind::kMedia, "this model has no vision: it cannot take pictures");
  return config.vision ? soft_token_count(*config.vision, height, width)
                       : soft_token_count(*config.pixels, height, width);
}

ImageView view_of(const Picture& rgb) {
  constexpr py::ssize_t kMostPixels = py::ssize_t{1} << 30;
  require(rgb.ndim() == 3 && rgb.shape(2) == 3, ErrorKind::kMedia, "rgb: expected (height, width, 3) uint8");
  require(rgb.size() > 0 && rgb.shape(0) <= kMostPixels / rgb.shape(1), ErrorKind::kMedia,
          "rgb: a picture without pixels, or of more than 2^30");
  require(rgb.strides(2) == 1 && rgb.strides(1) == 3 && rgb.strides(0) >= 0, ErrorKind::kMedia,
          "rgb: the pixels of a row are not contiguous");
  return {rgb.data(), static_cast<size_t>(rgb.shape(0)), static_cast<size_t>(rgb.shape(1)),
          static_cast<size_t>(rgb.strides(0))};
}

py::array_t<uint8_t> resampled(const Picture& rgb, size_t height, size_t width) {
  constexpr size_t kMostPixels = size_t{1} << 30;
  const ImageView image = view_of(rgb);
  require(height > 0 && width > 0 && width <= kMostPixels && height <= kMostPixels / width, ErrorKind::kMedia,
          "resample: a picture without pixels, or of more than 2^30");
  py::array_t<uint8_t> out({height, width, size_t{3}});
  uint8_t* to = out.mutable_data();
  Interrupt interrupt = python_interrupt(py::none());
  py::gil_scoped_release no_gil;
  resample(interrupt, image.rgb, image.stride, {image.height, image.width}, {height, width}, to);
  return out;
}

bool all_finite(const float* x, size_t n) {
  return std::all_of(x, x + n, [](float v) { return std::isfinite(v); });
}

// soft (n): what an encoder made of a sound input
void require_finite(const float* soft, size_t n) {
  require(all_finite(soft, n), ErrorKind::kModelFile,
          "the soft tokens are not finite: the weights of the encoder hold NaN or infinite values");
}

py::array_t<float> encode(LoadedModel& m, const Picture& rgb, const py::object& stop, const AdapterPtr& changes) {
  const Adapter* adapter = adapter_of(m, changes);
  const ImageView image = view_of(rgb);
  py::array_t<float> out(
      {image_tokens(m.config, image.height, image.width), static_cast<size_t>(m.config.text.hidden)});
  float* rows = out.mutable_data();
  Interrupt interrupt = python_interrupt(stop);
  py::gil_scoped_release no_gil;
  Leases<Workspace>::Lease workspace(m.workspaces);
  const Compute c{active_isa(), m.pool, interrupt, *workspace};
  if (m.config.vision) {
    encode_image(c, *m.config.vision, m.weights.vision, image, rows, adapter);
  } else {
    project_image(c, *m.config.pixels, m.weights.pixels, image, rows, adapter);
  }
  require_finite(rows, out.size());
  return out;
}

// frames: (n, mel_bins), or (n, samples of a frame)
py::array_t<float> encode_frames(LoadedModel& m, const Rows& frames, const py::object& stop,
                                 const AdapterPtr& changes) {
  const Adapter* adapter = adapter_of(m, changes);
  const ModelConfig& config = m.config;
  require(config.audio || config.samples, ErrorKind::kMedia, "this model has no audio: it cannot take sounds");
  const int values = config.audio ? config.audio->mel_bins : config.samples->frame;
  require(frames.ndim() == 2 && frames.shape(1) == values, ErrorKind::kMedia,
          "frames: expected (n, " + std::to_string(values) + ") float32");
  require(all_finite(frames.data(), static_cast<size_t>(frames.size())), ErrorKind::kMedia,
          "frames: expected finite numbers");
  const auto n = static_cast<size_t>(frames.shape(0));
  py::array_t<float> out({config.audio ? audio_soft_tokens(n) : n, static_cast<size_t>(config.text.hidden)});
  const float* in = frames.data();
  float* rows = out.mutable_data();
  Interrupt interrupt = python_interrupt(stop);
  py::gil_scoped_release no_gil;
  Leases<Workspace>::Lease workspace(m.workspaces);
  const Compute c{active_isa(), m.pool, interrupt, *workspace};
  if (config.audio) {
    encode_audio(c, *config.audio, m.weights.audio, in, n, rows, adapter);
  } else {
    project_frames(c, *config.samples, m.weights.samples, in, n, rows, adapter);
  }
  require_finite(rows, out.size());
  return out;
}

int checked_threads(int n) {
  require(n >= 1 && n <= 1024, ErrorKind::kRequest, "num_threads is " + std::to_string(n) + ", expected 1..1024");
  return n;
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<PySoftTokens>(m, "SoftTokens", "Rows (n, hidden) that stand at prompt positions from `start` on.")
      .def(py::init([](size_t start, Rows rows, bool image) {
             return PySoftTokens{start, std::move(rows), image};
           }),
           py::arg("start"), py::arg("rows"), py::arg("image"));
  py::class_<PySequence, SequencePtr>(m, "Sequence", "The state of one sequence.")
      .def_property_readonly("position", &PySequence::position)
      .def("prefill", &prefill, py::arg("ids"), py::arg("soft") = std::vector<PySoftTokens>{},
           py::arg("logits") = "last", py::arg("stop") = py::none(), py::arg("out") = py::none())
      .def("decode", &decode, py::arg("token"))
      .def("rewind", &PySequence::rewind, py::arg("position"))
      .def_property_readonly("boundaries", &PySequence::boundaries)
      .def("begin_as", &PySequence::begin_as, py::arg("other"), py::arg("boundary"))
      .def("kv_bytes", &PySequence::kv_bytes);
  py::class_<PyInput>(m, "Input", "Ids that a sequence is to take: a prompt, or tokens each as if it came alone.")
      .def(py::init<SequencePtr, const Ids&, std::vector<PySoftTokens>, const std::string&, bool,
                    const std::optional<py::array>&>(),
           py::arg("sequence"), py::arg("ids"), py::arg("soft") = std::vector<PySoftTokens>{},
           py::arg("logits") = "last", py::arg("tokens") = false, py::arg("out") = py::none())
      .def_property_readonly("done", &PyInput::done)
      .def_property_readonly("logits", &PyInput::logits);
  m.def(
      "step", [](const std::vector<PyInput*>& inputs, const py::object& stop) { step(inputs, stop, false); },
      "One step: the next chunk of the first prompt, and all tokens of the other inputs.", py::arg("inputs"),
      py::arg("stop") = py::none());
  m.def("resample", &resampled, py::arg("rgb"), py::arg("height"), py::arg("width"));
  py::class_<LoadedModel, ModelPtr>(m, "Model", "A checkpoint bound to its config.")
      .def(py::init([](const ModelConfig& config, std::shared_ptr<TensorStore> store, const std::string& prefix,
                       const std::vector<std::string>& ignored, int threads) {
             return std::make_shared<LoadedModel>(config, std::move(store), prefix, ignored, checked_threads(threads));
           }),
           py::arg("config"), py::arg("store"), py::arg("text_prefix"), py::arg("ignored_prefixes"),
           py::arg("num_threads"))
      .def_property_readonly("unused", [](const LoadedModel& m) { return m.weights.unused; })
      .def_property_readonly("num_threads", [](const LoadedModel& m) { return m.pool.size(); })
      .def(
          "sequence",
          [](const ModelPtr& model, size_t max_context, const std::string& kv_dtype, std::optional<size_t> chunk,
             AdapterPtr adapter) {
            return std::make_shared<PySequence>(model, std::move(adapter),
                                                SequenceOptions{max_context, kv_dtype_by_name(kv_dtype), chunk});
          },
          py::arg("max_context"), py::arg("kv_dtype") = "bf16", py::arg("chunk") = py::none(),
          py::arg("adapter") = py::none())
      .def("workspace_bytes", [](const LoadedModel& m) { return m.workspaces.bytes() + m.steppers.bytes(); })
      .def("encode_image", &encode, py::arg("rgb"), py::arg("stop") = py::none(), py::arg("adapter") = py::none())
      .def("encode_audio", &encode_frames, py::arg("frames"), py::arg("stop") = py::none(),
           py::arg("adapter") = py::none());
  py::class_<PyAdapter, AdapterPtr>(m, "Adapter", "What a fine-tuning adds to a model's matrices.")
      .def(py::init(&load_adapter), py::arg("model"), py::arg("store"), py::arg("parts"));
}

}  // namespace gemma4
