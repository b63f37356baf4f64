#include <memory>
#include <span>
#include <string_view>

#include "bindings/bindings.h"
#include "text/bpe.h"
#include "text/strings.h"
#include "text/vocabulary_json.h"

namespace gemma4 {
namespace {

// The bytes of an object, while this exists. Throws what the object raises where they do not lie one after the other.
class Bytes {
 public:
  explicit Bytes(const py::buffer& object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  std::string_view all() const { return {static_cast<const char*>(view_.buf), static_cast<size_t>(view_.len)}; }

 private:
  Py_buffer view_;
};

py::str text_of(std::string_view text) { return {text.data(), text.size()}; }

std::string_view item(const Strings& strings, py::ssize_t at) {
  if (at < 0) at += static_cast<py::ssize_t>(strings.size());
  if (at < 0 || static_cast<size_t>(at) >= strings.size()) throw py::index_error();
  return strings[static_cast<size_t>(at)];
}

// None if they are not all there: the caller, who knows what they are, then finds out which is wrong.
py::object read_strings(const py::buffer& buffer, size_t at, size_t count) {
  const Bytes bytes(buffer);
  auto strings = Strings::read(bytes.all(), at, count);
  if (!strings) return py::none();
  return py::make_tuple(std::make_shared<Strings>(std::move(*strings)), at);
}

py::object cut(const py::bytes& json) {
  auto parts = cut_vocabulary(static_cast<std::string_view>(json));
  if (!parts) return py::none();
  return py::make_tuple(py::bytes(parts->rest), std::make_shared<Strings>(std::move(parts->tokens)),
                        std::make_shared<Strings>(std::move(parts->merges)));
}

using Added = std::vector<std::tuple<std::string, int32_t, bool>>;
using Names = std::tuple<std::string, std::string, std::string>;

std::unique_ptr<Bpe> make_bpe(std::shared_ptr<Strings> tokens, const std::shared_ptr<Strings>& merges,
                              const Added& added, const Names& names) {
  const auto& [tokens_name, merges_name, added_name] = names;
  BpeForm form{std::move(tokens), *merges, {}, tokens_name, merges_name, added_name};
  for (const auto& [text, id, control] : added) form.added.push_back({text, id, control});
  const WithoutGil no_gil;
  return std::make_unique<Bpe>(std::move(form));
}

std::vector<int32_t> encode(const Bpe& bpe, std::string_view text) {
  Interrupt interrupt = python_interrupt();
  const WithoutGil no_gil;
  return bpe.encode(text, interrupt);
}

// What each id adds to a text, alone: a byte token its byte.
py::list pieces(const Bpe& bpe) {
  py::list out(static_cast<size_t>(bpe.size()));
  for (int32_t id = 0; id < bpe.size(); ++id) {
    const int byte = bpe.byte(id);
    const char only = static_cast<char>(byte);
    out[static_cast<size_t>(id)] = byte >= 0 ? py::bytes(&only, 1) : py::bytes(bpe.decode({&id, 1}));
  }
  return out;
}

py::object find(const Bpe& bpe, std::string_view token) {
  const int32_t id = bpe.find(token);
  return id < 0 ? py::object(py::none()) : py::int_(id);
}

}  // namespace

void bind_text(py::module_& m) {
  py::class_<Strings, std::shared_ptr<Strings>>(m, "Strings")
      .def(py::init([](const std::vector<std::string>& texts) {
             auto strings = std::make_shared<Strings>();
             for (const std::string& text : texts) strings->push(text);
             return strings;
           }),
           py::arg("texts"))
      .def("__len__", &Strings::size)
      .def("__getitem__", [](const Strings& s, py::ssize_t at) { return text_of(item(s, at)); })
      .def("__contains__",
           [](const Strings& s, std::string_view text) {
             for (size_t i = 0; i < s.size(); ++i) {
               if (s[i] == text) return true;
             }
             return false;
           })
      .def(
          "__eq__", [](const Strings& a, const Strings& b) { return a == b; }, py::is_operator())
      .def("without", [](const Strings& s, const Array<int32_t>& places) {
        return std::make_shared<Strings>(s.without({places.data(), static_cast<size_t>(places.size())}));
      });
  m.def("read_strings", &read_strings, py::arg("buffer"), py::arg("at"), py::arg("count"));
  m.def("cut_vocabulary", &cut, py::arg("json"));
  py::class_<Bpe>(m, "Bpe")
      .def(py::init(&make_bpe), py::arg("tokens"), py::arg("merges"), py::arg("added"), py::arg("names"))
      .def_property_readonly("size", &Bpe::size)
      .def("encode", &encode, py::arg("text"))
      .def(
          "decode", [](const Bpe& b, const std::vector<int32_t>& ids) { return text_of(b.decode(ids)); },
          py::arg("ids"))
      .def("find", &find, py::arg("token"))
      .def(
          "token", [](const Bpe& b, int32_t id) { return text_of(b.token(id)); }, py::arg("id"))
      .def("byte", &Bpe::byte, py::arg("id"))
      .def("pieces", &pieces);
}

}  // namespace gemma4
