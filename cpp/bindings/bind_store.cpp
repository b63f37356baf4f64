#include <cstring>
#include <span>

#include "bindings/bindings.h"
#include "kernels/kernels.h"

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
               const std::vector<uint64_t>& shape, const py::array_t<uint8_t, py::array::c_style>& bytes) {
  store.add_owned(name, dtype, shape, std::as_bytes(std::span(bytes.data(), static_cast<size_t>(bytes.size()))));
}

void replace(TensorStore& store, const std::string& name, const std::string& dtype,
             const py::array_t<uint8_t, py::array::c_style>& bytes) {
  store.replace(name, dtype, std::as_bytes(std::span(bytes.data(), static_cast<size_t>(bytes.size()))));
}

const FormatTraits& format_by_name(const std::string& name) {
  for (const FormatTraits& f : kFormats) {
    if (f.name == name) return f;
  }
  fail(ErrorKind::kRequest, "there is no format " + name.substr(0, 40));
}

// (..., cols) float32 -> (..., bytes of a row) uint8.
py::array encode(const std::string& dtype, const py::array_t<float, py::array::c_style>& values) {
  const FormatTraits& format = format_by_name(dtype);
  std::vector<size_t> shape(values.shape(), values.shape() + values.ndim());
  require(!shape.empty() && shape.back() % format.block_elems == 0, ErrorKind::kRequest,
          "a row is not a multiple of the block of " + dtype);
  shape.back() = row_bytes(format.dtype, shape.back());
  py::array_t<uint8_t> out(shape);
  const float* from = values.data();
  uint8_t* to = out.mutable_data();
  const size_t n = static_cast<size_t>(values.size());
  const auto convert = kernels().of(format.dtype).from_f32;
  require(convert != nullptr, ErrorKind::kRequest, "nothing can be written in " + dtype);
  py::gil_scoped_release unlocked;
  convert(from, to, n);
  return out;
}

// (..., bytes of a row) uint8 -> (..., cols) float32.
py::array decode(const std::string& dtype, const py::array_t<uint8_t, py::array::c_style>& bytes) {
  const FormatTraits& format = format_by_name(dtype);
  std::vector<size_t> shape(bytes.shape(), bytes.shape() + bytes.ndim());
  require(!shape.empty() && shape.back() % format.block_bytes == 0, ErrorKind::kRequest,
          "a row is not a multiple of the block of " + dtype);
  shape.back() = shape.back() / format.block_bytes * format.block_elems;
  py::array_t<float> out(shape);
  const uint8_t* from = bytes.data();
  float* to = out.mutable_data();
  const size_t n = static_cast<size_t>(out.size());
  py::gil_scoped_release unlocked;
  kernels().of(format.dtype).to_f32(from, to, n);
  return out;
}

// `count` strings, each a 64-bit length and as many bytes of UTF-8, from byte `at` of a buffer; and the byte behind
// them. None if they are not all there: the caller, who knows what they are, then finds out which is wrong.
py::object read_strings(const py::buffer& buffer, size_t at, size_t count) {
  const py::buffer_info info = buffer.request();
  const char* data = static_cast<const char*>(info.ptr);
  const size_t size = static_cast<size_t>(info.size) * static_cast<size_t>(info.itemsize);
  if (at > size || count > (size - at) / 8) return py::none();
  py::list out(count);
  for (size_t i = 0; i < count; ++i) {
    uint64_t length;
    if (size - at < sizeof(length)) return py::none();
    std::memcpy(&length, data + at, sizeof(length));
    at += sizeof(length);
    if (length > size - at) return py::none();
    PyObject* text = PyUnicode_DecodeUTF8(data + at, static_cast<Py_ssize_t>(length), "strict");
    if (text == nullptr) {
      PyErr_Clear();
      return py::none();
    }
    PyList_SET_ITEM(out.ptr(), static_cast<Py_ssize_t>(i), text);
    at += length;
  }
  return py::make_tuple(out, at);
}

// "a b" -> ("a", "b"), at the first space that is not the first character; None if one has none.
py::object split_pairs(const py::list& texts) {
  py::list out(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const py::object text = texts[i];
    if (!PyUnicode_Check(text.ptr())) return py::none();
    const Py_ssize_t length = PyUnicode_GET_LENGTH(text.ptr());
    const Py_ssize_t cut = length > 1 ? PyUnicode_FindChar(text.ptr(), ' ', 1, length, 1) : -1;
    if (cut < 0) return py::none();
    py::tuple pair(2);
    PyTuple_SET_ITEM(pair.ptr(), 0, PyUnicode_Substring(text.ptr(), 0, cut));
    PyTuple_SET_ITEM(pair.ptr(), 1, PyUnicode_Substring(text.ptr(), cut + 1, length));
    if (PyErr_Occurred()) throw py::error_already_set();
    PyList_SET_ITEM(out.ptr(), static_cast<Py_ssize_t>(i), pair.release().ptr());
  }
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
  m.def("read_strings", &read_strings, py::arg("buffer"), py::arg("at"), py::arg("count"));
  m.def("split_pairs", &split_pairs, py::arg("texts"));
  m.def("encode", &encode, py::arg("dtype"), py::arg("values").noconvert(),
        "Rows of float32 as the bytes of a storage format.");
  m.def("decode", &decode, py::arg("dtype"), py::arg("data").noconvert(),
        "The values of rows given as the bytes of a storage format.");
}

}  // namespace gemma4
