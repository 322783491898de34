#ifndef ATTUNE_SERVER_TOKENIZER_JSON_FILE_H_
#define ATTUNE_SERVER_TOKENIZER_JSON_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace attune {

// Reads outside JSON without exceptions: every getter gives a default for what is
// absent or of another kind.

// The file's value; null if the file is not there. UNSUPPORTED_TOKENIZER if it is
// too large or not JSON.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

// The member, or a null value.
const nlohmann::json& Member(const nlohmann::json& object, const char* key);

std::string TextOf(const nlohmann::json& value, const std::string& fallback = "");
bool BoolOf(const nlohmann::json& value, bool fallback);
// -1 unless it is an integer between 0 and 2^31 - 1.
int32_t IdOf(const nlohmann::json& value);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_JSON_FILE_H_
