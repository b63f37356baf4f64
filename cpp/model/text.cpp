#include "model/text.h"

#include <algorithm>
#include <cmath>

#include "model/quants.h"
#include "model/rows.h"

namespace gemma4 {
namespace {

// Everything that the parts of one step share.
struct Pass {
  const Compute& c;
  const TextConfig& config;
  const TextWeights& w;
  const Step& step;
  TextScratch& s;
  size_t hidden;

  size_t rows() const { return step.rows.size(); }
  // The adapters of a product whose first row is row `from`.
  Adapted adapted(size_t from) const { return {step.adapted, from}; }
  // Those from row `from` on, which may be the last of the prompt.
  RowCounts rows_from(size_t from) const {
    return {step.together > from ? step.together - from : 0, rows() - std::max(from, step.together)};
  }
};

// A placeholder is embedded as padding, also one that the model wrote itself and no soft token replaces.
int32_t embedded_id(const Pass& p, size_t row) {
  const auto& media = p.config.placeholders;
  const Place& place = p.step.rows[row];
  const bool pad = place.soft != nullptr || std::ranges::find(media, place.id) != media.end();
  return pad ? p.config.pad_id : place.id;
}

void embed(const Pass& p) {
  const auto root = static_cast<float>(std::sqrt(static_cast<double>(p.hidden)));
  for (size_t r = 0; r < p.rows(); ++r) {
    float* x = p.s.x.data() + r * p.hidden;
    if (const float* soft = p.step.rows[r].soft; soft != nullptr) {
      std::copy_n(soft, p.hidden, x);
    } else {
      row_to_f32(p.c.k, p.w.embed, embedded_id(p, r), x);
      p.c.k.scale(root, x, x, p.hidden);
    }
  }
}

// Per-layer inputs: what the token is (a row of the table) plus what the stream says (a projection of the embedding).
// Rows whose logits nobody wants need those of the layers before the last owner of keys and values.
void per_layer_inputs(const Pass& p) {
  const size_t dim = p.config.ple_dim, layers = p.config.layers.size(), width = layers * dim;
  if (dim == 0) return;
  const auto from_stream = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.hidden)));
  const auto from_table = static_cast<float>(std::sqrt(static_cast<double>(dim)));
  const size_t common = static_cast<size_t>(p.config.last_owner()) * dim, from = p.step.first_logit;
  const auto project = [&](size_t row, size_t begin, size_t end) {
    const TensorView part = p.w.ple_proj.slice(begin, end - begin);
    const float* x = p.s.x.data() + row * p.hidden;
    float* y = p.s.ple.data() + row * width + begin;
    linear(p.c, part, x, p.rows_from(row), y, width);
    adapt_columns(p.c, p.adapted(row), p.w.ple_proj, begin, end - begin, x, p.rows() - row, y, width);
  };
  if (from > 0 && common > 0) project(0, 0, common);
  project(from, from > 0 ? common : 0, width);
  for (size_t r = 0; r < p.rows(); ++r) {
    float* row = p.s.ple.data() + r * width;
    const size_t known = r < from ? common : width;
    p.c.k.scale(from_stream, row, row, known);
    for (size_t at = 0; at < known; at += dim) {
      p.c.k.rms_norm(row + at, p.w.ple_norm.data(), row + at, dim, p.config.norm_eps);
    }
    const auto id = static_cast<size_t>(embedded_id(p, r));
    const TensorView& table = p.w.ple_table.view();
    p.c.k.of(table.dtype).to_f32(p.w.ple_table.read(id, p.s.table_bytes), p.s.table_row.data(), width);
    scale_row(p.c.k, table, id, p.s.table_row.data());
    p.c.k.axpy(from_table, p.s.table_row.data(), row, known);
    p.c.k.scale(static_cast<float>(std::sqrt(0.5)), row, row, known);
  }
}

void rotations(const Pass& p) {
  for (RopeTable& t : p.s.rope) {
    for (size_t r = 0; r < p.rows(); ++r) {
      const auto position = static_cast<float>(p.step.rows[r].position);
      for (size_t i = 0; i < t.pairs; ++i) {
        const float angle = position * t.inverse[i];
        t.cos[r * t.pairs + i] = std::cos(angle);
        t.sin[r * t.pairs + i] = std::sin(angle);
      }
    }
  }
}

// Heads of the rows from `from` on.
struct Heads {
  float* x;  // (rows, count, dim)
  size_t from, count, dim;
};

