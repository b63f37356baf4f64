#include <span>

#include "bindings/bindings.h"
#include "kernels/isa.h"

namespace gemma4 {
namespace {

const TensorView& tensor(const TensorStore& store, const std::string& name) {
  const TensorView* t = store.find(name);
  if (t == nullptr) throw py::key_error(name);
  return *t;
}

// A view on the mapped file; the array keeps the store, and so the mapping, alive. Block formats, which NumPy cannot
// spell, are shown as their bytes: the last dimension is that of a row in bytes.
py::array view(const std::shared_ptr<TensorStore>& store, const std::string& name) {
  const TensorView& t = tensor(*store, name);
  std::vector<size_t> shape(t.shape.begin(), t.shape.begin() + t.rank);
  py::dtype dtype("uint8");
  if (t.dtype == DType::kF32) {
    dtype = py::dtype("float32");
  } else if (t.dtype == DType::kF16) {
    dtype = py::dtype("float16");
  } else if (t.dtype == DType::kBF16) {
    dtype = py::dtype("uint16");  // NumPy has no bfloat16: the bits
  } else if (t.dtype == DType::kI8 || t.dtype == DType::kI32 || t.dtype == DType::kI64) {
    dtype = py::dtype(t.dtype == DType::kI8 ? "int8" : t.dtype == DType::kI32 ? "int32" : "int64");
  } else {
    shape.back() = t.stride();
  }
  py::array a(dtype, shape, t.data, py::cast(store));
  a.attr("flags").attr("writeable") = false;
  return a;
}

std::vector<size_t> shape_of(const TensorStore& store, const std::string& name) {
  const TensorView& t = tensor(store, name);
  return {t.shape.begin(), t.shape.begin() + t.rank};
}

void add_owned(TensorStore& store, const std::string& name, const std::string& dtype,
               const std::vector<uint64_t>& shape, const Array<uint8_t>& bytes) {
  store.add_owned(name, dtype, shape, std::as_bytes(std::span(bytes.data(), static_cast<size_t>(bytes.size()))));
}

void replace(TensorStore& store, const std::string& name, const std::string& dtype, const Array<uint8_t>& bytes) {
  store.replace(name, dtype, std::as_bytes(std::span(bytes.data(), static_cast<size_t>(bytes.size()))));
}

const FormatTraits& format_by_name(const std::string& name) {
  for (const FormatTraits& f : kFormats) {
    if (f.name == name) return f;
  }
  fail(ErrorKind::kRequest, "there is no format " + name.substr(0, 40));
}

// (..., cols) float32 -> (..., bytes of a row) uint8.
py::array encode(const std::string& dtype, const Array<float>& values) {
  const FormatTraits& format = format_by_name(dtype);
  std::vector<size_t> shape(values.shape(), values.shape() + values.ndim());
  require(!shape.empty() && shape.back() % format.block_elems == 0, ErrorKind::kRequest,
          "a row is not a multiple of the block of " + dtype);
  shape.back() = row_bytes(format.dtype, shape.back());
  py::array_t<uint8_t> out(shape);
  const float* from = values.data();
  uint8_t* to = out.mutable_data();
  const auto n = static_cast<size_t>(values.size());
  const auto convert = active_isa().k.of(format.dtype).from_f32;
  require(convert != nullptr, ErrorKind::kRequest, "nothing can be written in " + dtype);
  const WithoutGil no_gil;
  convert(from, to, n);
  return out;
}

// (..., bytes of a row) uint8 -> (..., cols) float32.
py::array decode(const std::string& dtype, const Array<uint8_t>& bytes) {
  const FormatTraits& format = format_by_name(dtype);
  std::vector<size_t> shape(bytes.shape(), bytes.shape() + bytes.ndim());
  require(!shape.empty() && shape.back() % format.block_bytes == 0, ErrorKind::kRequest,
          "a row is not a multiple of the block of " + dtype);
  shape.back() = shape.back() / format.block_bytes * format.block_elems;
  require(active_isa().k.of(format.dtype).to_f32 != nullptr, ErrorKind::kRequest, "nothing can be read from " + dtype);
  py::array_t<float> out(shape);
  const uint8_t* from = bytes.data();
  float* to = out.mutable_data();
  const auto n = static_cast<size_t>(out.size());
  const WithoutGil no_gil;
  active_isa().k.of(format.dtype).to_f32(from, to, n);
  return out;
}

}  // namespace

void bind_store(py::module_& m) {
  py::class_<TensorStore, std::shared_ptr<TensorStore>>(m, "TensorStore",
                                                        "Tensors of a checkpoint as views on its files.")
      .def(py::init<>())
      .def("add_file", &TensorStore::add_file, py::arg("path"), py::arg("data_start"), py::arg("alignment") = 1)
      .def("add", &TensorStore::add, py::arg("name"), py::arg("dtype"), py::arg("shape"), py::arg("file"),
           py::arg("begin"), py::arg("end"))
      .def("add_owned", &add_owned, py::arg("name"), py::arg("dtype"), py::arg("shape"), py::arg("data").noconvert())
      .def("replace", &replace, py::arg("name"), py::arg("dtype"), py::arg("data").noconvert())
      .def("drop", &TensorStore::drop, py::arg("name"), py::arg("begin"), py::arg("end"))
      .def("add_rows", &TensorStore::add_rows, py::arg("name"), py::arg("source"), py::arg("begin"), py::arg("end"))
      .def("forget", &TensorStore::forget, py::arg("name"))
      .def("validate", &TensorStore::validate)
      .def("names",
           [](const TensorStore& s) {
             std::vector<std::string> names;
             for (const auto& [name, t] : s.tensors()) names.push_back(name);
             return names;
           })
      .def("dtype", [](const TensorStore& s,
                       const std::string& name) { return std::string(traits(tensor(s, name).dtype).name); })
      .def("shape", &shape_of, py::arg("name"))
      .def("array", &view, py::arg("name"))
      .def("check_unchanged", &TensorStore::check_unchanged);
  m.def("encode", &encode, py::arg("dtype"), py::arg("values").noconvert(),
        "Rows of float32 as the bytes of a storage format.");
  m.def("decode", &decode, py::arg("dtype"), py::arg("data").noconvert(),
        "The values of rows given as the bytes of a storage format.");
}

}  // namespace gemma4
