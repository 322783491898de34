#ifndef ATTUNE_SERVER_MODEL_CONFIG_JSON_FIELDS_H_
#define ATTUNE_SERVER_MODEL_CONFIG_JSON_FIELDS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace attune {

// Members of a config.json, or of an object in it, by name; null counts as absent. The first wrong type is kept in
// `status`. The JSON must outlive this.
class ConfigFields {
 public:
  explicit ConfigFields(const nlohmann::json& json) : json_(json) {}

  bool Has(const char* key) const { return json_.contains(key); }
  const nlohmann::json* Find(const char* key) const;
  int64_t Int(const char* key, int64_t fallback);
  int64_t Need(const char* key);
  double Real(const char* key, double fallback);
  bool Bool(const char* key, bool fallback);
  std::string Text(const char* key, const char* fallback);
  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  T Wrong(const char* key, T fallback);

  const nlohmann::json& json_;
  absl::Status status_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_CONFIG_JSON_FIELDS_H_
