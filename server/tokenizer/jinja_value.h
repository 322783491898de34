#ifndef ATTUNE_SERVER_TOKENIZER_JINJA_VALUE_H_
#define ATTUNE_SERVER_TOKENIZER_JINJA_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

// Values of chat templates, with the meaning that Python gives them.
namespace attune::jinja {

class Value;
struct MacroStatement;

struct Undefined {
  std::string name;  // for messages
};
struct None {};
using Text = std::shared_ptr<const std::string>;
struct List {
  std::vector<Value> items;
  bool tuple = false;
};
// In order of insertion. Templates' dictionaries are small: looked up one by one.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  bool is_namespace = false;
};
// A macro, or a function of the environment by its name.
struct Callable {
  const MacroStatement* macro = nullptr;
  std::string function;
};

// Lists and dictionaries belong to the arena of their rendering: values may form
// circles, and nothing is freed before the end.
class Value {
 public:
  Value() : data_(Undefined{}) {}
  static Value UndefinedNamed(std::string name) { return Value(Data(Undefined{std::move(name)})); }
  static Value Nothing() { return Value(Data(None{})); }
  static Value Of(const char*) = delete;  // would become a boolean
  static Value Of(bool value) { return Value(Data(value)); }
  static Value Of(int64_t value) { return Value(Data(value)); }
  static Value Of(double value) { return Value(Data(value)); }
  static Value Of(std::string value) {
    return Value(Data(Text(std::make_shared<const std::string>(std::move(value)))));
  }
  static Value Of(Text value) { return Value(Data(std::move(value))); }
  static Value Of(List* value) { return Value(Data(value)); }
  static Value Of(Dict* value) { return Value(Data(value)); }
  static Value Of(Callable value) { return Value(Data(std::move(value))); }

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_double() const { return std::holds_alternative<double>(data_); }
  bool is_text() const { return std::holds_alternative<Text>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_double(); }
  // Null unless it is one.
  List* list() const { return Get<List*>(); }
  Dict* dict() const { return Get<Dict*>(); }
  const Callable* callable() const { return std::get_if<Callable>(&data_); }
  const Undefined* undefined() const { return std::get_if<Undefined>(&data_); }

  // REQUIRES: is_text().
  const std::string& text() const { return *std::get<Text>(data_); }
  // REQUIRES: is_bool() or is_int().
  int64_t integer() const { return is_bool() ? std::get<bool>(data_) : std::get<int64_t>(data_); }
  // REQUIRES: is_number().
  double real() const { return is_double() ? std::get<double>(data_) : static_cast<double>(integer()); }

  bool Truthy() const;
  // "string", "list" and so on, for messages.
  absl::string_view KindName() const;

 private:
  using Data = std::variant<Undefined, None, bool, int64_t, double, Text, List*, Dict*, Callable>;
  explicit Value(Data data) : data_(std::move(data)) {}
  template <typename T>
  T Get() const {
    const T* const found = std::get_if<T>(&data_);
    return found == nullptr ? nullptr : *found;
  }

  Data data_;
};

// Python's ==. What it looks at is taken off *budget; below zero all is unequal,
// as is what nests too deep.
bool Equal(const Value& a, const Value& b, int64_t* budget, int depth = 0);

// Null if absent.
const Value* Find(const Dict& dict, const Value& key, int64_t* budget);
void Put(Dict* dict, Value key, Value value, int64_t* budget);

// These append to *out and return false, with *out unfinished, if values nest too
// deep or the text grows beyond `limit` bytes.
// What {{ value }} prints.
bool AppendPrinted(const Value& value, size_t limit, std::string* out);
// Python's repr().
bool AppendRepr(const Value& value, size_t limit, std::string* out, int depth = 0);
// Python's json.dumps(ensure_ascii=False); no line breaks if `indent` is negative.
// Also false for what JSON cannot say.
bool AppendJson(const Value& value, int indent, size_t limit, std::string* out, int depth = 0);

}  // namespace attune::jinja

#endif  // ATTUNE_SERVER_TOKENIZER_JINJA_VALUE_H_
