#ifndef ATTUNE_COMMON_PAGE_TOKEN_H_
#define ATTUNE_COMMON_PAGE_TOKEN_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Opaque page tokens. A listing is ordered by a position that never changes (a
// database row number), so pages stay right while rows come and go.
namespace attune {

// A token that resumes below `position` of the listing called `scope`, which
// holds the collection and the filters.
std::string EncodePageToken(absl::string_view scope, int64_t position);

// The position; INT64_MAX for an empty token. INVALID_ARGUMENT
// (INVALID_PAGE_TOKEN) if the token is not from this scope.
absl::StatusOr<int64_t> DecodePageToken(absl::string_view scope, absl::string_view token);

// `page_size` with its default (100) and cap (1000) applied; negative is INVALID_ARGUMENT.
absl::StatusOr<int> PageSize(int requested);

}  // namespace attune

#endif  // ATTUNE_COMMON_PAGE_TOKEN_H_
