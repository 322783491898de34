#ifndef ATTUNE_SERVER_ADAPTERS_ALIAS_ROUTER_H_
#define ATTUNE_SERVER_ADAPTERS_ALIAS_ROUTER_H_

#include <vector>

#include "absl/strings/string_view.h"
#include "server/adapters/alias.h"

namespace attune {

// The target that requests with `key` go to: a function of targets and key alone, the same on every machine and after
// every restart, whatever the targets' order. Over many keys each target gets its weight's part.
//
// Weighted rendezvous hashing (Thaler and Ravishankar 1998; the logarithmic method of Schindelhauer and Schomaker
// 2005). So a change of weights moves keys only to targets whose weight has grown relative to where they were: between
// two targets, or to one at the cost of all the others alike, exactly as many as its part has grown by.
//
// REQUIRES: `targets` not empty, weights above 0.
const AliasTarget& ChooseTarget(const std::vector<AliasTarget>& targets, absl::string_view key);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_ALIAS_ROUTER_H_
