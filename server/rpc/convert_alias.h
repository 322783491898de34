#ifndef ATTUNE_SERVER_RPC_CONVERT_ALIAS_H_
#define ATTUNE_SERVER_RPC_CONVERT_ALIAS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "attune/v1/alias.pb.h"
#include "server/adapters/alias.h"

// Aliases: protobuf to the server's types and back.
namespace attune {

// Checks names; the rest is AliasStore::Set's. A sole target without a weight gets 1.
absl::StatusOr<std::vector<AliasTarget>> ToAliasTargets(const v1::Alias& alias);

v1::Alias ToProto(const Alias& alias);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_ALIAS_H_
