#ifndef ATTUNE_SERVER_COMPARISON_ANSWERS_H_
#define ATTUNE_SERVER_COMPARISON_ANSWERS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/residency.h"
#include "server/comparison/comparison.h"
#include "server/data/dataset.h"
#include "server/engine/engine.h"
#include "server/evaluation/evaluator.h"

namespace attune {

// Rows to be answered, and how answers are judged. All models of a comparison answer the same.
struct Task {
  DatasetInfo data;                  // kind and templates, those of `options` in place (UseTemplates)
  std::vector<Row> rows;
  std::vector<std::string> choices;  // empty: answers are generated
  DataOptions options;               // of the comparison
};

// What one model answered to a task's rows, in their order. A row that does not fit counts as wrong, and nothing was
// expected of it or predicted for it.
struct Answers {
  std::vector<std::string> expected, predicted;
  std::vector<double> right;  // 0 or 1
  std::vector<double> confidence;
  double prompt_tokens = 0;   // mean
  double loss = 0;            // nats per token of the expected answers
};

// False ends the work with CANCELLED.
using GoOn = std::function<bool(int64_t done, int64_t total)>;

// Nothing but the task's choices is chosen among: without any, answers are generated, at most 64 tokens each.
// `prompt_template`: with which the model is asked, empty for its own, or the data's.
absl::StatusOr<Answers> Ask(Engine* engine, std::shared_ptr<const ServedModel> model, const Task& task,
                            const std::string& prompt_template, const GoOn& go_on);

// Share of right answers with its Wilson interval.
Measure QualityOf(const Answers& answers);

// For what a run notes down. DATA_LOSS (CORRUPT_COMPARISON).
std::string AnswersToJson(const Answers& answers);
absl::StatusOr<Answers> AnswersFromJson(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_ANSWERS_H_
