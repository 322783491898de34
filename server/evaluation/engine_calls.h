#ifndef ATTUNE_SERVER_EVALUATION_ENGINE_CALLS_H_
#define ATTUNE_SERVER_EVALUATION_ENGINE_CALLS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/engine/engine.h"

// Many requests to the engine, a window of them under way at a time; those that find its queue full are asked again.
// All wait; results come in order, from the calling thread.
namespace attune {

// Told how many of how many are done; false ends the work with CANCELLED.
using GoOn = std::function<bool(int64_t done, int64_t total)>;

absl::Status ScoreAll(Engine* engine, const std::vector<ScoreParams>& all, const GoOn& go_on,
                      const std::function<void(size_t i, const ScoreResult& result)>& on_result);

// One sequence each: n and best_of are 1.
absl::Status GenerateAll(Engine* engine, const std::vector<GenerateParams>& all, const GoOn& go_on,
                         const std::function<void(size_t i, const std::vector<int32_t>& tokens)>& on_result);

// Embeddings (means of hidden states) of inputs, in their order; none may be empty. A few at a time, so that
// requests of people wait for no more than these.
absl::StatusOr<std::vector<std::vector<float>>> EmbedAll(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                         const std::vector<std::vector<int32_t>>& inputs,
                                                         const GoOn& go_on);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_ENGINE_CALLS_H_
