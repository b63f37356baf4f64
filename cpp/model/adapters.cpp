// Adapters: see adapters.h for the contract.
#include "model/adapters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "core/checked.h"
#include "model/quants.h"

namespace gemma4 {
namespace {

// --- names -----------------------------------------------------------------------------------------------------------

// A linear of a model, or the experts of a layer.
struct Module {
  const TensorView* w;  // null where the model has it but reads nothing of it
  size_t out, in;
  size_t experts = 0;
};

using Modules = std::map<std::string, Module>;

void add(Modules& modules, const std::string& name, const Matrix& w) {
  if (!w.empty()) modules[name] = {&w, w.shape[0], w.shape[1]};
}

void add_text_layer(Modules& modules, const TextConfig& c, int index, const TextLayerWeights& w) {
  const std::string at = "layers." + std::to_string(index) + ".";
  const LayerSpec& spec = c.layers[index];
  const size_t hidden = c.hidden;
  add(modules, at + "self_attn.q_proj", w.q);
  add(modules, at + "self_attn.k_proj", w.k);
  add(modules, at + "self_attn.v_proj", w.v);
  add(modules, at + "self_attn.o_proj", w.o);
  if (!c.owns_kv(index)) {
    // Some trainers give these layers projections that nothing reads, in the model as in its adapters.
    const size_t width = size_t(spec.kv_heads) * spec.head_dim;
    for (const char* name : {"self_attn.k_proj", "self_attn.v_proj"}) modules[at + name] = {nullptr, width, hidden};
  }
  add(modules, at + "mlp.gate_proj", w.gate);
  add(modules, at + "mlp.up_proj", w.up);
  add(modules, at + "mlp.down_proj", w.down);
  add(modules, at + "router.proj", w.router);
  if (spec.moe) {
    const size_t experts = c.experts, width = c.expert_ffn;
    modules[at + "experts.gate_up_proj"] = {&w.expert_gate_up[0], 2 * width, hidden, experts};
    modules[at + "experts.down_proj"] = {&w.expert_down, hidden, width, experts};
  }
  add(modules, at + "per_layer_input_gate", w.ple_gate);
  add(modules, at + "per_layer_projection", w.ple_out);
}

void add_vision(Modules& modules, const VisionWeights& w) {
  const std::string tower = "vision_tower.";
  add(modules, tower + "patch_embedder.input_proj", w.patch);
  for (size_t i = 0; i < w.layers.size(); ++i) {
    const VisionLayerWeights& layer = w.layers[i];
    const std::string at = tower + "encoder.layers." + std::to_string(i) + ".";
    add(modules, at + "self_attn.q_proj.linear", layer.q.w);
    add(modules, at + "self_attn.k_proj.linear", layer.k.w);
    add(modules, at + "self_attn.v_proj.linear", layer.v.w);
    add(modules, at + "self_attn.o_proj.linear", layer.o.w);
    add(modules, at + "mlp.gate_proj.linear", layer.gate.w);
    add(modules, at + "mlp.up_proj.linear", layer.up.w);
    add(modules, at + "mlp.down_proj.linear", layer.down.w);
  }
  add(modules, "embed_vision.embedding_projection", w.projection);
}

void add_audio(Modules& modules, const AudioWeights& w) {
  const std::string tower = "audio_tower.";
  add(modules, tower + "subsample_conv_projection.input_proj_linear", w.input);
  for (size_t i = 0; i < w.layers.size(); ++i) {
    const AudioLayerWeights& layer = w.layers[i];
    const std::string at = tower + "layers." + std::to_string(i) + ".";
    add(modules, at + "feed_forward1.ffw_layer_1.linear", layer.ffn1.up.w);
    add(modules, at + "feed_forward1.ffw_layer_2.linear", layer.ffn1.down.w);
    add(modules, at + "self_attn.q_proj.linear", layer.q.w);
    add(modules, at + "self_attn.k_proj.linear", layer.k.w);
    add(modules, at + "self_attn.v_proj.linear", layer.v.w);
    add(modules, at + "self_attn.post.linear", layer.o.w);
    add(modules, at + "self_attn.relative_k_proj", layer.relative_k);
    add(modules, at + "lconv1d.linear_start.linear", layer.conv_in.w);
    add(modules, at + "lconv1d.linear_end.linear", layer.conv_out.w);
    add(modules, at + "feed_forward2.ffw_layer_1.linear", layer.ffn2.up.w);
    add(modules, at + "feed_forward2.ffw_layer_2.linear", layer.ffn2.down.w);
  }
  add(modules, tower + "output_proj", w.output);
  add(modules, "embed_audio.embedding_projection", w.projection);
}

// Every module that an adapter may change, under the names of the reference's modules.
Modules modules_of(const ModelConfig& config, const Weights& w) {
  Modules modules;
  for (size_t i = 0; i < w.text.layers.size(); ++i) {
    add_text_layer(modules, config.text, static_cast<int>(i), w.text.layers[i]);
  }
  add(modules, "per_layer_model_projection", w.text.ple_proj);
  add(modules, "lm_head", w.text.head);
  add_vision(modules, w.vision);
  add_audio(modules, w.audio);
  // Without encoders; checkpoints and the reference's modules spell these two apart.
  for (const char* at : {"vision_embedder.", "embed_vision."}) {
    add(modules, at + std::string("patch_dense"), w.pixels.dense);
  }
  for (const char* at : {"embed_vision.", "embed_vision.multimodal_embedder."}) {
    add(modules, at + std::string("embedding_projection"), w.pixels.projection);
  }
  add(modules, "embed_audio.embedding_projection", w.samples.projection);
  return modules;
}

// --- tensors ---------------------------------------------------------------------------------------------------------

std::string list(const std::string& title, const std::vector<std::string>& items) {
  if (items.empty()) return "";
  constexpr size_t kMost = 5;
  std::string s;
  s.append(" ").append(std::to_string(items.size())).append(" ").append(title).append(":");
  for (size_t i = 0; i < std::min(items.size(), kMost); ++i) s.append(i > 0 ? ", " : " ").append(items[i]);
  return s.append(items.size() > kMost ? ", …;" : ";");
}

std::string describe(std::span<const size_t> shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return s + ")";
}

// Takes tensors by name, and remembers what was wrong.
class Reader {
 public:
  explicit Reader(const TensorStore& store) : store_(store) {}

