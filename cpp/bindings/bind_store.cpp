#include "bindings/bindings.h"

namespace gemma4 {
namespace {

const TensorView& tensor(const TensorStore& store, const std::string& name) {
  const TensorView* t = store.find(name);
  if (t == nullptr) throw py::key_error(name);
  return *t;
}

py::dtype numpy_dtype(DType t) {
  switch (t) {
    case DType::kF32:
      return py::dtype("float32");
    case DType::kF16:
      return py::dtype("float16");
    case DType::kBF16:
      return py::dtype("uint16");  // NumPy has no bfloat16: the bits
  }
  throw py::type_error("no NumPy dtype");
}

// A view on the mapped file; the array keeps the store, and so the mapping, alive.
py::array view(const std::shared_ptr<TensorStore>& store, const std::string& name) {
  const TensorView& t = tensor(*store, name);
  const std::vector<size_t> shape(t.shape.begin(), t.shape.begin() + t.rank);
  py::array a(numpy_dtype(t.dtype), shape, t.data, py::cast(store));
  a.attr("flags").attr("writeable") = false;
  return a;
}

}  // namespace

void bind_store(py::module_& m) {
  py::class_<TensorStore, std::shared_ptr<TensorStore>>(m, "TensorStore",
                                                        "Tensors of a checkpoint as views on its files.")
      .def(py::init<>())
      .def("add_file", &TensorStore::add_file, py::arg("path"), py::arg("data_start"))
      .def("add", &TensorStore::add, py::arg("name"), py::arg("dtype"), py::arg("shape"), py::arg("file"),
           py::arg("begin"), py::arg("end"))
      .def("validate", &TensorStore::validate)
      .def("names",
           [](const TensorStore& s) {
             std::vector<std::string> names;
             for (const auto& [name, t] : s.tensors()) names.push_back(name);
             return names;
           })
      .def("dtype", [](const TensorStore& s,
                       const std::string& name) { return std::string(traits(tensor(s, name).dtype).name); })
      .def("array", &view, py::arg("name"))
      .def("check_unchanged", &TensorStore::check_unchanged);
}

}  // namespace gemma4