// Norms each head and, where `table` is given, rotates it. weight may be null.
void norm_and_rotate(const Pass& p, const Heads& heads, const float* weight, const RopeTable* table) {
  p.c.pool.parallel_for(p.rows() - heads.from, [&](size_t r, int) {
    for (size_t h = 0; h < heads.count; ++h) {
      float* head = heads.x + (r * heads.count + h) * heads.dim;
      p.c.k.rms_norm(head, weight, head, heads.dim, p.config.norm_eps);
      if (table == nullptr) continue;
      const size_t at = (heads.from + r) * table->pairs;
      p.c.k.rope(head, table->cos.data() + at, table->sin.data() + at, table->pairs, heads.dim / 2);
    }
  });
}

// k, v: (rows, kv_heads, head_dim)
void write_cache(const Pass& p, int layer, const LayerSpec& spec, const float* k, const float* v) {
  const size_t dim = spec.head_dim, heads = spec.kv_heads;
  p.c.pool.parallel_for(p.rows(), [&](size_t r, int thread) {
    Lines<float>& row = p.c.workspace.lanes[static_cast<size_t>(thread)].plain;
    const Place& place = p.step.rows[r];
    for (size_t h = 0; h < heads; ++h) {
      const size_t at = (r * heads + h) * dim;
      place.cache->write(p.c.isa.attention, layer, h, place.position, k + at, v + at, row);
    }
  });
}

// Keys and values of every row, from `normed`. The value is never rotated and its norm has no weight.
void keys_and_values(const Pass& p, int layer) {
  const LayerSpec& spec = p.config.layers[layer];
  const TextLayerWeights& w = p.w.layers[layer];
  const size_t rows = p.rows(), dim = spec.head_dim, heads = spec.kv_heads;
  float* k = p.s.wide.data();
  float* v = k + rows * heads * dim;
  if (spec.k_is_v) {
    linear(p.c, w.k, p.s.normed.data(), p.rows_from(0), k);
    adapt(p.c, p.adapted(0), w.k, p.s.normed.data(), rows, k);
    std::copy_n(k, rows * heads * dim, v);
  } else {
    linear(p.c, {{{.w = w.k, .y = k}, {.w = w.v, .y = v}}}, p.s.normed.data(), p.rows_from(0));
    adapt(p.c, p.adapted(0), w.k, p.s.normed.data(), rows, k);
    adapt(p.c, p.adapted(0), w.v, p.s.normed.data(), rows, v);
  }
  norm_and_rotate(p, {k, 0, heads, dim}, w.k_norm.data(), &p.s.rope[p.s.rope_of[layer]]);
  norm_and_rotate(p, {v, 0, heads, dim}, nullptr, nullptr);
  write_cache(p, layer, spec, k, v);
}

// What the rows from `from` on look into, and what they see there.
void see(const Pass& p, const LayerSpec& spec, size_t from) {
  const size_t window = p.config.window;
  const bool both_ways = p.config.whole_images || (p.config.bidirectional_images && spec.sliding);
  p.s.looks.clear();
  if (from < p.step.together) p.s.looks.push_back({p.step.rows[from].cache, p.step.together - from});
  for (size_t r = from; r < p.rows(); ++r) {
    const Place& place = p.step.rows[r];
    const size_t position = place.position;
    if (r >= p.step.together) p.s.looks.push_back({place.cache, 1});
    // The window bounds what lies behind; an image's run is seen to its end, however long.
    size_t first = spec.sliding && position + 1 > window ? position + 1 - window : 0;
    if (p.config.whole_images) first = std::min(first, place.run_begin);
    p.s.visible[r] = {first, both_ways ? place.run_end : position + 1};
  }
}

// x[from:] += norm(branch[from:])
void add_normed(const Pass& p, const Vector& weight, size_t from) {
  for_rows(p.c, p.rows() - from, [&](size_t r, int) {
    float* branch = &p.s.branch[(from + r) * p.hidden];
    p.c.k.rms_norm(branch, weight.data(), branch, p.hidden, p.config.norm_eps);
    p.c.k.axpy(1.0f, branch, &p.s.x[(from + r) * p.hidden], p.hidden);
  });
}

void norm_rows(const Pass& p, const Vector& weight, size_t from) {
  for_rows(p.c, p.rows() - from, [&](size_t r, int) {
    const size_t at = (from + r) * p.hidden;
    p.c.k.rms_norm(&p.s.x[at], weight.data(), &p.s.normed[at], p.hidden, p.config.norm_eps);
  });
}

