#ifndef ATTUNE_SERVER_RPC_ROUTE_KEY_H_
#define ATTUNE_SERVER_RPC_ROUTE_KEY_H_

#include <string>

#include "attune/v1/generation_service.pb.h"

namespace attune {

// What a request keeps to one of an alias's models by: see ModelProvider. The prompt's own text, ids or variables; of a
// chat the turns up to the user's first one, so that a conversation stays with its model as it grows. Empty without a
// prompt. Prompts of different forms have different keys.
std::string RouteKey(const v1::Prompt& prompt);
// The tenant if the request names one, else its prompt's.
std::string RouteKey(const v1::GenerateRequest& request);
// The first input's, since embeddings of one call are for each other.
std::string RouteKey(const v1::EmbedRequest& request);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_ROUTE_KEY_H_
