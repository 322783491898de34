#include "server/tokenizer/json_file.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {

using nlohmann::json;

namespace {
constexpr int64_t kMaxFileBytes = 128 << 20;
}  // namespace

absl::StatusOr<json> ReadJsonFile(const std::string& path) {
  if (SizeOnDisk(path) > kMaxFileBytes) return UnsupportedTokenizer(absl::StrCat(path, " is larger than 128 MiB"));
  absl::StatusOr<std::string> contents = ReadFile(path);
  if (absl::IsNotFound(contents.status())) return json();
  if (!contents.ok()) return contents.status();
  json value = json::parse(*contents, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return UnsupportedTokenizer(absl::StrCat(path, " is not JSON"));
  return value;
}

const json& Member(const json& object, const char* key) {
  static const auto* const null = new json();
  if (!object.is_object()) return *null;
  const auto it = object.find(key);
  return it == object.end() ? *null : *it;
}

std::string TextOf(const json& value, const std::string& fallback) {
  return value.is_string() ? value.get_ref<const std::string&>() : fallback;
}

bool BoolOf(const json& value, bool fallback) { return value.is_boolean() ? value.get<bool>() : fallback; }

int32_t IdOf(const json& value) {
  if (!value.is_number_integer()) return -1;
  if (value.is_number_unsigned() && value.get<uint64_t>() > std::numeric_limits<int32_t>::max()) return -1;
  const int64_t id = value.get<int64_t>();
  return id < 0 || id > std::numeric_limits<int32_t>::max() ? -1 : static_cast<int32_t>(id);
}

}  // namespace attune
