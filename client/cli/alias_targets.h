#ifndef ATTUNE_CLIENT_CLI_ALIAS_TARGETS_H_
#define ATTUNE_CLIENT_CLI_ALIAS_TARGETS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "attune/v1/alias.pb.h"

// How the command reads, shifts and shows an alias's targets. All pure.
namespace attune::cli {

using AliasTargets = std::vector<v1::Alias::Target>;

// "MODEL" alone, or two and more of "MODEL=WEIGHT" (integers) or "MODEL=SHARE%" (which sum to 100%, at most four
// decimals). INVALID_ARGUMENT else.
absl::StatusOr<AliasTargets> ParseTargets(const std::vector<std::string>& items);

// `percent` of the requests, above 0 and below 100, for `model`; the rest stays with the other present targets, in
// their present proportion. `model` alone if there are no others.
AliasTargets WithShare(const AliasTargets& present, const std::string& model, double percent);

// "lora-r8", or "lora-r8 10%, lora-r4 90%".
std::string FormatTargets(const google::protobuf::RepeatedPtrField<v1::Alias::Target>& targets);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_ALIAS_TARGETS_H_
