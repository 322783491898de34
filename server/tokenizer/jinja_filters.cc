#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "server/tokenizer/jinja_runtime.h"
#include "server/tokenizer/jinja_syntax.h"

namespace attune::jinja {
namespace {

using Filter = Value (*)(Runtime*, const Value&, const Arguments&);
using Test = bool (*)(Runtime*, const Value&, const Arguments&);

const Value& FirstArgument(const Arguments& arguments) {
  static const auto* const undefined = new Value();
  return arguments.values.empty() ? *undefined : arguments.values[0];
}

Value DefaultOf(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const Value* const otherwise = arguments.Get(0, "default_value");
  const Value* const falsy = arguments.Get(1, "boolean");
  const bool replace = input.is_undefined() || (falsy != nullptr && falsy->Truthy() && !input.Truthy());
  if (!replace) return input;
  return otherwise != nullptr ? *otherwise : runtime->MakeText("");
}

// `a.b.c` of an item.
Value AttributePath(Runtime* runtime, Value value, const std::string& path) {
  for (size_t begin = 0; begin <= path.size() && runtime->ok();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    int64_t index = 0;
    value = absl::SimpleAtoi(part, &index) ? Item(runtime, value, Value::Of(index)) : Attribute(runtime, value, part);
    begin = end + 1;
  }
  return value;
}

Value Join(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const Value* const separator = arguments.Get(0, "d");
  const std::string between = separator == nullptr ? "" : Printed(runtime, *separator);
  const std::string attribute = arguments.GetText(1, "attribute", "");
  std::string text;
  bool first = true;
  for (const Value& item : Iterate(runtime, input)) {
    if (!runtime->ok()) break;
    if (!first) text += between;
    first = false;
    text += Printed(runtime, attribute.empty() ? item : AttributePath(runtime, item, attribute));
    runtime->Charge(static_cast<int64_t>(between.size()));
  }
  return runtime->MakeText(std::move(text));
}

// Pairs of a dictionary in the order of their keys, of any case.
Value DictSort(Runtime* runtime, const Value& input, const Arguments& arguments) {
  if (!arguments.values.empty() || !arguments.named.empty())
    return runtime->Fail("arguments of dictsort are not supported");
  if (input.dict() == nullptr) return runtime->Fail(absl::StrCat("dictsort of a value of kind ", input.KindName()));
  std::vector<std::pair<std::string, const std::pair<Value, Value>*>> order;
  for (const auto& item : input.dict()->items) {
    if (!item.first.is_text()) return runtime->Fail("dictsort of keys that are no texts");
    if (!runtime->Charge(static_cast<int64_t>(item.first.text().size()) + Runtime::kItemCost)) return Value();
    order.emplace_back(Lower(item.first.text()), &item);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  List* const sorted = runtime->NewList();
  for (const auto& [key, item] : order) {
    List* const pair = runtime->NewList(/*tuple=*/true);
    runtime->Append(pair, item->first);
    runtime->Append(pair, item->second);
    runtime->Append(sorted, Value::Of(pair));
  }
  return Value::Of(sorted);
}

Value FirstOrLast(Runtime* runtime, const Value& input, bool first) {
  const std::vector<Value> items = Iterate(runtime, input);
  return items.empty() ? Value::UndefinedNamed("item") : first ? items.front() : items.back();
}

Value ToJson(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const Value* indent = nullptr;
  for (const auto& [name, value] : arguments.named) {
    if (name == "indent") {
      indent = &value;
    } else if (name != "ensure_ascii") {
      return runtime->Fail(absl::StrCat("argument ", name, " of tojson is not supported"));
    }
  }
  // By place, ensure_ascii comes first.
  if (arguments.values.size() > 1) indent = &arguments.values[1];
  const int64_t spaces = indent != nullptr && indent->is_int() ? std::clamp<int64_t>(indent->integer(), -1, 64) : -1;
  std::string text;
  if (!AppendJson(input, static_cast<int>(spaces), Runtime::kMaxTextBytes, &text)) {
    return runtime->Fail(absl::StrCat("a value of kind ", input.KindName(), " has no JSON"));
  }
  return runtime->MakeText(std::move(text));
}

Value ToList(Runtime* runtime, const Value& input) {
  List* const list = runtime->NewList();
  for (Value& item : Iterate(runtime, input)) runtime->Append(list, std::move(item));
  return Value::Of(list);
}

Value ToInt(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const Value* const otherwise = arguments.Get(0, "default");
  const Value fallback = otherwise != nullptr ? *otherwise : Value::Of(int64_t{0});
  if (input.is_bool() || input.is_int()) return Value::Of(input.integer());
  double real = 0;
  int64_t integer = 0;
  if (input.is_text() && absl::SimpleAtoi(input.text(), &integer)) return Value::Of(integer);
  if (input.is_double()) real = input.real();
  if (input.is_text() && !absl::SimpleAtod(input.text(), &real)) return fallback;
  if (!input.is_double() && !input.is_text()) return fallback;
  return std::isfinite(real) && std::abs(real) < 9e18 ? Value::Of(static_cast<int64_t>(real)) : fallback;
}

Value ToFloat(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const Value* const otherwise = arguments.Get(0, "default");
  if (input.is_number()) return Value::Of(input.real());
  double real = 0;
  if (input.is_text() && absl::SimpleAtod(input.text(), &real)) return Value::Of(real);
  return otherwise != nullptr ? *otherwise : Value::Of(0.0);
}

Value ReplaceIn(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const Value *const from = arguments.Get(0, "old"), *const to = arguments.Get(1, "new");
  if (from == nullptr || to == nullptr) return runtime->Fail("replace needs two strings");
  const Value* const count = arguments.Get(2, "count");
  return runtime->MakeText(Replace(Printed(runtime, input), Printed(runtime, *from), Printed(runtime, *to),
                                   count != nullptr && count->is_int() ? count->integer() : -1));
}

// select, reject, and with `by_attribute` selectattr, rejectattr.
Value Select(Runtime* runtime, const Value& input, const Arguments& arguments, bool by_attribute, bool keep) {
  Arguments rest;
  size_t used = 0;
  std::string attribute, test;
  if (by_attribute) attribute = arguments.GetText(used++, "attribute", "");
  if (by_attribute && attribute.empty()) return runtime->Fail("an attribute's name is missing");
  if (arguments.values.size() > used) test = arguments.GetText(used++, "", "");
  if (!test.empty() && !IsTest(test)) return runtime->Fail(absl::StrCat("no test is named ", test));
  for (; used < arguments.values.size(); ++used) rest.values.push_back(arguments.values[used]);
  List* const list = runtime->NewList();
  for (const Value& item : Iterate(runtime, input)) {
    if (!runtime->ok()) break;
    const Value value = by_attribute ? AttributePath(runtime, item, attribute) : item;
    const bool passes = test.empty() ? value.Truthy() : ApplyTest(runtime, test, value, rest);
    if (passes == keep) runtime->Append(list, item);
  }
  return Value::Of(list);
}

Value Map(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const std::string attribute = arguments.GetText(~size_t{0}, "attribute", "");
  const Value* const otherwise = arguments.Get(~size_t{0}, "default");
  const std::string filter = arguments.GetText(0, "", "");
  // A filter that maps by a filter would nest without the evaluator's count.
  const bool usable = IsFilter(filter) && filter != "map";
  if (attribute.empty() && !usable) return runtime->Fail("map needs an attribute or a filter");
  Arguments rest;
  for (size_t i = 1; i < arguments.values.size(); ++i) rest.values.push_back(arguments.values[i]);
  List* const list = runtime->NewList();
  for (const Value& item : Iterate(runtime, input)) {
    if (!runtime->ok()) break;
    Value value =
        attribute.empty() ? ApplyFilter(runtime, filter, item, rest) : AttributePath(runtime, item, attribute);
    if (value.is_undefined() && otherwise != nullptr) value = *otherwise;
    runtime->Append(list, std::move(value));
  }
  return Value::Of(list);
}

Value Indent(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const Value *const width = arguments.Get(0, "width"), *const first = arguments.Get(1, "first"),
                     *const blank = arguments.Get(2, "blank");
  std::string pad = width != nullptr && width->is_text() ? width->text() : std::string(4, ' ');
  if (width != nullptr && width->is_int()) pad.assign(std::clamp<int64_t>(width->integer(), 0, 256), ' ');
  const std::string text = Printed(runtime, input);
  std::string out;
  for (size_t begin = 0; begin <= text.size() && out.size() <= Runtime::kMaxTextBytes;) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const bool is_first = begin == 0;
    const bool pads =
        is_first ? first != nullptr && first->Truthy() : end > begin || (blank != nullptr && blank->Truthy());
    if (pads) out += pad;
    out.append(text, begin, end - begin);
    if (end < text.size()) out += '\n';
    begin = end + 1;
  }
  return runtime->MakeText(std::move(out));
}

Value Reverse(Runtime* runtime, const Value& input) {
  std::vector<Value> items = Iterate(runtime, input);
  List* const list = runtime->NewList();
  for (size_t i = items.size(); i > 0; --i) runtime->Append(list, items[i - 1]);
  if (!input.is_text()) return Value::Of(list);
  return Join(runtime, Value::Of(list), {});
}

Value Absolute(Runtime* runtime, const Value& input) {
  if (input.is_double()) return Value::Of(std::abs(input.real()));
  if (!input.is_number()) return runtime->Fail("abs needs a number");
  return input.integer() < 0 ? Arithmetic(runtime, "-", Value::Of(int64_t{0}), input) : Value::Of(input.integer());
}

Value TextFilter(Runtime* runtime, const Value& input, std::string (*map)(const std::string&)) {
  return runtime->MakeText(map(Printed(runtime, input)));
}

Value TrimFilter(Runtime* runtime, const Value& input, const Arguments& arguments) {
  const Value* const set = arguments.Get(0, "chars");
  const bool given = set != nullptr && set->is_text();
  if (given && set->text().size() > 256) return runtime->Fail("too many characters to strip");
  return runtime->MakeText(Strip(Printed(runtime, input), true, true, given ? &set->text() : nullptr));
}

const std::map<absl::string_view, Filter>& Filters() {
  using R = Runtime*;
  using V = const Value&;
  using A = const Arguments&;
  static const auto* const filters = new std::map<absl::string_view, Filter>{
      {"trim", TrimFilter},
      {"length", [](R r, V v, A) { return Value::Of(Length(r, v)); }},
      {"count", [](R r, V v, A) { return Value::Of(Length(r, v)); }},
      {"upper", [](R r, V v, A) { return TextFilter(r, v, Upper); }},
      {"lower", [](R r, V v, A) { return TextFilter(r, v, Lower); }},
      {"title", [](R r, V v, A) { return TextFilter(r, v, Title); }},
      {"capitalize", [](R r, V v, A) { return TextFilter(r, v, Capitalize); }},
      {"default", DefaultOf},
      {"d", DefaultOf},
      {"join", Join},
      {"first", [](R r, V v, A) { return FirstOrLast(r, v, true); }},
      {"last", [](R r, V v, A) { return FirstOrLast(r, v, false); }},
      {"tojson", ToJson},
      {"list", [](R r, V v, A) { return ToList(r, v); }},
      {"string", [](R r, V v, A) { return v.is_text() ? v : r->MakeText(Printed(r, v)); }},
      {"safe", [](R r, V v, A) { return v.is_text() ? v : r->MakeText(Printed(r, v)); }},
      {"int", ToInt},
      {"float", ToFloat},
      {"abs", [](R r, V v, A) { return Absolute(r, v); }},
      {"replace", ReplaceIn},
      {"select", [](R r, V v, A a) { return Select(r, v, a, false, true); }},
      {"reject", [](R r, V v, A a) { return Select(r, v, a, false, false); }},
      {"selectattr", [](R r, V v, A a) { return Select(r, v, a, true, true); }},
      {"rejectattr", [](R r, V v, A a) { return Select(r, v, a, true, false); }},
      {"map", Map},
      {"items",
       [](R r, V v, A a) { return v.is_undefined() ? Value::Of(r->NewList()) : CallMethod(r, v, "items", a); }},
      {"dictsort", DictSort},
      {"indent", Indent},
      {"reverse", [](R r, V v, A) { return Reverse(r, v); }},
  };
  return *filters;
}

bool Divides(Runtime* runtime, const Value& value, const Value& by) {
  const Value rest = Arithmetic(runtime, "%", value, by);
  return rest.is_number() && rest.real() == 0;
}

template <char op>
bool Ordered(Runtime* runtime, const Value& value, const Arguments& arguments) {
  constexpr const char* kOperator = op == '='   ? "=="
                                    : op == '!' ? "!="
                                    : op == '<' ? "<"
                                    : op == '>' ? ">"
                                    : op == 'l' ? "<="
                                                : ">=";
  return Compare(runtime, kOperator, value, FirstArgument(arguments));
}

const std::map<absl::string_view, Test>& Tests() {
  using R = Runtime*;
  using V = const Value&;
  using A = const Arguments&;
  static const auto* const tests = new std::map<absl::string_view, Test>{
      {"defined", [](R, V v, A) { return !v.is_undefined(); }},
      {"undefined", [](R, V v, A) { return v.is_undefined(); }},
      {"none", [](R, V v, A) { return v.is_none(); }},
      {"string", [](R, V v, A) { return v.is_text(); }},
      {"mapping", [](R, V v, A) { return v.dict() != nullptr && !v.dict()->is_namespace; }},
      {"sequence", [](R, V v, A) { return v.is_text() || v.list() || v.dict() || v.is_undefined(); }},
      {"iterable", [](R, V v, A) { return v.is_text() || v.list() || v.dict() || v.is_undefined(); }},
      {"number", [](R, V v, A) { return v.is_number(); }},
      {"integer", [](R, V v, A) { return v.is_int(); }},
      {"float", [](R, V v, A) { return v.is_double(); }},
      {"boolean", [](R, V v, A) { return v.is_bool(); }},
      {"true", [](R, V v, A) { return v.is_bool() && v.integer() == 1; }},
      {"false", [](R, V v, A) { return v.is_bool() && v.integer() == 0; }},
      {"callable", [](R, V v, A) { return v.callable() != nullptr; }},
      {"odd", [](R r, V v, A) { return !Divides(r, v, Value::Of(int64_t{2})); }},
      {"even", [](R r, V v, A) { return Divides(r, v, Value::Of(int64_t{2})); }},
      {"divisibleby", [](R r, V v, A a) { return Divides(r, v, FirstArgument(a)); }},
      {"in", [](R r, V v, A a) { return Contains(r, FirstArgument(a), v); }},
      {"equalto", Ordered<'='>},
      {"eq", Ordered<'='>},
      {"==", Ordered<'='>},
      {"ne", Ordered<'!'>},
      {"!=", Ordered<'!'>},
      {"lt", Ordered<'<'>},
      {"lessthan", Ordered<'<'>},
      {"gt", Ordered<'>'>},
      {"greaterthan", Ordered<'>'>},
      {"le", Ordered<'l'>},
      {"ge", Ordered<'g'>},
  };
  return *tests;
}

}  // namespace

bool IsFilter(absl::string_view name) { return Filters().contains(name); }
bool IsTest(absl::string_view name) { return Tests().contains(name); }

Value ApplyFilter(Runtime* runtime, const std::string& name, const Value& input, const Arguments& arguments) {
  return Filters().at(name)(runtime, input, arguments);
}

bool ApplyTest(Runtime* runtime, const std::string& name, const Value& value, const Arguments& arguments) {
  return Tests().at(name)(runtime, value, arguments);
}

}  // namespace attune::jinja
