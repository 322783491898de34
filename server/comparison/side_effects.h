#ifndef ATTUNE_SERVER_COMPARISON_SIDE_EFFECTS_H_
#define ATTUNE_SERVER_COMPARISON_SIDE_EFFECTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/adapters/residency.h"
#include "server/comparison/answers.h"
#include "server/comparison/comparison.h"
#include "server/engine/engine.h"

// What tuning does besides: what is forgotten, how far the model has gone from its base, whether it answers
// paraphrases alike, and whether it knows its training rows better than others. Definitions:
// server/evaluation/README.md. All wait for the engine; CANCELLED once `go_on` says so.
namespace attune {

// Which items of the built-in retention probe a model gets right, in their order, 0 or 1.
absl::StatusOr<std::vector<double>> AnswerProbe(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                const GoOn& go_on);
// The share that is right.
Measure ProbeAccuracyOf(const std::vector<double>& right);
// What was lost against the base model: the mean of its scores less the tuned model's on the same rows; paired bootstrap
// interval. REQUIRES: as many of one as of the other.
Measure LossOf(absl::string_view name, const std::vector<double>& base, const std::vector<double>& tuned);

// Text that the base model writes itself, sampled, after the beginnings of the probe's paragraphs.
struct OwnText {
  std::vector<std::vector<int32_t>> prompts, continuations;
  std::vector<std::vector<double>> logprobs;  // the base model's, one a token of the continuation
};
absl::StatusOr<OwnText> WriteOwnText(Engine* engine, std::shared_ptr<const ServedModel> base, const GoOn& go_on);
// KL divergence of the base model's distribution from the tuned one's, in nats per token of that text: the mean of
// log p_base - log p_tuned, with a bootstrap interval over texts.
absl::StatusOr<Measure> DivergenceFrom(Engine* engine, const OwnText& text, std::shared_ptr<const ServedModel> tuned,
                                       const GoOn& go_on);

// Rows of the task, at most `most`, each with its paraphrases (measures/paraphrase.h): `group[i]` is the row that
// variant i is of. What changes is the row's input (InputColumn of parts.h); chats and rows without one have none.
// Errors: templates that cannot be read.
struct Variants {
  EvalTask task;
  std::vector<int64_t> group;
};
absl::StatusOr<Variants> MakeVariants(const EvalTask& task, int64_t most, uint64_t seed);
// The mean share of pairs of variants that got the same answer; bootstrap interval over rows.
Measure ConsistencyOf(const Variants& variants, const Answers& answers);

// How often an answer drawn again is the same, at temperature 1: of choices by their probabilities, of generated answers
// by three draws of each row. Bootstrap interval over rows; rows that do not fit do not count.
absl::StatusOr<Measure> ResampledBy(Engine* engine, std::shared_ptr<const ServedModel> model, EvalTask task,
                                    const std::string& prompt_template, const GoOn& go_on);

// Of the rows whose answers are long enough, at most 100, the share that the model gives word for word, greedily, after the
// prompt: the first 50 of its tokens that are trained on, or all, if these are 16 at least; of plain text 50 tokens after 50
// (measures/memorization.h). Count 0 if none is long enough.
absl::StatusOr<Measure> RecitedBy(Engine* engine, std::shared_ptr<const ServedModel> model, const EvalTask& task,
                                  const GoOn& go_on);

// Quality on training rows less that on validation rows; the interval of a difference of independent shares
// (Newcombe 1998, method 10).
Measure OverfittingOf(const Measure& train, const Measure& validation);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_SIDE_EFFECTS_H_
