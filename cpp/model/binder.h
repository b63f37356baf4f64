// Binding tensors by name: what is missing or wrong is remembered, and reported at once.
// Knows: names, shapes, how quantized matrices are stored. Must not know: what a tensor is for.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/isa.h"
#include "model/quants.h"
#include "model/weights.h"

namespace gemma4 {

using Shape = std::vector<size_t>;

inline std::string describe(const Shape& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + ")";
}

// What the parts of a quantized matrix are called after the name of its module.
inline constexpr const char *kPacked = ".weight_packed", *kScale = ".weight_scale", *kShape = ".weight_shape",
                            *kInputStep = ".input_activation_scale", *kOutputStep = ".output_activation_scale",
                            *kEmbedding = ".embedding_quantized", *kEmbeddingScale = ".embedding_scale";

inline Shape shape_of(const TensorView& t) { return {t.shape.begin(), t.shape.begin() + t.rank}; }

// Takes tensors by name, remembers what was wrong, and reports everything at once.
class Binder {
 public:
  explicit Binder(TensorStore& store) : store_(store) {}

  TensorView tensor(const std::string& name, const Shape& shape) {
    taken_.insert(name);
    const TensorView* t = store_.find(name);
    if (t == nullptr) {
      missing_.push_back(name + " " + describe(shape));
      return {};
    }
    if (shape_of(*t) != shape) {
      misshaped_.push_back(name + ": expected " + describe(shape) + ", found " + describe(shape_of(*t)));
      return {};
    }
    if (is_raw(t->dtype) || is_quants(t->dtype)) {
      misshaped_.push_back(name + ": expected values, found " + std::string(traits(t->dtype).name) +
                           " without a scale of its own");
      return {};
    }
    return *t;
  }

  // A matrix as it is, or as quants where the checkpoint holds those in its place.
  Matrix matrix(const std::string& name, size_t out, size_t in) {
    const std::string module = name.substr(0, name.rfind('.'));
    if (holds(module + kEmbedding)) return quants(module + kEmbedding, module + kEmbeddingScale, out, in);
    if (holds(module + kPacked)) {
      check_shape(module + kShape, out, in);
      return quants(module + kPacked, module + kScale, out, in);
    }
    if (!holds(module + kScale)) return tensor(name, {out, in});
    Matrix w = quants(name, module + kScale, out, in);
    w.scales.input = step(module + kInputStep);
    w.scales.output = step(module + kOutputStep);
    return w;
  }

  RowSource rows(const std::string& name, size_t out, size_t in) {
    const TensorView t = matrix(name, out, in);
    return {t, store_.file_of(t)};
  }

  Vector vector(const std::string& name, size_t n) { return values(name, {n}); }

  // A small tensor as f32, in the file's order. Norms and scales touch every row: one that is not finite leaves
  // nothing.
  Vector values(const std::string& name, const Shape& shape) {
    Vector v = read(name, shape);
    const auto bad = std::ranges::find_if_not(v, [](float x) { return std::isfinite(x); });
    if (bad != v.end()) damaged(name, static_cast<size_t>(bad - v.begin()), "a finite number", *bad);
    return v;
  }

  // Numbers below `end`.
  std::vector<int32_t> indices(const std::string& name, size_t n, int end) {
    taken_.insert(name);
    const TensorView* t = store_.find(name);
    if (t == nullptr) missing_.push_back(name + " " + describe({n}));
    if (t == nullptr) return {};
    const bool wide = t->dtype == DType::kI64;
    if (shape_of(*t) != Shape{n} || (!wide && t->dtype != DType::kI32)) {
      misshaped_.push_back(name + ": expected I64 or I32 of " + describe({n}) + ", found " +
                           std::string(traits(t->dtype).name) + " " + describe(shape_of(*t)));
      return {};
    }
    std::vector<int32_t> out(n);
    for (size_t i = 0; i < n; ++i) {
      int64_t value = 0;  // of a little-endian file on a little-endian machine
      const size_t size = wide ? 8 : 4;
      std::memcpy(&value, t->data + i * size, size);
      if (value < 0 || value >= end) {
        damaged(name, i, "an id below " + std::to_string(end), static_cast<float>(value));
        return {};
      }
      out[i] = static_cast<int32_t>(value);
    }
    return out;
  }

