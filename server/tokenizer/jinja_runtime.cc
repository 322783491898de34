#include "server/tokenizer/jinja_runtime.h"

#include <string.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/utf8.h"

namespace attune::jinja {
namespace {

// Byte offsets of a text's characters, and its end.
std::vector<size_t> CharacterStarts(Runtime* runtime, const std::string& text) {
  std::vector<size_t> starts;
  if (!runtime->Charge(static_cast<int64_t>(text.size()) * 2)) return {0};
  for (size_t i = 0; i < text.size(); i += DecodeUtf8(text, i).length) starts.push_back(i);
  starts.push_back(text.size());
  return starts;
}

Value Overflow(Runtime* runtime) { return runtime->Fail("a number is too large"); }

Value IntegerArithmetic(Runtime* runtime, const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+") return __builtin_add_overflow(a, b, &result) ? Overflow(runtime) : Value::Of(result);
  if (op == "-") return __builtin_sub_overflow(a, b, &result) ? Overflow(runtime) : Value::Of(result);
  if (op == "*") return __builtin_mul_overflow(a, b, &result) ? Overflow(runtime) : Value::Of(result);
  if (op == "**") {
    if (b < 0) return Value::Of(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = 1;
    for (int64_t i = 0; i < b && a != 1; ++i) {
      if (i > 64 && (a == 0 || a == -1)) return Value::Of(int64_t{a == 0 ? 0 : (b % 2 == 0 ? 1 : -1)});
      if (__builtin_mul_overflow(result, a, &result)) return Overflow(runtime);
    }
    return Value::Of(result);
  }
  if (b == 0) return runtime->Fail("division by zero");
  if (op == "/") return Value::Of(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == "%" ? Value::Of(int64_t{0}) : IntegerArithmetic(runtime, "-", 0, a);
  // Python rounds down, C++ towards zero.
  const int64_t remainder = a % b, fix = remainder != 0 && (remainder < 0) != (b < 0);
  return Value::Of(op == "%" ? remainder + fix * b : a / b - fix);
}

Value RealArithmetic(Runtime* runtime, const std::string& op, double a, double b) {
  if (op == "+") return Value::Of(a + b);
  if (op == "-") return Value::Of(a - b);
  if (op == "*") return Value::Of(a * b);
  if (op == "**") return Value::Of(std::pow(a, b));
  if (b == 0) return runtime->Fail("division by zero");
  if (op == "/") return Value::Of(a / b);
  return Value::Of(op == "%" ? a - b * std::floor(a / b) : std::floor(a / b));
}

Value Repeat(Runtime* runtime, const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  const int64_t size = value.is_text() ? value.text().size() : value.list()->items.size() * Runtime::kItemCost;
  if (size > 0 && times > Runtime::kBudget / size) times = Runtime::kBudget / size + 1;
  if (size == 0) times = std::min<int64_t>(times, 1);
  if (!runtime->Charge(size * times)) return Value();
  if (value.is_text()) {
    std::string text;
    for (int64_t i = 0; i < times; ++i) text += value.text();
    return runtime->MakeText(std::move(text));
  }
  List* const list = runtime->NewList(value.list()->tuple);
  for (int64_t i = 0; i < times; ++i) {
    list->items.insert(list->items.end(), value.list()->items.begin(), value.list()->items.end());
  }
  return Value::Of(list);
}

Value AddSequences(Runtime* runtime, const Value& a, const Value& b) {
  if (a.is_text()) {
    const bool fits = a.text().size() + b.text().size() <= Runtime::kMaxTextBytes;
    return fits ? runtime->MakeText(a.text() + b.text()) : runtime->Fail("a text is too long");
  }
  List* const list = runtime->NewList(a.list()->tuple);
  for (const Value& item : a.list()->items) runtime->Append(list, item);
  for (const Value& item : b.list()->items) runtime->Append(list, item);
  return Value::Of(list);
}

}  // namespace

Value Runtime::Fail(const std::string& message) {
  if (status_.ok()) status_ = MakeError(absl::StatusCode::kInvalidArgument, "CHAT_TEMPLATE_ERROR", message);
  return Value();
}

bool Runtime::Charge(int64_t units) {
  budget_ -= units;
  if (budget_ >= 0) return true;
  Fail("The chat template does too much work.");
  return false;
}

List* Runtime::NewList(bool tuple) {
  Charge(kItemCost);
  lists_.emplace_back().tuple = tuple;
  return &lists_.back();
}

Dict* Runtime::NewDict() {
  Charge(kItemCost);
  return &dicts_.emplace_back();
}

void Runtime::Append(List* list, Value value) {
  if (Charge(kItemCost)) list->items.push_back(std::move(value));
}

void Runtime::Put(Dict* dict, Value key, Value value) {
  if (Charge(2 * kItemCost)) jinja::Put(dict, std::move(key), std::move(value), &budget_);
}

Value Runtime::MakeText(std::string text) {
  Charge(static_cast<int64_t>(text.size()) + kItemCost);
  return Value::Of(std::move(text));
}

const Value* Arguments::Get(size_t place, absl::string_view name) const {
  if (place < values.size()) return &values[place];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

std::string Arguments::GetText(size_t place, absl::string_view name, const std::string& fallback) const {
  const Value* const value = Get(place, name);
  return value != nullptr && value->is_text() ? value->text() : fallback;
}

Value Attribute(Runtime* runtime, const Value& object, const std::string& name) {
  if (object.undefined() != nullptr) {
    return runtime->Fail(absl::StrCat("'", object.undefined()->name, "' is undefined"));
  }
  if (object.dict() != nullptr) {
    const Value* const found = Find(*object.dict(), runtime->MakeText(name), runtime->budget());
    if (found != nullptr) return *found;
  }
  return Value::UndefinedNamed(name);
}

Value Item(Runtime* runtime, const Value& object, const Value& key) {
  if (key.is_text()) return Attribute(runtime, object, key.text());
  if (object.undefined() != nullptr) {
    return runtime->Fail(absl::StrCat("'", object.undefined()->name, "' is undefined"));
  }
  if (object.dict() != nullptr) {
    const Value* const found = Find(*object.dict(), key, runtime->budget());
    return found != nullptr ? *found : Value::UndefinedNamed("item");
  }
  if (!key.is_int()) return Value::UndefinedNamed("item");
  int64_t index = key.integer();
  if (object.list() != nullptr) {
    const auto& items = object.list()->items;
    if (index < 0) index += items.size();
    return index >= 0 && index < items.size() ? items[index] : Value::UndefinedNamed("item");
  }
  if (object.is_text()) {
    const std::vector<size_t> starts = CharacterStarts(runtime, object.text());
    const int64_t count = starts.size() - 1;
    if (index < 0) index += count;
    if (index < 0 || index >= count) return Value::UndefinedNamed("item");
    return runtime->MakeText(object.text().substr(starts[index], starts[index + 1] - starts[index]));
  }
  return Value::UndefinedNamed("item");
}

Value Slice(Runtime* runtime, const Value& object, const Value& start, const Value& stop, const Value& step) {
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->is_none() && !bound->is_int()) return runtime->Fail("the bounds of a slice must be integers");
  }
  if (object.is_undefined()) return Attribute(runtime, object, "");
  if (!object.is_text() && object.list() == nullptr) {
    return runtime->Fail(absl::StrCat("a value of kind ", object.KindName(), " cannot be sliced"));
  }
  const std::vector<size_t> starts = object.is_text() ? CharacterStarts(runtime, object.text()) : std::vector<size_t>();
  const int64_t count = object.is_text() ? starts.size() - 1 : object.list()->items.size();
  const int64_t by = step.is_none() ? 1 : step.integer();
  if (by == 0) return runtime->Fail("the step of a slice is zero");
  if (by > INT32_MAX || by < -INT32_MAX) return runtime->Fail("the step of a slice is too large");
  const auto bound = [&](const Value& value, int64_t otherwise) {
    if (value.is_none()) return otherwise;
    const int64_t place = value.integer() < 0 ? value.integer() + count : value.integer();
    return by > 0 ? std::clamp<int64_t>(place, 0, count) : std::clamp<int64_t>(place, -1, count - 1);
  };
  const int64_t first = bound(start, by > 0 ? 0 : count - 1), last = bound(stop, by > 0 ? count : -1);
  std::string text;
  List* const list = runtime->NewList(object.list() != nullptr && object.list()->tuple);
  for (int64_t i = first; by > 0 ? i < last : i > last; i += by) {
    if (object.is_text()) {
      text.append(object.text(), starts[i], starts[i + 1] - starts[i]);
    } else {
      runtime->Append(list, object.list()->items[i]);
    }
  }
  return object.is_text() ? runtime->MakeText(std::move(text)) : Value::Of(list);
}

Value Arithmetic(Runtime* runtime, const std::string& op, const Value& a, const Value& b) {
  if (op == "~") {
    std::string text = Printed(runtime, a);
    text += Printed(runtime, b);
    return text.size() <= Runtime::kMaxTextBytes ? runtime->MakeText(std::move(text)) : runtime->Fail("a text is too long");
  }
  for (const Value* value : {&a, &b}) {
    if (value->is_undefined()) return Attribute(runtime, *value, "");
  }
  if (a.is_number() && b.is_number()) {
    return a.is_double() || b.is_double() ? RealArithmetic(runtime, op, a.real(), b.real())
                                          : IntegerArithmetic(runtime, op, a.integer(), b.integer());
  }
  const bool same = (a.is_text() && b.is_text()) || (a.list() && b.list() && a.list()->tuple == b.list()->tuple);
  if (op == "+" && same) return AddSequences(runtime, a, b);
  if (op == "*" && (a.is_text() || a.list()) && b.is_int()) return Repeat(runtime, a, b.integer());
  if (op == "*" && (b.is_text() || b.list()) && a.is_int()) return Repeat(runtime, b, a.integer());
  return runtime->Fail(absl::StrCat("operator ", op, " between ", a.KindName(), " and ", b.KindName()));
}

bool Compare(Runtime* runtime, const std::string& op, const Value& a, const Value& b) {
  if (op == "==") return Equal(a, b, runtime->budget());
  if (op == "!=") return !Equal(a, b, runtime->budget());
  if (op == "in") return Contains(runtime, b, a);
  if (op == "not in") return !Contains(runtime, b, a);
  int order = 0;
  if (a.is_number() && b.is_number()) {
    const double x = a.real(), y = b.real();
    const bool exact = !a.is_double() && !b.is_double();
    order = exact ? (a.integer() > b.integer()) - (a.integer() < b.integer()) : (x > y) - (x < y);
    if (std::isnan(x) || std::isnan(y)) return false;
  } else if (a.is_text() && b.is_text()) {
    runtime->Charge(std::min(a.text().size(), b.text().size()) / 16);
    order = a.text().compare(b.text());
  } else {
    runtime->Fail(absl::StrCat("operator ", op, " between ", a.KindName(), " and ", b.KindName()));
  }
  return op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
}

bool Contains(Runtime* runtime, const Value& container, const Value& value) {
  if (container.is_undefined()) return false;
  if (container.is_text()) {
    if (!value.is_text()) {
      runtime->Fail(absl::StrCat("'in <string>' needs a string, not ", value.KindName()));
      return false;
    }
    const std::string &text = container.text(), &part = value.text();
    runtime->Charge((text.size() + part.size()) / 4);
    return memmem(text.data(), text.size(), part.data(), part.size()) != nullptr;
  }
  if (container.dict() != nullptr) return Find(*container.dict(), value, runtime->budget()) != nullptr;
  if (container.list() != nullptr) {
    const auto& items = container.list()->items;
    return std::any_of(items.begin(), items.end(),
                       [&](const Value& item) { return Equal(item, value, runtime->budget()); });
  }
  runtime->Fail(absl::StrCat("a value of kind ", container.KindName(), " holds nothing that can be looked for"));
  return false;
}

std::vector<Value> Iterate(Runtime* runtime, const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (value.list() != nullptr) {
    if (runtime->Charge(value.list()->items.size() * Runtime::kItemCost)) items = value.list()->items;
  } else if (value.dict() != nullptr && !value.dict()->is_namespace) {
    if (!runtime->Charge(value.dict()->items.size() * Runtime::kItemCost)) return items;
    for (const auto& item : value.dict()->items) items.push_back(item.first);
  } else if (value.is_text()) {
    const std::vector<size_t> starts = CharacterStarts(runtime, value.text());
    for (size_t i = 0; i + 1 < starts.size() && runtime->ok(); ++i) {
      items.push_back(runtime->MakeText(value.text().substr(starts[i], starts[i + 1] - starts[i])));
    }
  } else {
    runtime->Fail(absl::StrCat("a value of kind ", value.KindName(), " has no items"));
  }
  return items;
}

std::string Printed(Runtime* runtime, const Value& value) {
  std::string text;
  if (!AppendPrinted(value, Runtime::kMaxTextBytes, &text)) {
    runtime->Fail(absl::StrCat("a value of kind ", value.KindName(), " cannot be printed"));
  }
  runtime->Charge(static_cast<int64_t>(text.size()));
  return text;
}

int64_t Length(Runtime* runtime, const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_text()) return CharacterStarts(runtime, value.text()).size() - 1;
  if (value.list() != nullptr) return value.list()->items.size();
  if (value.dict() != nullptr) return value.dict()->items.size();
  runtime->Fail(absl::StrCat("a value of kind ", value.KindName(), " has no length"));
  return 0;
}

}  // namespace attune::jinja
