#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <optional>

#include "bindings/bindings.h"
#include "core/error.h"
#include "model/adapters.h"
#include "model/audio.h"
#include "model/drafter.h"
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
  Interrupt interrupt = python_interrupt();
  const WithoutGil no_gil;
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

  bool begin_as(PySequence& other, size_t position) {
    require(model_.get() == other.model_.get(), ErrorKind::kRequest, "sequences of several models");
    const Use use(*this), other_use(other);
    const WithoutGil no_gil;
    return sequence_.begin_as(other.sequence_, position);
  }

  // The same, of no more memory than it needs.
  std::shared_ptr<PySequence> compact() {
    const size_t position = sequence_.position(), chunk = sequence_.cache().chunk();
    const SequenceOptions options{std::max<size_t>(position, 1), sequence_.cache().dtype(), chunk};
    auto small = std::make_shared<PySequence>(model_, adapter_, options);
    small->begin_as(*this, position);
    return small;
  }

  void restore(size_t position, size_t kept_from, std::vector<size_t> boundaries) {
    const Use use(*this);
    sequence_.restore({position, kept_from, std::move(boundaries)});
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

// Of its cache; each array keeps the sequence alive.
std::vector<py::array_t<uint8_t>> memory_of(const SequencePtr& sequence) {
  const py::object owner = py::cast(sequence);
  std::vector<py::array_t<uint8_t>> found;
  for (const std::span<std::byte> bytes : sequence->sequence().cache().memory()) {
    found.emplace_back(static_cast<py::ssize_t>(bytes.size()), reinterpret_cast<uint8_t*>(bytes.data()), owner);
  }
  return found;
}

// Ids for a sequence, with the memory that they refer to.
class PyInput {
 public:
  // Logits go to `out` where there is one, of (rows, vocab): fresh memory for all logits is paid in page faults.
  PyInput(SequencePtr sequence, const Ids& ids, std::vector<PySoftTokens> soft, const std::string& logits, bool tokens,
          const std::optional<py::array>& out, bool states)
      : sequence_(std::move(sequence)),
        soft_(std::move(soft)),
        wanted_(logits_by_name(logits)),
        out_(checked(ids, out)),
        states_({states ? out_.shape(0) : 0, py::ssize_t{text().hidden}}),
        input_(tokens ? Input::Kind::kTokens : Input::Kind::kPrompt, text(), sequence_->sequence(),
               {ids.data(), static_cast<size_t>(ids.size())}, views(), wanted_,
               static_cast<float*>(out_.mutable_data()), states ? states_.mutable_data() : nullptr) {}

  bool done() const { return input_.done(); }
  py::object logits() const { return wanted_ == Logits::kNone ? py::object(py::none()) : py::object(out_); }
  Rows states() const { return states_; }
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
  Rows states_;    // (rows, hidden), or none
  Input input_;
};

// One step of sequences of one model; `whole`: steps until all inputs are done.
void step(const std::vector<PyInput*>& inputs, bool whole) {
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
  Interrupt interrupt = python_interrupt();
  const WithoutGil no_gil;
  Leases<Stepper>::Lease lease(model.steppers);
  const Compute c{active_isa(), model.pool, interrupt, (*lease).workspace};
  do {
    (*lease).batch.step(c, all);
  } while (whole && !std::ranges::all_of(all, &Input::done));
}

py::object prefill(const SequencePtr& sequence, const Ids& ids, const std::vector<PySoftTokens>& soft,
                   const std::string& logits, const std::optional<py::array>& out) {
  PyInput input(sequence, ids, soft, logits, false, out, false);
  step({&input}, true);
  return input.logits();
}

py::object decode(const SequencePtr& sequence, int32_t token) {
  Ids ids(1);
  *ids.mutable_data() = token;
  PyInput input(sequence, ids, {}, "last", true, std::nullopt, false);
  step({&input}, true);
  return input.logits()[py::int_(0)];
}

// A drafter, its own file, and its target.
class PyDrafter {
 public:
  PyDrafter(ModelPtr model, const DrafterConfig& config, std::shared_ptr<TensorStore> store)
      : model_(std::move(model)),
        store_(std::move(store)),
        config_(fitted(config, model_->config.text)),
        weights_(bind_drafter(config_, *store_)),
        scratches_([this] { return std::make_unique<Scratch>(config_, model_->pool.size()); }) {}

  const std::vector<std::string>& unused() const { return weights_.unused; }

  // At most `most` ids that may follow `token`, which comes next in the sequence.   state: (hidden) of the place before
  std::vector<int32_t> draft(PySequence& sequence, int32_t token, const Rows& state, size_t most, float least) {
    std::vector<int32_t> ids(std::min<size_t>(most, sequence.model()->config.text.vocab));
    work(sequence, token, state, [&](const Drafter& drafter, const Compute& c, float* moving, DrafterScratch& s) {
      Sequence& of = sequence.sequence();
      ids.resize(drafter.draft(c, of.cache(), of.position(), token, moving, least, s, ids));
    });
    return ids;
  }

  // One step, to look into: (ids or nothing for all, logits of these, the next state).
  std::tuple<Ids, Rows, Rows> step(PySequence& sequence, int32_t token, const Rows& state) {
    Ids ids;
    Rows logits, next;
    work(sequence, token, state, [&](const Drafter& drafter, const Compute& c, float* moving, DrafterScratch& s) {
      Sequence& of = sequence.sequence();
      drafter.step(c, of.cache(), of.position(), token, moving, s);
      const WithGil gil;
      ids = Ids(static_cast<py::ssize_t>(s.ids.size()), s.ids.data());
      logits = Rows(static_cast<py::ssize_t>(s.logits.size()), s.logits.data());
      next = Rows(config_.target_hidden, moving);
    });
    return {ids, logits, next};
  }

 private:
  struct Scratch {
    Scratch(const DrafterConfig& config, int threads) : workspace(threads), drafter(config) {}

    Workspace workspace;
    DrafterScratch drafter;
  };

  template <class Body>
  void work(PySequence& sequence, int32_t token, const Rows& state, const Body& body) {
    const TextConfig& target = model_->config.text;
    require(sequence.model() == model_, ErrorKind::kRequest, "a drafter of another model");
    require(state.ndim() == 1 && state.shape(0) == target.hidden, ErrorKind::kRequest,
            "state: expected (" + std::to_string(target.hidden) + ",) float32");
    require(token >= 0 && token < target.vocab && sequence.position() > 0, ErrorKind::kRequest,
            "a draft follows a token of the vocabulary, in a sequence that has begun");
    const PySequence::Use use(sequence);
    std::vector<float> moving(state.data(), state.data() + state.size());
    Interrupt interrupt = python_interrupt();
    const WithoutGil no_gil;
    Leases<Scratch>::Lease lease(scratches_);
    const Compute c{active_isa(), model_->pool, interrupt, (*lease).workspace};
    body(Drafter{config_, weights_, model_->weights.text.embed}, c, moving.data(), (*lease).drafter);
  }

  ModelPtr model_;
  std::shared_ptr<TensorStore> store_;
  DrafterConfig config_;
  DrafterWeights weights_;
  Leases<Scratch> scratches_;
};

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
  Interrupt interrupt = python_interrupt();
  const WithoutGil no_gil;
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

py::array_t<float> encode(LoadedModel& m, const Picture& rgb, const AdapterPtr& changes) {
  const Adapter* adapter = adapter_of(m, changes);
  const ImageView image = view_of(rgb);
  py::array_t<float> out(
      {image_tokens(m.config, image.height, image.width), static_cast<size_t>(m.config.text.hidden)});
  float* rows = out.mutable_data();
  Interrupt interrupt = python_interrupt();
  const WithoutGil no_gil;
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
py::array_t<float> encode_frames(LoadedModel& m, const Rows& frames, const AdapterPtr& changes) {
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
  Interrupt interrupt = python_interrupt();
  const WithoutGil no_gil;
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

void check_threads(int n) {
  require(n >= 1 && n <= 1024, ErrorKind::kRequest, "num_threads is " + std::to_string(n) + ", expected 1..1024");
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
           py::arg("logits") = "last", py::arg("out") = py::none())
      .def("decode", &decode, py::arg("token"))
      .def("rewind", &PySequence::rewind, py::arg("position"))
      .def_property_readonly("boundaries", &PySequence::boundaries)
      .def("begin_as", &PySequence::begin_as, py::arg("other"), py::arg("position"))
      .def("compact", &PySequence::compact)
      .def("restore", &PySequence::restore, py::arg("position"), py::arg("kept_from"), py::arg("boundaries"))
      .def("memory", &memory_of)
      .def_property_readonly("kept_from", [](PySequence& s) { return s.sequence().saved().kept_from; })
      .def_property_readonly("chunk", [](PySequence& s) { return s.sequence().cache().chunk(); })
      .def("kv_bytes", &PySequence::kv_bytes);
  py::class_<PyInput>(m, "Input", "Ids that a sequence is to take: a prompt, or tokens each as if it came alone.")
      .def(py::init<SequencePtr, const Ids&, std::vector<PySoftTokens>, const std::string&, bool,
                    const std::optional<py::array>&, bool>(),
           py::arg("sequence"), py::arg("ids"), py::arg("soft") = std::vector<PySoftTokens>{},
           py::arg("logits") = "last", py::arg("tokens") = false, py::arg("out") = py::none(),
           py::arg("states") = false)
      .def_property_readonly("done", &PyInput::done)
      .def_property_readonly("logits", &PyInput::logits)
      .def_property_readonly("states", &PyInput::states);
  m.def(
      "step", [](const std::vector<PyInput*>& inputs) { step(inputs, false); },
      "One step: the next chunk of the first prompt, and all tokens of the other inputs.", py::arg("inputs"));
  py::class_<PyDrafter>(m, "Drafter", "Guesses the next ids of a model's sequences.")
      .def(py::init<ModelPtr, const DrafterConfig&, std::shared_ptr<TensorStore>>(), py::arg("model"),
           py::arg("config"), py::arg("store"))
      .def_property_readonly("unused", &PyDrafter::unused)
      .def("draft", &PyDrafter::draft, py::arg("sequence"), py::arg("token"), py::arg("state"), py::arg("most"),
           py::arg("least") = 0.0f)
      .def("step", &PyDrafter::step, py::arg("sequence"), py::arg("token"), py::arg("state"));
  m.def("resample", &resampled, py::arg("rgb"), py::arg("height"), py::arg("width"));
  py::class_<LoadedModel, ModelPtr>(m, "Model", "A checkpoint bound to its config.")
      .def(py::init([](const ModelConfig& config, std::shared_ptr<TensorStore> store, const std::string& prefix,
                       const std::vector<std::string>& ignored, int threads) {
             check_threads(threads);
             const WithoutGil no_gil;
             return std::make_shared<LoadedModel>(config, std::move(store), prefix, ignored, threads);
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
      .def("encode_image", &encode, py::arg("rgb"), py::arg("adapter") = py::none())
      .def("encode_audio", &encode_frames, py::arg("frames"), py::arg("adapter") = py::none());
  py::class_<PyAdapter, AdapterPtr>(m, "Adapter", "What a fine-tuning adds to a model's matrices.")
      .def(py::init(&load_adapter), py::arg("model"), py::arg("store"), py::arg("parts"));
}

}  // namespace gemma4
