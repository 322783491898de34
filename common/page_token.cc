#include "common/page_token.h"

#include <algorithm>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/error.h"
#include "common/stable_hash.h"

namespace attune {
namespace {

std::string Fingerprint(absl::string_view scope) { return absl::StrCat(absl::Hex(StableHash(scope))); }

}  // namespace

std::string EncodePageToken(absl::string_view scope, int64_t position) {
  return absl::WebSafeBase64Escape(absl::StrCat(Fingerprint(scope), ":", position));
}

absl::StatusOr<int64_t> DecodePageToken(absl::string_view scope, absl::string_view token) {
  if (token.empty()) return std::numeric_limits<int64_t>::max();
  std::string text;
  int64_t position = 0;
  if (absl::WebSafeBase64Unescape(token, &text)) {
    std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
    if (parts.first == Fingerprint(scope) && absl::SimpleAtoi(parts.second, &position)) {
      return position;
    }
  }
  return InvalidField("page_token", "does not come from this listing with these filters", "INVALID_PAGE_TOKEN");
}

absl::StatusOr<int> PageSize(int requested) {
  if (requested < 0) return InvalidField("page_size", "must not be negative");
  return requested == 0 ? 100 : std::min(requested, 1000);
}

}  // namespace attune
