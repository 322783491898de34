#ifndef ATTUNE_SERVER_EVALUATION_EVALUATOR_H_
#define ATTUNE_SERVER_EVALUATION_EVALUATOR_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/adapters/residency.h"
#include "server/data/dataset_store.h"
#include "server/data/example.h"
#include "server/engine/engine.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {

struct LabelResult {
  std::string label;
  int64_t count = 0, correct = 0, predicted = 0;
};

// What came of one example.
struct ExampleOutcome {
  int64_t row = 0;                  // its index among the rows
  std::string expected, predicted;  // labels, or, without choices, answers
  bool is_right = false;
  double confidence = 0;            // of the predicted choice among the choices; 0 without any
  double repeat = 1;                // probability that a choice drawn twice is the same; 1 without any
  double logprob = 0;               // of the expected answer: the mean over its tokens that have loss, in nats
  int64_t prompt_tokens = 0;        // virtual ones left out
};

struct EvaluationOptions {
  std::string dataset;                // id
  int64_t max_examples = 0;           // 0: all
  std::vector<std::string> choices;   // empty: the data's distinct answers if at most 100
  bool derive_choices = true;         // false: no choices where none are given
  bool exact_match = false;           // also generate
  // Empty fields: those the model was tuned with, else the dataset's.
  std::string prompt_template, completion_template;
  int64_t max_sequence_tokens = 0;    // 0: the model's tuned limit, else its context
  int max_tokens = 64;                // of a generated answer
  double temperature = 0;             // of generated answers
  uint64_t seed = 0;                  // theirs; each row has its own from it
  int priority = 0;                   // of its requests, as in GenerateParams
  int64_t most_under_way = 64;        // examples that are asked at once, 2 or more
  std::string tenant;
  // Told of every example that fits, in order, from the calling thread; may be null.
  std::function<void(const ExampleOutcome&)> on_example;
};

// Fields as in evaluation_service.proto.
struct EvaluationResult {
  int64_t examples = 0;
  bool has_label_accuracy = false, has_exact_match = false;
  Proportion label_accuracy, exact_match;
  double token_accuracy = 0, loss = 0, perplexity = 0;
  std::vector<LabelResult> labels;
  double seconds = 0;
};

// Measures a model on a dataset through the engine, many examples at a time.
// `on_progress(done, total)` is called from the calling thread and returns false to
// stop (CANCELLED). FAILED_PRECONDITION if nothing can be measured. Thread-safe.
absl::StatusOr<EvaluationResult> Evaluate(Engine* engine, std::shared_ptr<const ServedModel> model,
                                          const DatasetStore& datasets, const EvaluationOptions& options,
                                          const std::function<bool(int64_t, int64_t)>& on_progress);

// The same of rows that may be any part of a dataset, or none of it; `data` describes them. options.dataset is not
// looked at.
absl::StatusOr<EvaluationResult> EvaluateRows(Engine* engine, std::shared_ptr<const ServedModel> model,
                                              const DatasetInfo& data, const std::vector<Row>& rows,
                                              const EvaluationOptions& options,
                                              const std::function<bool(int64_t, int64_t)>& on_progress);

// How rows of `data` become examples for that model: by the options' templates and limit, else the model's own if it was
// tuned on rows of the same kind, else the data's.
RenderOptions RenderOptionsFor(const EvaluationOptions& options, const ServedModel& model, const DatasetInfo& data);

// How labels become continuations of a prompt, for classification: the tokens of
// each rendered label, with the end token only where one label's tokens are the
// beginning of another's.
std::vector<std::vector<int32_t>> ChoiceContinuations(const Tokenizer& tokenizer,
                                                      const std::vector<std::string>& rendered_labels);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_EVALUATOR_H_
