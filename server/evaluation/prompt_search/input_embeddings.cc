#include "server/evaluation/prompt_search/input_embeddings.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "server/data/text_encoder.h"
#include "server/evaluation/example_retrieval.h"
#include "server/evaluation/prompt_search/candidate.h"
#include "server/evaluation/prompt_search/example_selection.h"

namespace attune {
namespace {

using Selection = TextPromptSpec::Selection;

constexpr size_t kAtOnce = 16;          // inputs between two looks at the budget
constexpr size_t kFewestPoolRows = 16;  // fewer are hardly nearer than any others
constexpr double kPoolShare = 0.25;     // of the limits

// An input with its number, and what it takes to read it.
struct Input {
  int64_t number = 0;
  Columns columns;
  int64_t tokens = 0;
};

TextPrompt InOwnFormat(const SearchData& data) {
  TextPrompt prompt;
  prompt.input_template = data.formats[0].input_template;
  prompt.output_template = data.formats[0].output_template;
  return prompt;
}

absl::StatusOr<int64_t> TokensOf(const SearchHost& host, const TextPrompt& prompt, const Columns& columns) {
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, QueryTokens(*host.model, prompt, columns));
  return static_cast<int64_t>(tokens.size());
}

int64_t TokensOf(const std::vector<Input>& inputs) {
  int64_t tokens = 0;
  for (const Input& input : inputs) tokens += input.tokens;
  return tokens;
}

// Of those that no run has paid for.
int64_t NewTokens(const SearchMemo& memo, const std::vector<Input>& inputs) {
  int64_t tokens = 0;
  for (const Input& input : inputs) tokens += memo.embedded.count(input.number) == 0 ? input.tokens : 0;
  return tokens;
}

GoOn UntilStopped(const SearchHost& host) {
  return [&host](int64_t, int64_t) { return host.stop_request() == StopRequest::kNone; };
}

absl::Status Count(const SearchHost& host, const std::vector<Input>& inputs, absl::Duration time) {
  host.memo->tokens += NewTokens(*host.memo, inputs);
  for (const Input& input : inputs) host.memo->embedded.insert(input.number);
  host.memo->seconds += absl::ToDoubleSeconds(time);
  return host.on_call();
}

// The next inputs for one request.
std::vector<Input> TakeSome(std::vector<Input>* inputs) {
  const auto end = inputs->begin() + static_cast<int64_t>(std::min(kAtOnce, inputs->size()));
  std::vector<Input> some(std::make_move_iterator(inputs->begin()), std::make_move_iterator(end));
  inputs->erase(inputs->begin(), end);
  return some;
}

// Training rows for a pool, labels in turn. What renders to nothing has no embedding.
absl::StatusOr<std::vector<Input>> PoolInputs(const SearchHost& host, const SearchData& data) {
  std::vector<int64_t> order = data.eligible;
  if (data.labels.empty()) {
    ShuffleBySeed(&order, host.settings->seed);
  } else {
    order = SelectByLabel(data.train_answers, data.eligible, kMostPoolRows, host.settings->seed);
  }
  const TextPrompt prompt = InOwnFormat(data);
  std::vector<Input> inputs;
  for (int64_t row : order) {
    if (static_cast<int64_t>(inputs.size()) == kMostPoolRows) break;
    Input input;
    input.number = TrainingRow(row);
    ATTUNE_ASSIGN_OR_RETURN(input.columns, UsedColumns(data.formats[0], data.train[row].columns));
    ATTUNE_ASSIGN_OR_RETURN(input.tokens, TokensOf(host, prompt, input.columns));
    if (input.tokens > 0) inputs.push_back(std::move(input));
  }
  return inputs;
}

// Rows by what they take as examples, the longest first.
absl::StatusOr<std::vector<int64_t>> ByLength(const SearchHost& host, const TextPrompt& prompt) {
  const TextEncoder encoder(host.model->tokenizer_view);
  ATTUNE_ASSIGN_OR_RETURN(const PromptTemplate input, PromptTemplate::Parse(prompt.input_template));
  ATTUNE_ASSIGN_OR_RETURN(const PromptTemplate output, PromptTemplate::Parse(prompt.output_template));
  std::vector<size_t> tokens;
  for (const Columns& row : prompt.pool->rows) {
    ATTUNE_ASSIGN_OR_RETURN(const std::string question, input.Render(row));
    ATTUNE_ASSIGN_OR_RETURN(const std::string answer, output.Render(row));
    tokens.push_back(encoder.Begin(absl::StrCat(question, answer), false).size());
  }
  std::vector<int64_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return tokens[a] > tokens[b]; });
  return order;
}

// The pool, and which input is which row of it.
struct EmbeddedPool {
  std::shared_ptr<ExamplePool> pool = std::make_shared<ExamplePool>();
  std::map<int64_t, int64_t> row_of;  // by training row
};

