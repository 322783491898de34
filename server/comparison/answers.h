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
#include "server/comparison/answer_scorer.h"
#include "server/comparison/comparison.h"
#include "server/data/dataset.h"
#include "server/engine/engine.h"
#include "server/evaluation/engine_calls.h"

namespace attune {

struct Judge;

// Rows to be answered, and how answers are judged. All models of a comparison answer the same.
struct EvalTask {
  DatasetInfo data;                  // kind and templates, those of `options` in place (UseTemplates)
  std::vector<Row> rows;
  std::vector<std::string> choices;  // empty: answers are generated
  DataOptions options;               // of the comparison
  // The data is another task than the model was tuned for: neither its templates nor its length limit apply.
  bool uses_data_templates = false;
  int max_answer_tokens = 64;        // of a generated answer
  std::string tenant;                // whose share of the engine it is
  int priority = kBackgroundPriority;
  int64_t most_under_way = 64;       // rows that are asked at once
  double temperature = 0;            // of generated answers
  uint64_t seed = 0;
  std::shared_ptr<const AnswerScorer> scorer;  // of generated answers; null: they must be exact
  std::shared_ptr<const Judge> judge;          // null: none; else in the scorer's place
  bool by_likelihood = false;                  // nothing is generated, and nothing is predicted
};

// What one model answered to a task's rows, in their order. A row that does not fit counts as wrong, and nothing was
// expected of it or predicted for it.
struct Answers {
  std::vector<std::string> expected, predicted;
  std::vector<double> scores;  // by the task's metric, 0 to 1; of choices 0 or 1
  std::vector<double> confidence;
  std::vector<double> repeat;  // probability that a choice drawn twice is the same
  double prompt_tokens = 0;   // mean
  double loss = 0;            // nats per token of the expected answers
};

// Nothing but the task's choices is chosen among: without any, answers are generated.
// `prompt_template`: with which the model is asked, empty for its own, or the data's.
absl::StatusOr<Answers> Ask(Engine* engine, std::shared_ptr<const ServedModel> model, const EvalTask& task,
                            const std::string& prompt_template, const GoOn& go_on);

// MeanOf the scores.
Measure QualityOf(const Answers& answers);

// The median time of a request alone: the task's rows are asked one after another, the first half of them to warm up, since a
// device is slower with sizes that it sees for the first time. 0 if none of the others fits.
absl::StatusOr<double> RequestMilliseconds(Engine* engine, const std::shared_ptr<const ServedModel>& model, const EvalTask& task,
                                           const std::string& prompt_template, const GoOn& go_on);

// For what a run notes down. DATA_LOSS (CORRUPT_COMPARISON).
std::string AnswersToJson(const Answers& answers);
absl::StatusOr<Answers> AnswersFromJson(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_ANSWERS_H_