  float scalar(const std::string& name) {
    const Vector v = vector(name, 1);
    return v.empty() ? 0.0f : v[0];
  }

  ClippedMatrix clipped(const std::string& name, size_t out, size_t in, bool with_bounds) {
    ClippedMatrix m;
    m.w = matrix(name + ".linear.weight", out, in);
    if (!with_bounds) {
      for (const char* bound : {".input_min", ".input_max", ".output_min", ".output_max"}) allow(name + bound);
      return m;
    }
    std::tie(m.in_min, m.in_max) = bounds(name + ".input");
    std::tie(m.out_min, m.out_max) = bounds(name + ".output");
    return m;
  }

  LayerNorm layer_norm(const std::string& name, size_t n) {
    return {vector(name + ".weight", n), vector(name + ".bias", n)};
  }

  bool holds(const std::string& name) const { return store_.find(name) != nullptr; }

  // A matrix that a checkpoint may hold although nothing reads it.
  void allow(const std::string& name) {
    taken_.insert(name);
    const std::string module = name.substr(0, name.rfind('.'));
    for (const char* part : {kPacked, kScale, kShape, kInputStep, kOutputStep}) taken_.insert(module + part);
  }

  // The tensors that nothing reads, but for those that may be there. Throws if others are missing or mis-shaped, and
  // lists them beside: their names may be those of what is missing, spelled otherwise.
  std::vector<std::string> finish(const std::vector<std::string>& ignored_prefixes) const {
    std::vector<std::string> unused;
    for (const auto& [name, view] : store_.tensors()) {
      // For caches that round keys and values, which the reference does not read either.
      bool ignored = taken_.contains(name) || name.ends_with(".k_cache_scale") || name.ends_with(".v_cache_scale");
      for (const std::string& p : ignored_prefixes) ignored = ignored || name.starts_with(p);
      if (!ignored) unused.push_back(name);
    }
    if (!missing_.empty() || !misshaped_.empty()) {
      fail(ErrorKind::kModelFile, "the tensors do not fit the config;" + list("missing", missing_) +
                                      list("mis-shaped", misshaped_) + list("unknown", unused));
    }
    if (!damaged_.empty()) fail(ErrorKind::kModelFile, "the weights are damaged;" + list("impossible", damaged_));
    return unused;
  }

 private:
  Vector read(const std::string& name, const Shape& shape) {
    const TensorView t = tensor(name, shape);
    Vector v(t.empty() ? 0 : t.elements());
    if (!t.empty()) active_isa().k.of(t.dtype).to_f32(t.data, v.data(), v.size());
    return v;
  }

  // The lower and the upper bound of a clamp; an infinite one leaves that side open.
  std::pair<float, float> bounds(const std::string& name) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const Vector low = read(name + "_min", {1}), high = read(name + "_max", {1});
    if (low.empty() || high.empty()) return {-kInfinity, kInfinity};
    if (!(low[0] < kInfinity)) damaged(name + "_min", 0, "a bound below infinity", low[0]);
    if (!(high[0] > -kInfinity)) damaged(name + "_max", 0, "a bound above -infinity", high[0]);
    if (low[0] > high[0]) damaged(name + "_min", 0, "at most the maximum of " + std::to_string(high[0]), low[0]);
    return {low[0], high[0]};
  }

  void damaged(const std::string& name, size_t index, const std::string& expected, float found) {
    damaged_.push_back(name + "[" + std::to_string(index) + "]: expected " + expected + ", found " +
                       std::to_string(found));
  }

  // The quants whose bytes are registered as `name`: 4 bits in 32-bit words, or in bytes as many bits as they have room
  // for. The store's view becomes that of the quants.
  Matrix quants(const std::string& name, const std::string& scale, size_t out, size_t in) {
    taken_.insert(name);
    taken_.insert(scale);
    const TensorView* bytes = store_.find(name);
    const TensorView* scales = store_.find(scale);
    if (bytes == nullptr) missing_.push_back(name + " " + describe({out, in}));
    if (scales == nullptr) missing_.push_back(scale + " (" + std::to_string(out) + ", …)");
    if (bytes == nullptr || scales == nullptr) return {};
    const std::optional<DType> dtype = quant_format(*bytes, out, in);
    if (!dtype) {
      misshaped_.push_back(name + ": expected quants of 2, 4 or 8 bits for " + describe({out, in}) + ", found " +
                           std::string(traits(bytes->dtype).name) + " " + describe(shape_of(*bytes)));
      return {};
    }
    if (!fit(scale, *scales, out, in)) return {};
    const TensorView view{.data = bytes->data,
                          .dtype = *dtype,
                          .rank = 2,
                          .shape = {out, in},
                          .scales = {scales->data, scales->dtype, scales->elements() / out}};
    store_.describe(name, view);
    return view;
  }

