#include "server/comparison/judge.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/comparison/parts.h"
#include "server/data/template.h"
#include "server/data/text_encoder.h"
#include "server/evaluation/question.h"

namespace attune {
namespace {

constexpr absl::string_view kUsualPrompt =
    "Question:\n{{prompt}}\n\nReference answer:\n{{expected}}\n\nAnswer to judge:\n{{answer}}\n\n"
    "Does the answer to judge say the same as the reference answer? Reply with yes or no.";
constexpr const char* kVerdicts[] = {"yes", "no"};

absl::StatusOr<PromptTemplate> ParsePrompt(absl::string_view prompt) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate parsed, PromptTemplate::Parse(prompt.empty() ? kUsualPrompt : prompt));
  bool has_answer = false;
  for (const std::string& name : parsed.variables()) {
    has_answer |= name == "answer";
    if (name == "prompt" || name == "expected" || name == "answer") continue;
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_JUDGE_PROMPT",
                     absl::StrCat("A judge's prompt may name {{prompt}}, {{expected}} and {{answer}}, not {{", name, "}}."));
  }
  if (has_answer) return parsed;
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_JUDGE_PROMPT",
                   "A judge's prompt must name {{answer}}, else there is nothing to judge.");
}

// The question to the judge, and both verdicts as they would follow it.
absl::StatusOr<ScoreParams> AskFor(const Judge& judge, const std::string& question, const std::string& tenant) {
  ScoreParams params;
  params.model = judge.model;
  params.priority = kBackgroundPriority;
  params.tenant = tenant;
  const Tokenizer& tokenizer = judge.model->tokenizer();
  const bool is_chat = judge.model->chat_template() != nullptr;
  ATTUNE_ASSIGN_OR_RETURN(params.prompt, QuestionTokens(*judge.model, question, "Reply:"));
  const TextEncoder encoder(&tokenizer);
  for (const char* verdict : kVerdicts) {
    params.continuations.push_back(encoder.Continue(absl::StrCat(is_chat ? "" : " ", verdict), /*parse_special=*/false));
  }
  return params;
}

}  // namespace

absl::Status CheckJudgePrompt(absl::string_view prompt) { return ParsePrompt(prompt).status(); }

absl::Status JudgeAnswers(Engine* engine, const Judge& judge, const EvalTask& task, const GoOn& go_on, Answers* answers) {
  ATTUNE_ASSIGN_OR_RETURN(const PromptTemplate prompt, ParsePrompt(judge.prompt));
  std::vector<ScoreParams> asked;
  std::vector<size_t> rows;
  for (size_t row = 0; row < task.rows.size(); ++row) {
    answers->scores[row] = 0;
    if (answers->predicted[row].empty()) continue;
    ATTUNE_ASSIGN_OR_RETURN(const std::string input, PromptText(task.data, task.rows[row]));
    ATTUNE_ASSIGN_OR_RETURN(
        const std::string question,
        prompt.Render({{"prompt", input}, {"expected", answers->expected[row]}, {"answer", answers->predicted[row]}}));
    ATTUNE_ASSIGN_OR_RETURN(ScoreParams params, AskFor(judge, question, task.tenant));
    const size_t longest = std::max(params.continuations[0].size(), params.continuations[1].size());
    if (static_cast<int64_t>(params.prompt.size() + longest) > judge.model->context_tokens()) continue;
    asked.push_back(std::move(params));
    rows.push_back(row);
  }
  return ScoreAll(engine, asked, go_on, [&](size_t i, const ScoreResult& result) {
    answers->scores[rows[i]] = result.continuations[0].logprob > result.continuations[1].logprob;
  });
}

}  // namespace attune
