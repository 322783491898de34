#include "server/evaluation/prompt_search/prepared_prompt.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "common/error.h"
#include "server/evaluation/calibration.h"
#include "server/evaluation/example_retrieval.h"

namespace attune {
namespace {

using Metric = TextPromptSpec::Metric;

// exp of the mean log-probability of a token.
double MeanProbability(const ScoredContinuation& answer) {
  return std::exp(answer.logprob / static_cast<double>(answer.tokens.size()));
}

// The longest examples that a row may get.
std::vector<int64_t> LongestRetrieved(const TextPrompt& text, const SearchData& data) {
  const int64_t count = std::min(text.retrieved, static_cast<int64_t>(data.longest_in_pool.size()));
  return {data.longest_in_pool.begin(), data.longest_in_pool.begin() + count};
}

// What a template takes of a request beside the row.
absl::StatusOr<int64_t> OwnTokens(const ServedModel& model, const std::string& prompt_template) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate whole, PromptTemplate::Parse(prompt_template));
  Columns empty;
  for (const std::string& name : whole.variables()) empty[name] = "";
  ATTUNE_ASSIGN_OR_RETURN(std::string text, whole.Render(empty));
  return static_cast<int64_t>(TextEncoder(model.tokenizer_view).Begin(text, false).size());
}

}  // namespace

PreparedPrompt::PreparedPrompt(const ServedModel* model, const SearchData* data, Candidate candidate, TextPrompt text,
                               ExampleRenderer renderer, ChoiceSet choices)
    : model_(model),
      data_(data),
      candidate_(std::move(candidate)),
      text_(std::move(text)),
      key_(KeyOf(text_)),
      renderer_(std::move(renderer)),
      choices_(std::move(choices)) {}

absl::StatusOr<PreparedPrompt> PreparedPrompt::Make(const ServedModel& model, const SearchData& data,
                                                    Candidate candidate) {
  ATTUNE_ASSIGN_OR_RETURN(TextPrompt text, ToTextPrompt(candidate, data.train, data.pool));
  RenderOptions render;
  ATTUNE_ASSIGN_OR_RETURN(render.prompt_template, MakePromptTemplate(text, LongestRetrieved(text, data)));
  render.completion_template = text.output_template;
  ATTUNE_ASSIGN_OR_RETURN(const int64_t own_tokens, OwnTokens(model, render.prompt_template));
  render.max_tokens = std::min(model.context_tokens(), own_tokens + data.max_tokens);
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer,
                          ExampleRenderer::Create(model.tokenizer_view, model.chat_template(), render));
  ATTUNE_ASSIGN_OR_RETURN(ChoiceSet choices, ChoiceSet::Make(model.tokenizer(), DatasetKind::kPromptCompletion,
                                                             text.output_template, data.labels, {}));
  PreparedPrompt prompt(&model, &data, std::move(candidate), std::move(text), std::move(renderer), std::move(choices));
  prompt.tokens_ = own_tokens;
  return prompt;
}

absl::StatusOr<ScoreParams> PreparedPrompt::ParamsFor(const Row& row, const std::vector<float>& query,
                                                      int64_t left_out) const {
  ScoreParams params;
  int64_t room = choices_.longest();
  if (choices_.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<int32_t> answer, renderer_.RenderAnswer(row, /*with_end=*/true));
    room = static_cast<int64_t>(answer.size());
    params.continuations.push_back(std::move(answer));
  } else {
    params.continuations = choices_.continuations();
  }
  std::optional<ExampleRenderer> own;
  if (retrieves()) {
    ATTUNE_ASSIGN_OR_RETURN(own, RendererFor(*model_, text_, renderer_.options(), row.columns, query, left_out));
  }
  const ExampleRenderer& renderer = own ? *own : renderer_;
  ATTUNE_ASSIGN_OR_RETURN(params.prompt, renderer.RenderPrompt(row, room, nullptr));
  const bool is_whole = !params.prompt.empty() && !params.continuations[0].empty();
  if (!is_whole) return absl::OutOfRangeError("The row renders to nothing.");
  return params;
}

absl::StatusOr<Row> PreparedPrompt::ContentFreeRow(const std::string& text) const {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(text_.input_template));
  Row row;
  for (const std::string& name : input.variables()) row.columns[name] = text;
  return row;
}

absl::StatusOr<double> PreparedPrompt::ScoreOf(const Row& row, const ScoreResult& result,
                                               const std::vector<double>& offsets) const {
  if (data_->metric == Metric::kExactMatch) return result.continuations[0].is_greedy ? 1.0 : 0.0;
  if (data_->metric == Metric::kLoss) return MeanProbability(result.continuations[0]);
  ATTUNE_ASSIGN_OR_RETURN(std::string expected, choices_.LabelOf(row));
  return choices_.labels()[Likeliest(LabelScores(result.continuations, offsets))] == expected ? 1.0 : 0.0;
}

}  // namespace attune
