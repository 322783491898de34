#ifndef ATTUNE_SERVER_COMPARISON_JUDGE_H_
#define ATTUNE_SERVER_COMPARISON_JUDGE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/adapters/residency.h"
#include "server/comparison/answers.h"
#include "server/engine/engine.h"
#include "server/evaluation/engine_calls.h"

namespace attune {

// A model that says whether answers are right (model-based evaluation, Zheng et al. 2023). It is asked with a template over
// {{prompt}}, {{expected}} and {{answer}}, as a chat if it has a chat template; the answer is right if the judge finds
// "yes" likelier than "no".
struct Judge {
  std::shared_ptr<const ServedModel> model;
  std::string prompt;  // empty: the built-in one
};

// Errors: BAD_TEMPLATE; BAD_JUDGE_PROMPT for one that names another variable, or does not name the answer.
absl::Status CheckJudgePrompt(absl::string_view prompt);

// Sets the answers' scores, 0 or 1. Rows without an answer stay at 0, and so do those that the judge has no room for.
absl::Status JudgeAnswers(Engine* engine, const Judge& judge, const EvalTask& task, const GoOn& go_on, Answers* answers);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_JUDGE_H_
