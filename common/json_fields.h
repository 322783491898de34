#ifndef ATTUNE_COMMON_JSON_FIELDS_H_
#define ATTUNE_COMMON_JSON_FIELDS_H_

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

// Plain structs as JSON and back, from one list of their fields: for each struct a function
//   void VisitFields(Is<MyStruct> auto& s, auto f) { f("name", s.name); ... }
// in the struct's namespace. Unset optionals are left out, and a missing field reads as it was
// before, so that what was written outlives added fields. Enums are their numbers, times
// microseconds; NaN and infinities survive, as text. Other types add a ToJson and a FromJson of their own, in
// their namespace.
namespace attune {

// `Is<S, T>`: S is T or const T, so that one list of fields serves both ways.
template <typename S, typename T>
concept Is = std::same_as<std::remove_const_t<S>, T>;

namespace json_fields {

using Json = nlohmann::json;

inline Json ToJson(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}
inline Json ToJson(const std::string& value) { return value; }
inline Json ToJson(const std::map<std::string, std::string>& value) { return value; }
inline Json ToJson(const absl::Time& value) { return absl::ToUnixMicros(value); }
template <typename T>
  requires std::integral<T> || std::is_enum_v<T>
Json ToJson(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return static_cast<int>(value);
  } else {
    return value;
  }
}
template <typename T>
Json ToJson(const std::optional<T>& value);
template <typename T>
Json ToJson(const std::vector<T>& value);
template <typename T>
  requires std::is_class_v<T>
Json ToJson(const T& value) {
  Json json = Json::object();
  VisitFields(value, [&json](const char* key, const auto& field) {
    Json child = ToJson(field);
    if (!child.is_null()) json[key] = std::move(child);
  });
  return json;
}
template <typename T>
Json ToJson(const std::optional<T>& value) {
  return value ? ToJson(*value) : Json();
}
template <typename T>
Json ToJson(const std::vector<T>& value) {
  Json json = Json::array();
  for (const T& item : value) json.push_back(ToJson(item));
  return json;
}

// FromJson: false if `json` is not what ToJson makes of such a value.
inline bool FromJson(const Json& json, double* value) {
  if (json.is_number()) {
    *value = json.get<double>();
  } else if (json == "nan") {
    *value = std::numeric_limits<double>::quiet_NaN();
  } else if (json == "inf" || json == "-inf") {
    *value = json == "inf" ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
  } else {
    return false;
  }
  return true;
}
inline bool FromJson(const Json& json, bool* value) {
  if (!json.is_boolean()) return false;
  *value = json.get<bool>();
  return true;
}
inline bool FromJson(const Json& json, std::string* value) {
  if (!json.is_string()) return false;
  *value = json.get<std::string>();
  return true;
}
template <typename T>
  requires std::same_as<T, int32_t> || std::same_as<T, int64_t> || std::is_enum_v<T>
bool FromJson(const Json& json, T* value) {
  if (!json.is_number_integer()) return false;
  *value = static_cast<T>(json.get<int64_t>());
  return true;
}
inline bool FromJson(const Json& json, absl::Time* value) {
  if (!json.is_number_integer()) return false;
  *value = absl::FromUnixMicros(json.get<int64_t>());
  return true;
}
inline bool FromJson(const Json& json, std::map<std::string, std::string>* value) {
  if (!json.is_object()) return false;
  for (const auto& [key, child] : json.items()) {
    if (!FromJson(child, &(*value)[key])) return false;
  }
  return true;
}
template <typename T>
bool FromJson(const Json& json, std::optional<T>* value);
template <typename T>
bool FromJson(const Json& json, std::vector<T>* value);
template <typename T>
  requires std::is_class_v<T>
bool FromJson(const Json& json, T* value) {
  if (!json.is_object()) return false;
  bool good = true;
  VisitFields(*value, [&](const char* key, auto& field) {
    auto child = json.find(key);
    if (child != json.end() && !FromJson(*child, &field)) good = false;
  });
  return good;
}
template <typename T>
bool FromJson(const Json& json, std::optional<T>* value) {
  return FromJson(json, &value->emplace());
}
template <typename T>
bool FromJson(const Json& json, std::vector<T>* value) {
  if (!json.is_array()) return false;
  for (const Json& child : json) {
    if (!FromJson(child, &value->emplace_back())) return false;
  }
  return true;
}

// On one line; bytes that are no UTF-8 are replaced.
template <typename T>
std::string ToText(const T& value) {
  return ToJson(value).dump(-1, ' ', false, Json::error_handler_t::replace);
}
// False if the text is not what ToText makes of such a value.
template <typename T>
bool FromText(absl::string_view text, T* value) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  return !json.is_discarded() && FromJson(json, value);
}

}  // namespace json_fields
}  // namespace attune

#endif  // ATTUNE_COMMON_JSON_FIELDS_H_
