#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/utf8.h"
#include "server/tokenizer/jinja_runtime.h"

// Methods of texts, dictionaries and lists, and global functions.
namespace attune::jinja {
namespace {

using Method = Value (*)(Runtime*, const Value&, const Arguments&);
using Methods = std::map<absl::string_view, Method>;

Value StripWith(Runtime* runtime, const Value& object, const Arguments& arguments, bool left, bool right) {
  const Value* const set = arguments.Get(0, "chars");
  const bool given = set != nullptr && set->is_text();
  if (given && set->text().size() > 256) return runtime->Fail("too many characters to strip");
  return runtime->MakeText(Strip(object.text(), left, right, given ? &set->text() : nullptr));
}

bool EndsOrStarts(Runtime* runtime, const Value& object, const Arguments& arguments, bool starts) {
  const Value* const part = arguments.Get(0, "prefix");
  std::vector<Value> parts;
  if (part != nullptr && part->list() != nullptr) parts = part->list()->items;
  if (part != nullptr && part->is_text()) parts.push_back(*part);
  if (part == nullptr || (!part->is_text() && part->list() == nullptr)) runtime->Fail("startswith needs a string");
  for (const Value& each : parts) {
    if (!each.is_text()) continue;
    if (starts ? absl::StartsWith(object.text(), each.text()) : absl::EndsWith(object.text(), each.text())) return true;
  }
  return false;
}

Value SplitText(Runtime* runtime, const Value& object, const Arguments& arguments) {
  const std::string& text = object.text();
  const Value* const limit = arguments.Get(1, "maxsplit");
  int64_t left = limit != nullptr && limit->is_int() && limit->integer() >= 0 ? limit->integer() : -1;
  const Value* const separator = arguments.Get(0, "sep");
  List* const list = runtime->NewList();
  if (separator != nullptr && separator->is_text()) {
    if (separator->text().empty()) return runtime->Fail("empty separator");
    size_t begin = 0;
    for (; left != 0 && runtime->ok(); --left) {
      const size_t found = text.find(separator->text(), begin);
      if (found == std::string::npos) break;
      runtime->Append(list, runtime->MakeText(text.substr(begin, found - begin)));
      begin = found + separator->text().size();
    }
    runtime->Append(list, runtime->MakeText(text.substr(begin)));
    return Value::Of(list);
  }
  for (size_t at = 0; at < text.size() && runtime->ok(); --left) {
    while (at < text.size() && IsPythonSpace(DecodeUtf8(text, at).code)) at += DecodeUtf8(text, at).length;
    if (at == text.size()) break;
    size_t end = at;
    while (end < text.size() && (left == 0 || !IsPythonSpace(DecodeUtf8(text, end).code))) {
      end += DecodeUtf8(text, end).length;
    }
    runtime->Append(list, runtime->MakeText(text.substr(at, end - at)));
    at = end;
  }
  return Value::Of(list);
}

Value SplitLines(Runtime* runtime, const Value& object, const Arguments&) {
  const std::string& text = object.text();
  List* const list = runtime->NewList();
  for (size_t begin = 0; begin < text.size() && runtime->ok();) {
    const size_t end = std::min(text.find_first_of("\r\n", begin), text.size());
    runtime->Append(list, runtime->MakeText(text.substr(begin, end - begin)));
    begin = end + (text.compare(end, 2, "\r\n") == 0 ? 2 : 1);
  }
  return Value::Of(list);
}

Value ReplaceText(Runtime* runtime, const Value& object, const Arguments& arguments) {
  const Value *const from = arguments.Get(0, "old"), *const to = arguments.Get(1, "new");
  if (from == nullptr || to == nullptr || !from->is_text() || !to->is_text()) {
    return runtime->Fail("replace needs two strings");
  }
  const Value* const count = arguments.Get(2, "count");
  return runtime->MakeText(Replace(object.text(), from->text(), to->text(),
                                   count != nullptr && count->is_int() ? count->integer() : -1));
}

Value JoinWith(Runtime* runtime, const Value& object, const Arguments& arguments) {
  std::string text;
  const std::vector<Value> items = Iterate(runtime, arguments.values.empty() ? Value() : arguments.values[0]);
  for (size_t i = 0; i < items.size() && runtime->ok(); ++i) {
    if (!items[i].is_text()) return runtime->Fail("join needs strings");
    if (i > 0) text += object.text();
    text += items[i].text();
    runtime->Charge(static_cast<int64_t>(object.text().size() + items[i].text().size()));
  }
  return runtime->MakeText(std::move(text));
}

Value FindText(Runtime* runtime, const Value& object, const Arguments& arguments) {
  const size_t found = object.text().find(arguments.GetText(0, "sub", ""));
  if (found == std::string::npos) return Value::Of(int64_t{-1});
  return Value::Of(Length(runtime, runtime->MakeText(object.text().substr(0, found))));
}

Value CountText(Runtime* runtime, const Value& object, const Arguments& arguments) {
  const std::string part = arguments.GetText(0, "sub", "");
  if (part.empty()) return Value::Of(Length(runtime, object) + 1);
  int64_t count = 0;
  for (size_t at = object.text().find(part); at != std::string::npos; at = object.text().find(part, at + part.size())) {
    ++count;
  }
  return Value::Of(count);
}

Value Pairs(Runtime* runtime, const Value& object, const Arguments&) {
  List* const list = runtime->NewList();
  for (const auto& [key, value] : object.dict()->items) {
    List* const pair = runtime->NewList(/*tuple=*/true);
    runtime->Append(pair, key);
    runtime->Append(pair, value);
    runtime->Append(list, Value::Of(pair));
  }
  return Value::Of(list);
}

Value Values(Runtime* runtime, const Value& object, const Arguments&) {
  List* const list = runtime->NewList();
  for (const auto& item : object.dict()->items) runtime->Append(list, item.second);
  return Value::Of(list);
}

Value Keys(Runtime* runtime, const Value& object, const Arguments&) {
  List* const list = runtime->NewList();
  for (const auto& item : object.dict()->items) runtime->Append(list, item.first);
  return Value::Of(list);
}

Value GetOr(Runtime* runtime, const Value& object, const Arguments& arguments) {
  const Value *const key = arguments.Get(0, "key"), *const otherwise = arguments.Get(1, "default");
  const Value* const found = key == nullptr ? nullptr : Find(*object.dict(), *key, runtime->budget());
  return found != nullptr ? *found : otherwise != nullptr ? *otherwise : Value::Nothing();
}

const Methods& TextMethods() {
  static const auto* const methods = new Methods{
      {"strip", [](Runtime* r, const Value& o, const Arguments& a) { return StripWith(r, o, a, true, true); }},
      {"lstrip", [](Runtime* r, const Value& o, const Arguments& a) { return StripWith(r, o, a, true, false); }},
      {"rstrip", [](Runtime* r, const Value& o, const Arguments& a) { return StripWith(r, o, a, false, true); }},
      {"startswith", [](Runtime* r, const Value& o, const Arguments& a) { return Value::Of(EndsOrStarts(r, o, a, true)); }},
      {"endswith", [](Runtime* r, const Value& o, const Arguments& a) { return Value::Of(EndsOrStarts(r, o, a, false)); }},
      {"upper", [](Runtime* r, const Value& o, const Arguments&) { return r->MakeText(Upper(o.text())); }},
      {"lower", [](Runtime* r, const Value& o, const Arguments&) { return r->MakeText(Lower(o.text())); }},
      {"title", [](Runtime* r, const Value& o, const Arguments&) { return r->MakeText(Title(o.text())); }},
      {"capitalize", [](Runtime* r, const Value& o, const Arguments&) { return r->MakeText(Capitalize(o.text())); }},
      {"split", SplitText},
      {"splitlines", SplitLines},
      {"replace", ReplaceText},
      {"join", JoinWith},
      {"find", FindText},
      {"count", CountText},
  };
  return *methods;
}

const Methods& DictMethods() {
  static const auto* const methods =
      new Methods{{"items", Pairs}, {"values", Values}, {"keys", Keys}, {"get", GetOr}};
  return *methods;
}

const Methods* MethodsOf(const Value& object) {
  if (object.is_text()) return &TextMethods();
  if (object.dict() != nullptr && !object.dict()->is_namespace) return &DictMethods();
  return nullptr;
}

Value Range(Runtime* runtime, const Arguments& arguments) {
  int64_t bounds[3] = {0, 0, 1};
  const size_t count = arguments.values.size();
  if (count < 1 || count > 3) return runtime->Fail("range needs one to three integers");
  for (size_t i = 0; i < count; ++i) {
    if (!arguments.values[i].is_int()) return runtime->Fail("range needs integers");
    bounds[count == 1 ? 1 : i] = arguments.values[i].integer();
  }
  if (bounds[2] == 0) return runtime->Fail("the step of range is zero");
  for (const int64_t bound : bounds) {
    if (bound > INT32_MAX || bound < -INT32_MAX) return runtime->Fail("range is too large");
  }
  List* const list = runtime->NewList();
  for (int64_t i = bounds[0]; (bounds[2] > 0 ? i < bounds[1] : i > bounds[1]) && runtime->ok(); i += bounds[2]) {
    runtime->Append(list, Value::Of(i));
  }
  return Value::Of(list);
}

Value MakeDict(Runtime* runtime, const Arguments& arguments, bool is_namespace) {
  Dict* const dict = runtime->NewDict();
  dict->is_namespace = is_namespace;
  if (!arguments.values.empty()) {
    const Dict* const from = arguments.values[0].dict();
    if (from == nullptr) return runtime->Fail("a dictionary is made from named values or another dictionary");
    for (const auto& [key, value] : from->items) runtime->Put(dict, key, value);
  }
  for (const auto& [key, value] : arguments.named) runtime->Put(dict, runtime->MakeText(key), value);
  return Value::Of(dict);
}

}  // namespace

bool HasMethod(const Value& object, absl::string_view name) {
  const Methods* const methods = MethodsOf(object);
  return methods != nullptr && methods->contains(name);
}

Value CallMethod(Runtime* runtime, const Value& object, const std::string& name, const Arguments& arguments) {
  if (!HasMethod(object, name)) {
    return runtime->Fail(absl::StrCat("a value of kind ", object.KindName(), " has no method ", name));
  }
  // Every method reads its object once.
  if (object.is_text() && !runtime->Charge(static_cast<int64_t>(object.text().size()))) return Value();
  return MethodsOf(object)->at(name)(runtime, object, arguments);
}

bool IsFunction(absl::string_view name) {
  return name == "range" || name == "namespace" || name == "dict" || name == "raise_exception" ||
         name == "strftime_now";
}

Value CallFunction(Runtime* runtime, const std::string& name, const Arguments& arguments) {
  if (name == "range") return Range(runtime, arguments);
  if (name == "namespace" || name == "dict") return MakeDict(runtime, arguments, name == "namespace");
  const Value first = arguments.values.empty() ? Value() : arguments.values[0];
  if (name == "raise_exception") return runtime->Fail(Printed(runtime, first));
  const std::string format = first.is_text() ? first.text() : "";
  if (format.size() > 256) return runtime->Fail("the format of strftime_now is too long");
  return runtime->MakeText(absl::FormatTime(format, absl::Now(), absl::LocalTimeZone()));
}

}  // namespace attune::jinja
