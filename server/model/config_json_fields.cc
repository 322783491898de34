#include "server/model/config_json_fields.h"

#include "absl/strings/str_cat.h"
#include "server/model/config_check.h"

namespace attune {

using Json = nlohmann::json;

template <typename T>
T ConfigFields::Wrong(const char* key, T fallback) {
  if (status_.ok()) status_ = ImpossibleModel(absl::StrCat("'", key, "' in config.json has a wrong type"));
  return fallback;
}

const Json* ConfigFields::Find(const char* key) const {
  auto it = json_.find(key);
  return it == json_.end() || it->is_null() ? nullptr : &*it;
}

int64_t ConfigFields::Int(const char* key, int64_t fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  // Big unsigned numbers would wrap.
  if (value->is_number_unsigned() && value->get<uint64_t>() > (uint64_t{1} << 62)) return Wrong(key, fallback);
  return value->is_number_integer() ? value->get<int64_t>() : Wrong(key, fallback);
}

int64_t ConfigFields::Need(const char* key) {
  if (Find(key) == nullptr && status_.ok()) status_ = ImpossibleModel(absl::StrCat("config.json has no '", key, "'"));
  return Int(key, 0);
}

double ConfigFields::Real(const char* key, double fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  return value->is_number() ? value->get<double>() : Wrong(key, fallback);
}

bool ConfigFields::Bool(const char* key, bool fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  return value->is_boolean() ? value->get<bool>() : Wrong(key, fallback);
}

std::string ConfigFields::Text(const char* key, const char* fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  return value->is_string() ? value->get<std::string>() : Wrong(key, std::string(fallback));
}

}  // namespace attune