void attention(const Pass& p, int layer, size_t from) {
  const LayerSpec& spec = p.config.layers[layer];
  const TextLayerWeights& w = p.w.layers[layer];
  const size_t rows = p.rows() - from, heads = p.config.heads, dim = spec.head_dim;
  float* q = p.s.wide.data();
  float* attended = q + rows * heads * dim;
  linear(p.c, w.q, p.s.normed.data() + from * p.hidden, p.rows_from(from), q);
  adapt(p.c, p.adapted(from), w.q, p.s.normed.data() + from * p.hidden, rows, q);
  norm_and_rotate(p, {q, from, heads, dim}, w.q_norm.data(), &p.s.rope[p.s.rope_of[layer]]);
  see(p, spec, from);
  const AttentionShape shape{spec.kv_layer, heads, static_cast<size_t>(spec.kv_heads), dim};
  attend(p.c, shape, p.s.looks, q, p.s.visible.data() + from, p.s.attention, attended);
  linear(p.c, w.o, attended, p.rows_from(from), p.s.branch.data() + from * p.hidden);
  adapt(p.c, p.adapted(from), w.o, attended, rows, p.s.branch.data() + from * p.hidden);
  add_normed(p, w.post_attn_norm, from);
}

// branch = down(gelu(gate x) * up x), from `normed`
void dense_mlp(const Pass& p, int layer, size_t from) {
  const TextLayerWeights& w = p.w.layers[layer];
  const size_t rows = p.rows() - from, ffn = p.config.layers[layer].ffn;
  const float* in = p.s.normed.data() + from * p.hidden;
  float* gate = p.s.wide.data();
  float* up = gate + rows * ffn;
  linear(p.c, {{{.w = w.gate, .y = gate}, {.w = w.up, .y = up}}}, in, p.rows_from(from));
  adapt(p.c, p.adapted(from), w.gate, in, rows, gate);
  adapt(p.c, p.adapted(from), w.up, in, rows, up);
  p.c.pool.parallel_for(rows,
                        [&](size_t r, int) { p.c.k.gelu_mul(gate + r * ffn, up + r * ffn, gate + r * ffn, ffn); });
  linear(p.c, w.down, gate, p.rows_from(from), p.s.branch.data() + from * p.hidden);
  adapt(p.c, p.adapted(from), w.down, gate, rows, p.s.branch.data() + from * p.hidden);
}

// branch = norm(branch) + norm(experts(norm x)): both branches start at the residual.
void add_experts(const Pass& p, int layer, size_t from) {
  const TextLayerWeights& w = p.w.layers[layer];
  const size_t rows = p.rows() - from, at = from * p.hidden;
  norm_rows(p, w.expert_pre_norm, from);
  const Mixture mixture{p.rows_from(from), p.s.x.data() + at, p.s.normed.data() + at, p.s.expert.data() + at};
  mix_experts(p.c, p.config, w, p.adapted(from), mixture, p.s.moe);
  for_rows(p.c, rows, [&](size_t r, int) {
    float* dense = &p.s.branch[at + r * p.hidden];
    float* expert = &p.s.expert[at + r * p.hidden];
    p.c.k.rms_norm(dense, w.dense_post_norm.data(), dense, p.hidden, p.config.norm_eps);
    p.c.k.rms_norm(expert, w.expert_post_norm.data(), expert, p.hidden, p.config.norm_eps);
    p.c.k.axpy(1.0f, expert, dense, p.hidden);
  });
}

void feed_forward(const Pass& p, int layer, size_t from) {
  norm_rows(p, p.w.layers[layer].ffn_norm, from);
  dense_mlp(p, layer, from);
  if (p.config.layers[layer].moe) add_experts(p, layer, from);
  add_normed(p, p.w.layers[layer].post_ffn_norm, from);
}

// x += norm(out(gelu(gate x) * per-layer input))
void per_layer_embedding(const Pass& p, int layer, size_t from) {
  const size_t dim = p.config.ple_dim, layers = p.config.layers.size(), rows = p.rows() - from;
  if (dim == 0) return;
  const TextLayerWeights& w = p.w.layers[layer];
  linear(p.c, w.ple_gate, p.s.x.data() + from * p.hidden, p.rows_from(from), p.s.ple_gate.data());
  adapt(p.c, p.adapted(from), w.ple_gate, p.s.x.data() + from * p.hidden, rows, p.s.ple_gate.data());
  for_rows(p.c, rows, [&](size_t r, int) {
    float* gate = &p.s.ple_gate[r * dim];
    p.c.k.gelu_mul(gate, &p.s.ple[((from + r) * layers + layer) * dim], gate, dim);
  });
  linear(p.c, w.ple_out, p.s.ple_gate.data(), p.rows_from(from), p.s.branch.data() + from * p.hidden);
  adapt(p.c, p.adapted(from), w.ple_out, p.s.ple_gate.data(), rows, p.s.branch.data() + from * p.hidden);
  add_normed(p, w.post_ple_norm, from);
}