absl::StatusOr<EmbeddedPool> EmbedPool(const SearchHost& host, const TextPrompt& prompt, std::vector<Input> inputs) {
  EmbeddedPool out;
  int64_t tokens = 0;
  const absl::Time start = absl::Now();
  const double most_tokens = kPoolShare * static_cast<double>(host.settings->max_tokens);
  while (!inputs.empty()) {
    if (host.stop_request() != StopRequest::kNone) return SearchStopped();
    const std::vector<Input> some = TakeSome(&inputs);
    tokens += TokensOf(some);
    const absl::Time before = absl::Now();
    const double seconds = absl::ToDoubleSeconds(before - start);
    if (most_tokens > 0 && static_cast<double>(tokens) > most_tokens) break;
    if (host.settings->max_seconds > 0 && seconds > kPoolShare * host.settings->max_seconds) break;
    std::vector<Columns> rows;
    for (const Input& input : some) {
      out.row_of[TrainingRow(input.number)] = static_cast<int64_t>(out.pool->rows.size() + rows.size());
      rows.push_back(input.columns);
    }
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ExamplePool> part,
                            MakePool(host.engine, host.model, prompt, std::move(rows), UntilStopped(host)));
    out.pool->rows.insert(out.pool->rows.end(), part->rows.begin(), part->rows.end());
    out.pool->embeddings.insert(out.pool->embeddings.end(), part->embeddings.begin(), part->embeddings.end());
    ATTUNE_RETURN_IF_ERROR(Count(host, some, absl::Now() - before));
  }
  return out;
}

}  // namespace

int64_t TrainingRow(int64_t index) { return -1 - index; }

int64_t ContentFreeInput(int64_t index) { return (int64_t{1} << 40) + index; }

absl::StatusOr<std::string> AddPool(const SearchHost& host, SearchData* data) {
  const Selection selection = host.settings->selection;
  const bool may_retrieve = selection == Selection::kUnspecified || selection == Selection::kSimilar;
  if (!may_retrieve || host.settings->max_examples == 0) return "";
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Input> inputs, PoolInputs(host, *data));
  if (inputs.size() < kFewestPoolRows) return "no examples by similarity: too few rows are short enough";
  TextPrompt prompt = InOwnFormat(*data);
  absl::StatusOr<EmbeddedPool> embedded = EmbedPool(host, prompt, std::move(inputs));
  if (!embedded.ok()) {
    const absl::Status status = AwaitStop(host, embedded.status());
    if (absl::IsCancelled(status) || selection == Selection::kSimilar) return status;
    return absl::StrCat("no examples by similarity: ", status.message());
  }
  if (embedded->pool->rows.size() < kFewestPoolRows) return "no examples by similarity: the limits leave no room";
  prompt.pool = embedded->pool;
  ATTUNE_ASSIGN_OR_RETURN(data->longest_in_pool, ByLength(host, prompt));
  data->pool = prompt.pool;
  data->pool_row_of = std::move(embedded->row_of);
  return absl::StrCat("examples by similarity come from ", data->pool->rows.size(), " rows");
}

absl::StatusOr<bool> InputEmbeddings::Add(const std::map<int64_t, Columns>& inputs) {
  const TextPrompt prompt = InOwnFormat(*host_.data);
  std::vector<Input> missing;
  for (const auto& [number, columns] : inputs) {
    if (PoolRow(number) >= 0 || embeddings_.count(number) > 0) continue;
    ATTUNE_ASSIGN_OR_RETURN(const int64_t tokens, TokensOf(host_, prompt, columns));
    missing.push_back({number, columns, tokens});
  }
  while (!missing.empty()) {
    if (host_.stop_request() != StopRequest::kNone) return SearchStopped();
    const std::vector<Input> some = TakeSome(&missing);
    if (!HasBudget(*host_.settings, *host_.memo, 0, NewTokens(*host_.memo, some))) return false;
    std::vector<const Columns*> rows;
    for (const Input& input : some) rows.push_back(&input.columns);
    const absl::Time start = absl::Now();
    absl::StatusOr<std::vector<std::vector<float>>> queries =
        EmbedQueries(host_.engine, host_.model, prompt, rows, UntilStopped(host_));
    if (!queries.ok()) return AwaitStop(host_, queries.status());
    for (size_t i = 0; i < some.size(); ++i) embeddings_[some[i].number] = std::move((*queries)[i]);
    ATTUNE_RETURN_IF_ERROR(Count(host_, some, absl::Now() - start));
  }
  return true;
}

const std::vector<float>& InputEmbeddings::Of(int64_t input) const {
  const int64_t row = PoolRow(input);
  return row >= 0 ? host_.data->pool->embeddings[row] : embeddings_.at(input);
}

int64_t InputEmbeddings::PoolRow(int64_t input) const {
  if (input >= 0) return -1;
  const auto it = host_.data->pool_row_of.find(TrainingRow(input));
  return it == host_.data->pool_row_of.end() ? -1 : it->second;
}

}  // namespace attune
