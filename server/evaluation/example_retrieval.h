#ifndef ATTUNE_SERVER_EVALUATION_EXAMPLE_RETRIEVAL_H_
#define ATTUNE_SERVER_EVALUATION_EXAMPLE_RETRIEVAL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/adapters/residency.h"
#include "server/data/example.h"
#include "server/data/text_prompt.h"
#include "server/engine/engine.h"
#include "server/evaluation/engine_calls.h"

// Examples by similarity to the input (Liu et al. 2022, "What Makes Good In-Context Examples for GPT-3?"): the base
// model embeds a request's input, and the nearest rows of the prompt's pool stand before it. All who ask a model by a
// text prompt do it through here: requests, evaluations with all that is made of them, and searches.
namespace attune {

// What is embedded of a row: its input as the prompt writes it, without anything before it, its end cut off where it is
// too long. Empty if the row renders to nothing: it is like no example more than another. INVALID_ARGUMENT
// (MISSING_COLUMN).
absl::StatusOr<std::vector<int32_t>> QueryTokens(const ServedModel& model, const TextPrompt& prompt,
                                                 const Columns& columns);

// Renders the row that `query` is the embedding of (empty where there are no tokens), by `options` with the prompt's
// own template, in which the row's examples are: the least similar are left out where the template would otherwise take
// more than the row's input leaves, and more than half of the tokens. `left_out`: see MostSimilar. The model must outlive
// the renderer. INVALID_ARGUMENT (MISSING_COLUMN).
absl::StatusOr<ExampleRenderer> RendererFor(const ServedModel& model, const TextPrompt& prompt, RenderOptions options,
                                            const Columns& row, const std::vector<float>& query, int64_t left_out = -1);

// The example of the pool that is that row; -1 if there is none. An evaluation of training rows would otherwise show each its
// own answer.
int64_t ExampleOf(const ExamplePool& pool, const Columns& row);

// By row, what RendererFor takes as `query`. Waits; see EmbedAll.
absl::StatusOr<std::vector<std::vector<float>>> EmbedQueries(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                             const TextPrompt& prompt,
                                                             const std::vector<const Columns*>& rows,
                                                             const GoOn& go_on);

// A pool of these rows with their embeddings. Waits; see EmbedAll. INVALID_ARGUMENT (INVALID_FIELD) for a row whose
// input renders to nothing, (MISSING_COLUMN).
absl::StatusOr<std::shared_ptr<const ExamplePool>> MakePool(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                            const TextPrompt& prompt, std::vector<Columns> rows,
                                                            const GoOn& go_on);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_EXAMPLE_RETRIEVAL_H_
