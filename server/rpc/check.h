#ifndef ATTUNE_SERVER_RPC_CHECK_H_
#define ATTUNE_SERVER_RPC_CHECK_H_

#include <google/protobuf/map.h>
#include <google/protobuf/timestamp.pb.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "attune/v1/tuning_job.pb.h"
#include "server/jobs/job.h"

// What several services check and convert alike. `field` is the path in the request.
namespace attune {

using StringMap = google::protobuf::Map<std::string, std::string>;

// INVALID_ARGUMENT unless low <= value <= high (never true for NaN).
absl::Status CheckRange(double value, double low, double high, absl::string_view field);
absl::Status CheckRange(int64_t value, int64_t low, int64_t high, absl::string_view field);
// The same for one that zero leaves unset.
absl::Status CheckRangeOrUnset(int64_t value, int64_t low, int64_t high, absl::string_view field);
absl::Status CheckLength(absl::string_view value, size_t most_bytes, absl::string_view field);
// At most 32 pairs, keys not empty, each side at most 128 bytes.
absl::Status CheckLabels(const StringMap& labels, absl::string_view field);
// Templates parse; numbers are in the ranges of tuning_job.proto.
absl::Status CheckDataOptions(const v1::DataOptions& options, absl::string_view field);

// FAILED_PRECONDITION with that reason unless `users`, unfinished ones of that kind ("tuning_jobs", the metadata's key), is
// empty.
absl::Status CheckUnused(absl::string_view what, absl::string_view reason, absl::string_view kind,
                         const std::vector<std::string>& users);

std::map<std::string, std::string> ToMap(const StringMap& map);
google::protobuf::Timestamp ToTimestamp(absl::Time time);
DataOptions ToDataOptions(const v1::DataOptions& options);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CHECK_H_
