#ifndef ATTUNE_SERVER_RPC_CONVERT_COMPARISON_H_
#define ATTUNE_SERVER_RPC_CONVERT_COMPARISON_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "attune/v1/comparison.pb.h"
#include "server/comparison/comparison.h"

// Comparisons: protobuf to the server's types and back.
namespace attune {

// Checks names, hyperparameters and data options; the rest is ValidateComparisonSpec's. Output-only fields are
// ignored. `id` may be empty.
absl::StatusOr<ComparisonSpec> ToComparisonSpec(const v1::Comparison& comparison, absl::string_view id);

v1::Comparison ToProto(const Comparison& comparison);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_COMPARISON_H_
