#include "server/comparison/answers.h"

#include <numeric>
#include <utility>

#include "common/error.h"
#include "common/json_fields.h"
#include "server/comparison/measure_names.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {

void VisitFields(Is<Answers> auto& s, auto f) {
  f("expected", s.expected);
  f("predicted", s.predicted);
  f("right", s.right);
  f("confidence", s.confidence);
  f("prompt_tokens", s.prompt_tokens);
  f("loss", s.loss);
}

absl::StatusOr<Answers> Ask(Engine* engine, std::shared_ptr<const ServedModel> model, const Task& task,
                            const std::string& prompt_template, const GoOn& go_on) {
  Answers answers;
  answers.expected.resize(task.rows.size());
  answers.predicted.resize(task.rows.size());
  answers.right.resize(task.rows.size());
  answers.confidence.resize(task.rows.size());
  int64_t fitting = 0;
  EvaluationOptions options;
  options.choices = task.choices;
  options.derive_choices = false;
  options.exact_match = task.choices.empty();
  options.prompt_template = prompt_template;
  // A tuned model's own limit counts, which in a text prompt leaves room for its text.
  if (model->info.max_sequence_tokens == 0) options.max_sequence_tokens = task.options.max_sequence_tokens;
  options.on_example = [&](const ExampleOutcome& outcome) {
    answers.expected[outcome.row] = outcome.expected;
    answers.predicted[outcome.row] = outcome.predicted;
    answers.right[outcome.row] = outcome.is_right;
    answers.confidence[outcome.row] = outcome.confidence;
    answers.prompt_tokens += static_cast<double>(outcome.prompt_tokens);
    ++fitting;
  };
  ATTUNE_ASSIGN_OR_RETURN(EvaluationResult result,
                          EvaluateRows(engine, std::move(model), task.data, task.rows, options, go_on));
  answers.loss = result.loss;
  if (fitting > 0) answers.prompt_tokens /= static_cast<double>(fitting);
  return answers;
}

Measure QualityOf(const Answers& answers) {
  const int64_t count = static_cast<int64_t>(answers.right.size());
  const double right = std::accumulate(answers.right.begin(), answers.right.end(), 0.0);
  const Proportion share = WilsonInterval(static_cast<int64_t>(right), count);
  return {std::string(kQuality), share.value, share.lower, share.upper, count};
}

std::string AnswersToJson(const Answers& answers) { return json_fields::ToText(answers); }

absl::StatusOr<Answers> AnswersFromJson(absl::string_view text) {
  Answers answers;
  if (json_fields::FromText(text, &answers)) return answers;
  return MakeError(absl::StatusCode::kDataLoss, "CORRUPT_COMPARISON", "What a comparison noted down cannot be read.");
}

}  // namespace attune