// Rows before `from` only leave their keys and values behind: nobody reads their stream after this layer.
void decoder_layer(const Pass& p, int layer, size_t from) {
  const TextLayerWeights& w = p.w.layers[layer];
  const bool owner = p.config.owns_kv(layer);
  norm_rows(p, w.attn_norm, owner ? 0 : from);
  if (owner) keys_and_values(p, layer);
  if (from == p.rows()) return;
  attention(p, layer, from);
  feed_forward(p, layer, from);
  per_layer_embedding(p, layer, from);
  const size_t at = from * p.hidden;
  p.c.k.scale(w.scalar, p.s.x.data() + at, p.s.x.data() + at, (p.rows() - from) * p.hidden);
}

void head(const Pass& p, float* logits) {
  const size_t from = p.step.first_logit, rows = p.rows() - from, vocab = p.config.vocab;
  if (rows == 0) return;
  norm_rows(p, p.w.norm, from);
  linear(p.c, p.w.head, p.s.normed.data() + from * p.hidden, p.rows_from(from), logits);
  adapt(p.c, p.adapted(from), p.w.head, p.s.normed.data() + from * p.hidden, rows, logits);
  if (p.config.logit_cap <= 0) return;
  p.c.pool.parallel_for(rows, [&](size_t r, int) { p.c.k.soft_cap(logits + r * vocab, vocab, p.config.logit_cap); });
}

}  // namespace

TextScratch::TextScratch(const TextConfig& config, size_t rows) : capacity(rows) {
  size_t widest = 0;
  for (const LayerSpec& spec : config.layers) {
    const auto heads = static_cast<size_t>(std::max(config.heads, static_cast<int>(spec.kv_heads)));
    widest = std::max({widest, heads * spec.head_dim, static_cast<size_t>(spec.ffn)});
    const auto same = std::ranges::find_if(rope, [&](const RopeTable& t) {
      return t.theta == spec.rope_theta && t.factor == spec.rope_factor &&
             t.pairs == static_cast<size_t>(spec.rope_pairs) && t.head_dim == static_cast<size_t>(spec.head_dim);
    });
    rope_of.push_back(static_cast<size_t>(same - rope.begin()));
    if (same != rope.end()) continue;
    RopeTable t{spec.rope_theta,
                spec.rope_factor,
                static_cast<size_t>(spec.rope_pairs),
                static_cast<size_t>(spec.head_dim),
                {},
                {},
                {}};
    for (size_t i = 0; i < t.pairs; ++i) {
      const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(t.head_dim);
      t.inverse.push_back(static_cast<float>(1.0 / std::pow(t.theta, exponent) / t.factor));
    }
    t.cos.resize(rows * t.pairs);
    t.sin.resize(rows * t.pairs);
    rope.push_back(std::move(t));
  }
  const size_t hidden = config.hidden, ple = config.ple_dim;
  x = Lines<float>(rows * hidden);
  normed = Lines<float>(rows * hidden);
  branch = Lines<float>(rows * hidden);
  expert = Lines<float>(config.experts > 0 ? rows * hidden : 0);
  wide = Lines<float>(rows * 2 * widest);
  this->ple = Lines<float>(rows * config.layers.size() * ple);
  ple_gate = Lines<float>(rows * ple);
  table_row = Lines<float>(config.layers.size() * ple);
  visible.resize(rows);
}

void forward(const Compute& c, const TextConfig& config, const TextWeights& w, const Step& step, TextScratch& scratch,
             float* logits) {
  const Pass p{c, config, w, step, scratch, static_cast<size_t>(config.hidden)};
  embed(p);
  per_layer_inputs(p);
  rotations(p);
  const int layers = static_cast<int>(config.layers.size()), last_owner = config.last_owner();
  for (int layer = 0; layer < layers; ++layer) {
    const size_t from = layer < last_owner ? 0 : step.first_logit;
    decoder_layer(p, layer, from);
    c.interrupt.check();
    if (from == p.rows()) break;
  }
  head(p, logits);
}

void read_layers(const Compute& c, const TextConfig& config, const TextWeights& w, const Step& step,
                 TextScratch& scratch) {
  const Pass p{c, config, w, step, scratch, static_cast<size_t>(config.hidden)};
  rotations(p);
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    decoder_layer(p, layer, 0);
    c.interrupt.check();
  }
  norm_rows(p, w.norm, 0);
}

}  // namespace gemma4
