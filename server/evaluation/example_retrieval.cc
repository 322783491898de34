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

// What a template takes beside its variables.
absl::StatusOr<int64_t> OwnTokens(const TextEncoder& encoder, const std::string& prompt_template) {
  ATTUNE_ASSIGN_OR_RETURN(const PromptTemplate whole, PromptTemplate::Parse(prompt_template));
  Columns empty;
  for (const std::string& name : whole.variables()) empty[name] = "";
  ATTUNE_ASSIGN_OR_RETURN(const std::string text, whole.Render(empty));
  return static_cast<int64_t>(encoder.Begin(text, /*parse_special=*/false).size());
}

}  // namespace

int64_t ExampleOf(const ExamplePool& pool, const Columns& row) {
  const auto is_row = [&](const Columns& example) {
    return std::all_of(example.begin(), example.end(), [&](const auto& column) {
      const auto found = row.find(column.first);
      return found != row.end() && found->second == column.second;
    });
  };
  const auto found = std::find_if(pool.rows.begin(), pool.rows.end(), is_row);
  return found == pool.rows.end() ? -1 : found - pool.rows.begin();
}

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
                                            const Columns& row, const std::vector<float>& query, int64_t left_out) {
  const size_t width = prompt.pool->embeddings[0].size();
  if (!query.empty() && query.size() != width) {
    return absl::InternalError(
        absl::StrCat("The model embeds with ", query.size(), " numbers, the pool has ", width, "."));
  }
  ATTUNE_ASSIGN_OR_RETURN(const PromptTemplate input, PromptTemplate::Parse(prompt.input_template));
  ATTUNE_ASSIGN_OR_RETURN(const std::string text, input.Render(row));
  const TextEncoder encoder(&model.tokenizer());
  const int64_t input_tokens = static_cast<int64_t>(encoder.Begin(text, /*parse_special=*/false).size());
  const int64_t room = std::max(options.max_tokens - input_tokens, options.max_tokens / 2);
  std::vector<int64_t> examples = MostSimilar(*prompt.pool, query, prompt.retrieved, left_out);
  while (true) {
    ATTUNE_ASSIGN_OR_RETURN(options.prompt_template, MakePromptTemplate(prompt, examples));
    if (examples.empty()) break;
    ATTUNE_ASSIGN_OR_RETURN(const int64_t own_tokens, OwnTokens(encoder, options.prompt_template));
    if (own_tokens <= room) break;
    examples.erase(examples.begin());
  }
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
