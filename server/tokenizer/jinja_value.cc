#include "server/tokenizer/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace attune::jinja {
namespace {

constexpr int kMaxNesting = 64;

std::string RealText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char digits[64];
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto end = std::to_chars(digits, digits + sizeof(digits), value,
                                 plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(digits, end.ptr);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

void AppendQuoted(const std::string& text, std::string* out) {
  const bool has_single = text.find('\'') != std::string::npos, has_double = text.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  *out += quote;
  for (const char c : text) {
    if (c == quote || c == '\\') {
      *out += {'\\', c};
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\r') {
      *out += "\\r";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) {
      absl::StrAppendFormat(out, "\\x%02x", static_cast<uint8_t>(c));
    } else {
      *out += c;
    }
  }
  *out += quote;
}

void AppendJsonText(const std::string& text, std::string* out) {
  *out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': *out += "\\\""; break;
      case '\\': *out += "\\\\"; break;
      case '\n': *out += "\\n"; break;
      case '\r': *out += "\\r"; break;
      case '\t': *out += "\\t"; break;
      case '\b': *out += "\\b"; break;
      case '\f': *out += "\\f"; break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          absl::StrAppendFormat(out, "\\u%04x", static_cast<uint8_t>(c));
        } else {
          *out += c;
        }
    }
  }
  *out += '"';
}

// A scalar as Python prints it; false for anything else.
bool AppendScalar(const Value& value, std::string* out) {
  if (value.is_none()) {
    *out += "None";
  } else if (value.is_bool()) {
    *out += value.integer() ? "True" : "False";
  } else if (value.is_int()) {
    absl::StrAppend(out, value.integer());
  } else if (value.is_double()) {
    *out += RealText(value.real());
  } else {
    return false;
  }
  return true;
}

void BreakLine(int indent, int depth, std::string* out) {
  if (indent < 0) return;
  *out += '\n';
  out->append(static_cast<size_t>(indent) * depth, ' ');
}

bool AppendJsonItems(const Value& value, int indent, size_t limit, std::string* out, int depth) {
  const Dict* const dict = value.dict();
  const size_t count = dict ? dict->items.size() : value.list()->items.size();
  *out += dict ? '{' : '[';
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) *out += indent < 0 ? ", " : ",";
    BreakLine(indent, depth + 1, out);
    if (dict) {
      if (!dict->items[i].first.is_text()) return false;
      AppendJsonText(dict->items[i].first.text(), out);
      *out += ": ";
    }
    if (!AppendJson(dict ? dict->items[i].second : value.list()->items[i], indent, limit, out, depth + 1)) return false;
  }
  if (count > 0) BreakLine(indent, depth, out);
  *out += dict ? '}' : ']';
  return out->size() <= limit;
}

}  // namespace

bool Value::Truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return real() != 0;
  if (is_text()) return !text().empty();
  if (list() != nullptr) return !list()->items.empty();
  if (dict() != nullptr) return dict()->is_namespace || !dict()->items.empty();
  return true;
}

absl::string_view Value::KindName() const {
  static constexpr const char* kNames[] = {"undefined", "none", "boolean",    "integer", "float",
                                           "string",    "list", "dictionary", "function"};
  return kNames[data_.index()];
}

bool Equal(const Value& a, const Value& b, int64_t* budget, int depth) {
  if (--*budget < 0 || depth > kMaxNesting) return false;
  if (a.is_number() && b.is_number()) {
    return a.is_double() || b.is_double() ? a.real() == b.real() : a.integer() == b.integer();
  }
  if (a.is_text() && b.is_text()) {
    if (a.text().size() != b.text().size()) return false;
    *budget -= static_cast<int64_t>(a.text().size() / 16);
    return a.text() == b.text();
  }
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.list() && b.list()) {
    const auto &x = a.list()->items, &y = b.list()->items;
    if (a.list()->tuple != b.list()->tuple || x.size() != y.size()) return false;
    for (size_t i = 0; i < x.size(); ++i) {
      if (!Equal(x[i], y[i], budget, depth + 1)) return false;
    }
    return true;
  }
  if (a.dict() && b.dict()) {
    if (a.dict() == b.dict()) return true;
    if (a.dict()->items.size() != b.dict()->items.size()) return false;
    for (const auto& [key, value] : a.dict()->items) {
      const Value* const other = Find(*b.dict(), key, budget);
      if (other == nullptr || !Equal(value, *other, budget, depth + 1)) return false;
    }
    return true;
  }
  return false;
}

const Value* Find(const Dict& dict, const Value& key, int64_t* budget) {
  for (const auto& item : dict.items) {
    if (Equal(item.first, key, budget)) return &item.second;
  }
  return nullptr;
}

void Put(Dict* dict, Value key, Value value, int64_t* budget) {
  for (auto& item : dict->items) {
    if (Equal(item.first, key, budget)) {
      item.second = std::move(value);
      return;
    }
  }
  dict->items.emplace_back(std::move(key), std::move(value));
}

bool AppendPrinted(const Value& value, size_t limit, std::string* out) {
  if (value.is_undefined()) return true;
  if (!value.is_text()) return AppendRepr(value, limit, out);
  if (value.text().size() > limit - std::min(limit, out->size())) return false;
  *out += value.text();
  return true;
}

bool AppendRepr(const Value& value, size_t limit, std::string* out, int depth) {
  if (depth > kMaxNesting || out->size() > limit) return false;
  if (AppendScalar(value, out)) return true;
  if (value.is_undefined()) {
    *out += "Undefined";
  } else if (value.is_text()) {
    AppendQuoted(value.text(), out);
  } else if (value.list()) {
    const bool tuple = value.list()->tuple;
    *out += tuple ? '(' : '[';
    for (const Value& item : value.list()->items) {
      if (&item != value.list()->items.data()) *out += ", ";
      if (!AppendRepr(item, limit, out, depth + 1)) return false;
    }
    if (tuple && value.list()->items.size() == 1) *out += ',';
    *out += tuple ? ')' : ']';
  } else if (value.dict()) {
    *out += '{';
    for (const auto& item : value.dict()->items) {
      if (&item != value.dict()->items.data()) *out += ", ";
      if (!AppendRepr(item.first, limit, out, depth + 1)) return false;
      *out += ": ";
      if (!AppendRepr(item.second, limit, out, depth + 1)) return false;
    }
    *out += '}';
  } else {
    return false;  // functions have no text worth showing
  }
  return out->size() <= limit;
}

bool AppendJson(const Value& value, int indent, size_t limit, std::string* out, int depth) {
  if (depth > kMaxNesting || out->size() > limit) return false;
  if (value.is_none()) {
    *out += "null";
  } else if (value.is_bool()) {
    *out += value.integer() ? "true" : "false";
  } else if (value.is_number()) {
    return AppendScalar(value, out);
  } else if (value.is_text()) {
    AppendJsonText(value.text(), out);
  } else if (value.list() || value.dict()) {
    return AppendJsonItems(value, indent, limit, out, depth);
  } else {
    return false;
  }
  return out->size() <= limit;
}

}  // namespace attune::jinja
