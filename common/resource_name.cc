#include "common/resource_name.h"

#include <cstdint>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {

absl::Status CheckId(absl::string_view id, absl::string_view field) {
  bool good = !id.empty() && id.size() <= 63 && absl::ascii_islower(id.front()) && id.back() != '-';
  for (char c : id) good = good && (absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-');
  if (good) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("'", id, "' is no valid id; use 1 to 63 of a-z, 0-9 and '-', first a letter, "
                                          "last not '-'"), "INVALID_ID");
}

absl::StatusOr<std::string> ParseName(absl::string_view collection, absl::string_view name, absl::string_view field) {
  std::string prefix = absl::StrCat(collection, "/");
  if (!absl::StartsWith(name, prefix)) {
    return InvalidField(field, absl::StrCat("must be '", prefix, "{id}', not '", name, "'"), "INVALID_NAME");
  }
  std::string id(name.substr(prefix.size()));
  ATTUNE_RETURN_IF_ERROR(CheckId(id, field));
  return id;
}

std::string RandomId(absl::string_view prefix) {
  static constexpr char kDigits[] = "abcdefghijkmnpqrstuvwxyz23456789";
  absl::BitGen gen;
  uint64_t bits = absl::Uniform<uint64_t>(gen);
  std::string id = absl::StrCat(prefix, "-");
  for (int i = 0; i < 8; ++i, bits >>= 5) id += kDigits[bits & 31];
  return id;
}

std::string MakeId(absl::string_view text) {
  std::string id;
  for (char c : text) {
    if (absl::ascii_isalnum(c)) {
      id += absl::ascii_tolower(c);
    } else if (!id.empty() && id.back() != '-') {
      id += '-';
    }
    if (id.size() == 48) break;
  }
  while (!id.empty() && id.back() == '-') id.pop_back();
  while (!id.empty() && !absl::ascii_islower(id.front())) id.erase(0, 1);
  return id.empty() ? "x" : id;
}

}  // namespace attune
