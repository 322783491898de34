#ifndef ATTUNE_SERVER_TOKENIZER_JINJA_RUNTIME_H_
#define ATTUNE_SERVER_TOKENIZER_JINJA_RUNTIME_H_

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/tokenizer/jinja_value.h"

namespace attune::jinja {

// What one rendering owns and may use up: its lists and dictionaries, its budget
// (about one unit per byte made, and some per step), its first error. After an
// error every result is meaningless, and the evaluator only has to come to its
// end. Not thread-safe.
class Runtime {
 public:
  static constexpr int64_t kBudget = 256 << 20;
  static constexpr int64_t kItemCost = 64;
  static constexpr size_t kMaxTextBytes = 64 << 20;

  // Remembers the first error (CHAT_TEMPLATE_ERROR) and returns undefined.
  Value Fail(const std::string& message);
  const absl::Status& status() const { return status_; }

  // False, with an error, once the budget is used up.
  bool Charge(int64_t units);
  bool ok() { return status_.ok() && Charge(0); }
  int64_t* budget() { return &budget_; }

  List* NewList(bool tuple = false);
  Dict* NewDict();
  // These take the cost of what is added.
  void Append(List* list, Value value);
  void Put(Dict* dict, Value key, Value value);
  Value MakeText(std::string text);

 private:
  int64_t budget_ = kBudget;
  absl::Status status_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
};

struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;

  // By place, else by name; null if it is not given.
  const Value* Get(size_t place, absl::string_view name) const;
  std::string GetText(size_t place, absl::string_view name, const std::string& fallback) const;
};

// Operators and access, as Python has them. Errors go to the runtime.
Value Attribute(Runtime* runtime, const Value& object, const std::string& name);
Value Item(Runtime* runtime, const Value& object, const Value& key);
// Bounds are integers, or none.
Value Slice(Runtime* runtime, const Value& object, const Value& start, const Value& stop, const Value& step);
Value Arithmetic(Runtime* runtime, const std::string& op, const Value& a, const Value& b);
bool Compare(Runtime* runtime, const std::string& op, const Value& a, const Value& b);
bool Contains(Runtime* runtime, const Value& container, const Value& value);
// The items of a list, keys of a dictionary, characters of a text.
std::vector<Value> Iterate(Runtime* runtime, const Value& value);
// As {{ }} prints it.
std::string Printed(Runtime* runtime, const Value& value);
// Characters of a text, or items. An error for what has no length.
int64_t Length(Runtime* runtime, const Value& value);

// REQUIRES: IsFilter(name), IsTest(name).
Value ApplyFilter(Runtime* runtime, const std::string& name, const Value& input, const Arguments& arguments);
bool ApplyTest(Runtime* runtime, const std::string& name, const Value& value, const Arguments& arguments);

// Whether values of this kind have the method.
bool HasMethod(const Value& object, absl::string_view name);
Value CallMethod(Runtime* runtime, const Value& object, const std::string& name, const Arguments& arguments);

// range, namespace, dict, raise_exception, strftime_now.
bool IsFunction(absl::string_view name);
Value CallFunction(Runtime* runtime, const std::string& name, const Arguments& arguments);

// Python's str.isspace(): four separators more than Unicode's White_Space.
bool IsPythonSpace(uint32_t code);

// Text as Python's methods of the same names make it. `set`: the characters to
// strip, white space if null.
std::string Strip(const std::string& text, bool left, bool right, const std::string* set);
std::string Upper(const std::string& text);
std::string Lower(const std::string& text);
std::string Title(const std::string& text);
std::string Capitalize(const std::string& text);
std::string Replace(const std::string& text, const std::string& from, const std::string& to, int64_t count);

}  // namespace attune::jinja

#endif  // ATTUNE_SERVER_TOKENIZER_JINJA_RUNTIME_H_
