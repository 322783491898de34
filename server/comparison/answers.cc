#include "server/comparison/answers.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "common/json_fields.h"
#include "server/comparison/judge.h"
#include "server/comparison/measure_names.h"
#include "server/evaluation/evaluator.h"

namespace attune {

void VisitFields(Is<Answers> auto& s, auto f) {
  f("expected", s.expected);
  f("predicted", s.predicted);
  f("scores", s.scores);
  f("confidence", s.confidence);
  f("prompt_tokens", s.prompt_tokens);
  f("loss", s.loss);
}

absl::StatusOr<Answers> Ask(Engine* engine, std::shared_ptr<const ServedModel> model, const EvalTask& task,
                            const std::string& prompt_template, const GoOn& go_on) {
  Answers answers;
  answers.expected.resize(task.rows.size());
  answers.predicted.resize(task.rows.size());
  answers.scores.resize(task.rows.size());
  answers.confidence.resize(task.rows.size());
  answers.repeat.resize(task.rows.size(), 1);
  int64_t fitting = 0;
  EvaluationOptions options;
  options.choices = task.choices;
  options.derive_choices = false;
  options.exact_match = task.choices.empty() && !task.by_likelihood;
  options.max_tokens = task.max_answer_tokens;
  options.priority = task.priority;
  options.most_under_way = task.most_under_way;
  options.tenant = task.tenant;
  options.temperature = task.temperature;
  options.seed = task.seed;
  options.prompt_template = prompt_template;
  // A tuned model's own limit counts, which in a text prompt leaves room for its text.
  if (model->info.max_sequence_tokens == 0) options.max_sequence_tokens = task.options.max_sequence_tokens;
  if (task.uses_data_templates) {
    options.prompt_template = task.data.prompt_template;
    options.completion_template = task.data.completion_template;
    options.max_sequence_tokens = model->context_tokens();
  }
  options.on_example = [&](const ExampleOutcome& outcome) {
    // Whole texts are not worth keeping: nobody compares them with anything.
    if (!task.by_likelihood) answers.expected[outcome.row] = outcome.expected;
    answers.predicted[outcome.row] = outcome.predicted;
    const bool is_scored = task.choices.empty() && task.scorer && !task.judge && !task.by_likelihood;
    answers.scores[outcome.row] =
        is_scored ? task.scorer->Score(outcome.expected, outcome.predicted) : static_cast<double>(outcome.is_right);
    if (task.by_likelihood) answers.scores[outcome.row] = std::exp(outcome.logprob);
    answers.confidence[outcome.row] = outcome.confidence;
    answers.repeat[outcome.row] = outcome.repeat;
    answers.prompt_tokens += static_cast<double>(outcome.prompt_tokens);
    ++fitting;
  };
  ATTUNE_ASSIGN_OR_RETURN(EvaluationResult result,
                          EvaluateRows(engine, std::move(model), task.data, task.rows, options, go_on));
  answers.loss = result.loss;
  if (fitting > 0) answers.prompt_tokens /= static_cast<double>(fitting);
  if (task.judge) ATTUNE_RETURN_IF_ERROR(JudgeAnswers(engine, *task.judge, task, go_on, &answers));
  return answers;
}

Measure QualityOf(const Answers& answers) { return MeanOf(kQuality, answers.scores); }

absl::StatusOr<double> RequestMilliseconds(Engine* engine, const std::shared_ptr<const ServedModel>& model, const EvalTask& task,
                                           const std::string& prompt_template, const GoOn& go_on) {
  std::vector<double> milliseconds;
  for (size_t i = 0; i < task.rows.size(); ++i) {
    EvalTask one = task;
    one.rows = {task.rows[i]};
    one.judge = nullptr;  // is no part of the answer
    one.priority = 0;     // as a user's
    const absl::Time start = absl::Now();
    const absl::StatusOr<Answers> answer = Ask(engine, model, one, prompt_template, go_on);
    if (absl::IsCancelled(answer.status())) return answer.status();
    if (answer.ok() && i >= task.rows.size() / 2 && i > 0) milliseconds.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
  }
  if (milliseconds.empty()) return 0.0;
  std::nth_element(milliseconds.begin(), milliseconds.begin() + milliseconds.size() / 2, milliseconds.end());
  return milliseconds[milliseconds.size() / 2];
}

std::string AnswersToJson(const Answers& answers) { return json_fields::ToText(answers); }

absl::StatusOr<Answers> AnswersFromJson(absl::string_view text) {
  Answers answers;
  const bool is_read = json_fields::FromText(text, &answers);
  const size_t rows = answers.expected.size();
  if (is_read && answers.predicted.size() == rows && answers.scores.size() == rows && answers.confidence.size() == rows) {
    return answers;
  }
  return MakeError(absl::StatusCode::kDataLoss, "CORRUPT_COMPARISON", "What a comparison noted down cannot be read.");
}

}  // namespace attune
