#include "server/evaluation/example_retrieval.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/prompt_cutter.h"
#include "server/data/text_encoder.h"

namespace attune {
namespace {

// Of an input: what it is about shows by then, and reading more would take longer than the answer.
constexpr int64_t kMostQueryTokens = 2048;

}  // namespace

absl::StatusOr<std::vector<int32_t>> QueryTokens(const ServedModel& model, const TextPrompt& prompt,
                                                 const Columns& columns) {
  const Tokenizer& tokenizer = model.tokenizer();
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(prompt.input_template));
  ATTUNE_ASSIGN_OR_RETURN(const std::string text, input.Render(columns));
  const int64_t begin = tokenizer.add_bos() && tokenizer.bos_id() >= 0 ? 1 : 0;
  const int64_t room = std::min(kMostQueryTokens, model.context_tokens()) - begin;
  CutPrompt cut = KeepBeginning(TextEncoder(&tokenizer), text, room);
  if (begin && !cut.tokens.empty()) cut.tokens.insert(cut.tokens.begin(), tokenizer.bos_id());
  return std::move(cut.tokens);
}

absl::StatusOr<ExampleRenderer> RendererFor(const ServedModel& model, const TextPrompt& prompt, RenderOptions options,
                                            const std::vector<float>& query, int64_t left_out) {
  const size_t width = prompt.pool->embeddings[0].size();
  if (!query.empty() && query.size() != width) {
    return absl::InternalError(
        absl::StrCat("The model embeds with ", query.size(), " numbers, the pool has ", width, "."));
  }
  ATTUNE_ASSIGN_OR_RETURN(options.prompt_template,
                          MakePromptTemplate(prompt, MostSimilar(*prompt.pool, query, prompt.retrieved, left_out)));
  return ExampleRenderer::Create(model.tokenizer_view, model.chat_template(), std::move(options));
}

absl::StatusOr<std::vector<std::vector<float>>> EmbedQueries(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                             const TextPrompt& prompt,
                                                             const std::vector<const Columns*>& rows,
                                                             const GoOn& go_on) {
  std::vector<std::vector<int32_t>> inputs;
  std::vector<size_t> row_of;  // rows that render to nothing have no input
  for (size_t i = 0; i < rows.size(); ++i) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, QueryTokens(*model, prompt, *rows[i]));
    if (tokens.empty()) continue;
    inputs.push_back(std::move(tokens));
    row_of.push_back(i);
  }
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::vector<float>> embedded, EmbedAll(engine, std::move(model), inputs, go_on));
  if (embedded.size() != inputs.size()) return absl::InternalError("The engine embedded too few inputs.");
  std::vector<std::vector<float>> queries(rows.size());
  for (size_t i = 0; i < embedded.size(); ++i) queries[row_of[i]] = std::move(embedded[i]);
  return queries;
}

absl::StatusOr<std::shared_ptr<const ExamplePool>> MakePool(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                            const TextPrompt& prompt, std::vector<Columns> rows,
                                                            const GoOn& go_on) {
  std::vector<const Columns*> views;
  for (const Columns& row : rows) views.push_back(&row);
  auto pool = std::make_shared<ExamplePool>();
  ATTUNE_ASSIGN_OR_RETURN(pool->embeddings, EmbedQueries(engine, std::move(model), prompt, views, go_on));
  for (std::vector<float>& embedding : pool->embeddings) Normalize(&embedding);
  pool->rows = std::move(rows);
  for (size_t i = 0; i < pool->embeddings.size(); ++i) {
    if (!pool->embeddings[i].empty()) continue;
    return InvalidField(absl::StrCat("text_prompt.pool.examples[", i, "].columns"), "render to nothing");
  }
  return std::shared_ptr<const ExamplePool>(std::move(pool));
}

}  // namespace attune