  static std::optional<DType> quant_format(const TensorView& t, size_t out, size_t in) {
    if (is_quants(t.dtype) && t.scales.data != nullptr && shape_of(t) == Shape{out, in}) return t.dtype;  // seen before
    if (t.rank != 2 || t.shape[0] != out) return std::nullopt;
    const size_t words = t.shape[1];
    if (t.dtype == DType::kI32 && in % 8 == 0 && words == in / 8) return DType::kI4;
    if (t.dtype == DType::kI8 && words == in) return DType::kI8;
    if (t.dtype == DType::kU8 && words == row_bytes(DType::kI4, in)) return DType::kI4;
    if (t.dtype == DType::kU8 && words == row_bytes(DType::kI2, in)) return DType::kI2;
    return std::nullopt;
  }

  // Whether these are the scales of quants: a whole number of groups in a row, each finite and not negative.
  bool fit(const std::string& name, const TensorView& t, size_t out, size_t in) {
    const bool values = !is_block_format(t.dtype) && !is_quants(t.dtype) && !is_raw(t.dtype);
    const bool by_row = t.shape[0] == out && (t.rank == 2 || (t.rank == 1 && out > 1));
    const size_t groups = t.elements() / out;
    if (!values || !by_row || groups > in || in % groups != 0) {
      misshaped_.push_back(name + ": expected one scale for each row of " + describe({out, in}) +
                           " or for equal parts of it, found " + std::string(traits(t.dtype).name) + " " +
                           describe(shape_of(t)));
      return false;
    }
    Vector row(groups);
    for (size_t r = 0; r < out; ++r) {
      active_isa().k.of(t.dtype).to_f32(t.data + r * row_bytes(t.dtype, groups), row.data(), groups);
      const auto bad = std::ranges::find_if_not(row, [](float v) { return std::isfinite(v) && v >= 0; });
      if (bad == row.end()) continue;
      damaged(name, r * groups + static_cast<size_t>(bad - row.begin()), "0 or a positive number", *bad);
      return false;
    }
    return true;
  }

  // The step of a lattice; 0 where there is none. A file may spell it as a scalar or as an array of one.
  float step(const std::string& name) {
    if (!holds(name)) return 0;
    const float v = scalar(name);
    if (v < 0) damaged(name, 0, "0 or a positive number", v);
    return v;
  }

  void check_shape(const std::string& name, size_t out, size_t in) {
    taken_.insert(name);
    const TensorView* t = store_.find(name);
    if (t == nullptr) {
      missing_.push_back(name + " (2)");
      return;
    }
    std::array<int64_t, 2> shape{};
    const bool read = t->dtype == DType::kI64 && t->elements() == shape.size();
    if (read) std::memcpy(shape.data(), t->data, sizeof(shape));
    if (!read || shape[0] != static_cast<int64_t>(out) || shape[1] != static_cast<int64_t>(in)) {
      misshaped_.push_back(name + ": expected I64 of " + describe({out, in}) +
                           (read ? ", found (" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + ")"
                                 : ", found " + std::string(traits(t->dtype).name) + " " + describe(shape_of(*t))));
    }
  }

  static std::string list(const std::string& title, const std::vector<std::string>& items) {
    if (items.empty()) return "";
    constexpr size_t kMost = 5;
    std::string s;
    s.append(" ").append(std::to_string(items.size())).append(" ").append(title).append(":");
    for (size_t i = 0; i < items.size() && i < kMost; ++i) s.append(i ? ", " : " ").append(items[i]);
    return s.append(items.size() > kMost ? ", …;" : ";");
  }

  TensorStore& store_;
  std::set<std::string> taken_;
  std::vector<std::string> missing_;
  std::vector<std::string> misshaped_;
  std::vector<std::string> damaged_;
};

}  // namespace gemma4