  // An empty view where it does not fit.
  TensorView tensor(const std::string& name, const std::vector<size_t>& shape) {
    const TensorView* t = store_.find(name);
    const std::span<const size_t> found(t == nullptr ? nullptr : t->shape.data(), t == nullptr ? 0 : t->rank);
    if (t != nullptr && std::ranges::equal(found, shape)) {
      if (t->dtype == DType::kF32 || t->dtype == DType::kF16 || t->dtype == DType::kBF16) return *t;
      wrong_.push_back(name + ": expected F32, F16 or BF16, found " + std::string(traits(t->dtype).name));
      return {};
    }
    wrong_.push_back(name + ": expected " + describe(shape) +
                     (t == nullptr ? ", found none" : ", found " + describe(found)));
    return {};
  }

  void unknown(const AdapterPart& part) { unknown_.push_back(part.module + " (" + part.a + ")"); }

  void finish() const {
    if (unknown_.empty() && wrong_.empty()) return;
    fail(ErrorKind::kModelFile, "the adapter does not fit the model;" +
                                    list("changes of linears that the model does not have", unknown_) +
                                    list("mis-shaped", wrong_));
  }

 private:
  const TensorStore& store_;
  std::vector<std::string> unknown_, wrong_;
};

// (out, rank * experts), the expert last, as (experts, out, rank).
std::vector<std::byte> regroup(const TensorView& b, size_t experts) {
  const size_t out = b.shape[0], rank = b.shape[1] / experts, size = traits(b.dtype).block_bytes;
  std::vector<std::byte> to(b.elements() * size);
  for (size_t o = 0; o < out; ++o) {
    for (size_t r = 0; r < rank; ++r) {
      const std::byte* from = b.row(o) + r * experts * size;
      for (size_t e = 0; e < experts; ++e) {
        std::memcpy(to.data() + ((e * out + o) * rank + r) * size, from + e * size, size);
      }
    }
  }
  return to;
}

// magnitude / norm of each row of w + scale * b a: what makes the rows as long as the magnitudes say.
//   magnitude: (out)
std::vector<float> row_factors(const Compute& c, const TensorView& w, const LowRank& part, const TensorView& magnitude,
                               const std::string& name) {
  const size_t out = w.shape[0], in = w.shape[1], rank = part.a.rows();
  std::vector<float> a(rank * in), factors(out);
  c.k.of(part.a.dtype).to_f32(part.a.data, a.data(), a.size());
  c.k.of(magnitude.dtype).to_f32(magnitude.data, factors.data(), out);
  std::vector<std::vector<float>> rows(c.pool.size(), std::vector<float>(in + rank));
  c.pool.parallel_for(out, [&](size_t o, int thread) {
    if (thread == 0) c.interrupt.check();
    float* row = rows[thread].data();
    float* weights = row + in;
    row_to_f32(c.k, w, o, row);
    c.k.of(part.b.dtype).to_f32(part.b.row(o), weights, rank);
    c.k.scale(part.scale, weights, weights, rank);
    c.k.of(DType::kF32).rows_axpy({a.data(), in * sizeof(float), rank, in}, {weights, rank, 1}, {row, in});
    double squares = 0;
    for (size_t i = 0; i < in; ++i) squares += static_cast<double>(row[i]) * row[i];
    factors[o] = static_cast<float>(factors[o] / std::sqrt(squares));
  });
  const auto bad = std::ranges::find_if_not(factors, [](float v) { return std::isfinite(v); });
  require(bad == factors.end(), ErrorKind::kModelFile,
          name + "[" + std::to_string(bad - factors.begin()) +
              "]: the magnitude, or the length of the row that it is for, is not a finite number above zero");
  return factors;
}

// --- arithmetic ------------------------------------------------------------------------------------------------------

// Rows of x, of a and of b that one item multiplies.
constexpr size_t kItemRows = 16;
constexpr size_t kItemRank = 16;
constexpr size_t kItemOut = 1024;
// Up to so many multiplications are over before another thread is awake.
constexpr size_t kAlone = size_t{1} << 16;

// body(item, lane), on all threads where it is worth it.
template <class Body>
void for_items(const Compute& c, size_t items, size_t work, const Body& body) {
  if (work <= kAlone) {
    for (size_t item = 0; item < items; ++item) body(item, c.workspace.lanes[0]);
    return;
  }
  c.pool.parallel_for(items, [&](size_t item, int thread) {
    if (thread == 0) c.interrupt.check();
    body(item, c.workspace.lanes[static_cast<size_t>(thread)]);
  });
}

size_t blocks_of(size_t n, size_t size) { return (n + size - 1) / size; }

}  // namespace

Adapter::Adapter(const Compute& c, const ModelConfig& config, const Weights& weights,
                 std::shared_ptr<const TensorStore> store, const std::vector<AdapterPart>& parts)
    : store_(std::move(store)) {
  const Modules modules = modules_of(config, weights);
  Reader reader(*store_);
  std::vector<std::pair<const AdapterPart*, const Module*>> decomposed;
  for (const AdapterPart& part : parts) {
    const auto it = modules.find(part.module);
    if (it == modules.end()) {
      reader.unknown(part);
      continue;
    }
    const Module& m = it->second;
    const size_t all = checked_mul(part.rank, std::max<size_t>(m.experts, 1), part.module);
    LowRank change{reader.tensor(part.a, {all, m.in}), reader.tensor(part.b, {m.out, all}), part.scale};
    if (!part.magnitude.empty()) decomposed.emplace_back(&part, &m);
    if (m.w == nullptr || change.a.empty() || change.b.empty()) continue;
    if (m.experts > 0) {
      require(part.magnitude.empty(), ErrorKind::kModelFile,
              part.magnitude + ": magnitudes of experts (use_dora) are not supported");
      regrouped_.push_back(regroup(change.b, m.experts));
      change.a = {change.a.data, change.a.dtype, 3, {m.experts, part.rank, m.in}};
      change.b = {regrouped_.back().data(), change.b.dtype, 3, {m.experts, m.out, part.rank}};
    }
    require(parts_.emplace(m.w, change).second, ErrorKind::kModelFile, part.a + ": the second change of its linear");
  }
  for (const auto& [part, m] : decomposed) {
    const TensorView magnitude = reader.tensor(part->magnitude, {m->out});
    const auto it = parts_.find(m->w);
    if (magnitude.empty() || it == parts_.end()) continue;
    factors_.push_back(row_factors(c, *m->w, it->second, magnitude, part->magnitude));
    it->second.factors = factors_.back().data();
  }
  reader.finish();
}

void add_low_rank(const Compute& c, const LowRank& part, const float* x, size_t rows, float* y, size_t ldy) {
  const size_t rank = part.a.rows(), in = part.a.cols(), out = part.b.rows();
  const size_t row_blocks = blocks_of(rows, kItemRows);
  const auto block_of = [&](size_t item) {
    const size_t first = item % row_blocks * kItemRows;
    return std::pair(first, std::min(kItemRows, rows - first));
  };
  float* inner = c.workspace.inner.room(rows * rank);  // (rows, rank)
  for_items(c, row_blocks * blocks_of(rank, kItemRank), rows * rank * in, [&](size_t item, Workspace::Lane&) {
    const auto [first, n] = block_of(item);
    const size_t r = item / row_blocks * kItemRank, count = std::min(kItemRank, rank - r);
    float* to = inner + first * rank + r;
    c.k.of(part.a.dtype).rows_dot({part.a.row(r), part.a.stride(), count, in}, {x + first * in, in, n}, {to, rank});
    for (size_t j = 0; j < n; ++j) c.k.scale(part.scale, to + j * rank, to + j * rank, count);
  });
  for_items(c, row_blocks * blocks_of(out, kItemOut), rows * rank * out, [&](size_t item, Workspace::Lane& lane) {
    const auto [first, n] = block_of(item);
    const size_t o = item / row_blocks * kItemOut, count = std::min(kItemOut, out - o);
    float* change = lane.change.room(kItemRows * kItemOut);
    c.k.of(part.b.dtype)
        .rows_dot({part.b.row(o), part.b.stride(), count, rank}, {inner + first * rank, rank, n}, {change, count});
    for (size_t j = 0; j < n; ++j) {
      float* to = y + (first + j) * ldy + o;
      c.k.axpy(1.0f, change + j * count, to, count);
      if (part.factors != nullptr) c.k.mul(to, part.factors + o, to, count);
    }
  });
}

void adapt_columns(const Compute& c, Adapted adapted, const Matrix& w, size_t first, size_t n, const float* x,
                   size_t rows, float* y, size_t ldy) {
  for (const AdaptedRows& own : adapted.rows) {
    const size_t begin = std::max(own.first, adapted.from), end = std::min(own.first + own.count, adapted.from + rows);
    const LowRank* part = begin < end ? own.adapter->of(w) : nullptr;
    if (part == nullptr) continue;
    const size_t at = begin - adapted.from;
    add_low_rank(c, part->slice(first, n), x + at * part->a.cols(), end - begin, y + at * ldy, ldy);
  }
}

void adapt(const Compute& c, Adapted adapted, const Matrix& w, const float* x, size_t rows, float* y) {
  if (!adapted.rows.empty()) adapt_columns(c, adapted, w, 0, w.rows(), x, rows, y, w.rows());
}

void adapt(const Compute& c, const Adapter* adapter, const Matrix& w, const float* x, size_t rows, float* y) {
  const AdaptedRows all{0, rows, adapter};
  if (adapter != nullptr) adapt(c, {{&all, 1}}, w, x, rows, y);
}

}  // namespace gemma4
