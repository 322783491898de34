#include "server/evaluation/prompt_search/search_data.h"

#include <algorithm>
#include <set>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/example.h"
#include "server/data/held_out.h"
#include "server/evaluation/choices.h"
#include "server/evaluation/prompt_search/example_selection.h"

namespace attune {
namespace {

using Metric = TextPromptSpec::Metric;

constexpr int64_t kMostTokens = 2048;  // of a row, and of a prompt, unless the job says otherwise

// Rows that fit, and their tokens under the data's own templates.
struct RenderedRows {
  std::vector<Row> rows;
  std::vector<Example> examples;
};

absl::Status RenderRows(const ExampleRenderer& renderer, std::vector<Row> rows, const std::function<bool()>& stop,
                        RenderedRows* out, int64_t* dropped) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i % 64 == 0 && stop && stop()) return absl::CancelledError("stopped while preparing data");
    absl::StatusOr<Example> example = renderer.Render(rows[i], static_cast<int64_t>(i));
    if (absl::IsOutOfRange(example.status())) {
      ++*dropped;
      continue;
    }
    ATTUNE_RETURN_IF_ERROR(example.status());
    out->rows.push_back(std::move(rows[i]));
    out->examples.push_back(*std::move(example));
  }
  return absl::OkStatus();
}

absl::StatusOr<RenderOptions> ChooseRender(const JobSpec& spec, const DatasetInfo& info, int64_t context_tokens) {
  if (info.kind != DatasetKind::kPromptCompletion) {
    return InvalidField("tuning_job.dataset",
                        "must hold prompts with completions: a text prompt is a template of rows");
  }
  RenderOptions render;
  render.kind = info.kind;
  render.prompt_template = spec.data.prompt_template.empty() ? info.prompt_template : spec.data.prompt_template;
  render.completion_template =
      spec.data.completion_template.empty() ? info.completion_template : spec.data.completion_template;
  render.max_tokens = std::min(kMostTokens, context_tokens);
  if (spec.data.max_sequence_tokens > context_tokens) {
    return InvalidField("tuning_job.data.max_sequence_tokens",
                        absl::StrCat(spec.data.max_sequence_tokens, " is more than the ", context_tokens,
                                     " tokens that the model has room for"));
  }
  if (spec.data.max_sequence_tokens > 0) render.max_tokens = spec.data.max_sequence_tokens;
  return render;
}

std::string TextOf(const Row& row, const PromptTemplate& input) {
  std::string text;
  for (const std::string& name : input.variables()) {
    const auto it = row.columns.find(name);
    if (it != row.columns.end()) absl::StrAppend(&text, it->second, " ");
  }
  return text;
}

int64_t AnswerTokens(const Example& example) {
  return static_cast<int64_t>(example.tokens.size()) - example.prompt_tokens;
}

void Account(const std::vector<Example>& train, const std::vector<Example>& validation, SearchData* data) {
  DataReport& report = data->report;
  report.train_examples = static_cast<int64_t>(train.size());
  report.validation_examples = static_cast<int64_t>(validation.size());
  std::set<std::vector<int32_t>> seen;
  for (const Example& example : train) {
    report.train_tokens += static_cast<int64_t>(example.tokens.size());
    report.train_loss_tokens += AnswerTokens(example);
    report.truncated_examples += example.truncated;
    seen.insert(example.tokens);
  }
  int64_t tokens = 0;
  for (const Example& example : validation) {
    report.truncated_examples += example.truncated;
    report.overlapping_examples += seen.count(example.tokens);
    tokens += static_cast<int64_t>(example.tokens.size());
  }
  data->row_tokens = validation.empty() ? 0 : tokens / static_cast<int64_t>(validation.size());
}

// Half of a prompt's room is for examples, in equal shares.
std::vector<int64_t> Eligible(const std::vector<Example>& train, int64_t context_tokens, int64_t max_examples) {
  std::vector<int64_t> eligible;
  const int64_t share = std::min(kMostTokens, context_tokens) / 2 / std::max<int64_t>(1, max_examples);
  for (size_t i = 0; i < train.size(); ++i) {
    const bool fits = static_cast<int64_t>(train[i].tokens.size()) <= share && !train[i].truncated;
    if (fits) eligible.push_back(static_cast<int64_t>(i));
  }
  return eligible;
}

// Sets `metric` and `labels` by what was asked for and what the answers are.
absl::Status ChooseMetric(const ServedModel& model, const RenderOptions& render, Metric asked,
                          const std::vector<Example>& validation, SearchData* data) {
  constexpr size_t kLeastRowsALabel = 3;  // fewer, and the answers are no labels
  constexpr int64_t kShortAnswer = 16;    // tokens
  std::vector<Row> all = data->train;
  all.insert(all.end(), data->validation.begin(), data->validation.end());
  ATTUNE_ASSIGN_OR_RETURN(ChoiceSet choices,
                          ChoiceSet::Make(model.tokenizer(), render.kind, render.completion_template, {}, all));
  const bool are_labels = !choices.empty() && all.size() >= kLeastRowsALabel * choices.labels().size();
  const bool wants_labels = asked == Metric::kLabelAccuracy || (asked == Metric::kUnspecified && are_labels);
  if (asked == Metric::kLabelAccuracy && choices.empty()) {
    return InvalidField("tuning_job.text_prompt.metric", "LABEL_ACCURACY needs 2 to 100 distinct answers");
  }
  for (const Row& row : data->train) {
    ATTUNE_ASSIGN_OR_RETURN(data->train_answers.emplace_back(), choices.LabelOf(row));
  }
  data->metric = asked;
  if (wants_labels) {
    data->metric = Metric::kLabelAccuracy;
    data->labels = choices.labels();
  } else if (asked == Metric::kUnspecified) {
    const bool is_short = std::all_of(validation.begin(), validation.end(),
                                      [](const Example& example) { return AnswerTokens(example) <= kShortAnswer; });
    data->metric = is_short ? Metric::kExactMatch : Metric::kLoss;
  }
  return absl::OkStatus();
}

absl::Status NoRows(const char* what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "NO_USABLE_EXAMPLES",
                   absl::StrCat("no row is left to ", what, "; give more rows, or raise max_sequence_tokens"));
}

// Splits what was rendered into rows to take examples from and rows to choose by.
void HoldOut(const JobSpec& spec, RenderedRows all, uint64_t seed, RenderedRows* train, RenderedRows* validation) {
  const int64_t count = static_cast<int64_t>(all.rows.size());
  const std::vector<bool> held = ChooseHeldOut(count, HeldOutCount(spec.data.validation_fraction, count), seed);
  for (int64_t i = 0; i < count; ++i) {
    RenderedRows* to = held[i] ? validation : train;
    to->rows.push_back(std::move(all.rows[i]));
    to->examples.push_back(std::move(all.examples[i]));
  }
}

}  // namespace

SearchSettings ResolveSearch(const JobSpec& spec) {
  const auto& asked = std::get<TextPromptSpec>(spec.method);
  SearchSettings out;
  out.instructions = asked.instructions;
  out.max_examples = asked.max_examples.value_or(8);
  out.candidates = asked.candidates > 0 ? asked.candidates : 12;
  out.rounds = asked.rounds > 0 ? asked.rounds : 3;
  out.selection = asked.selection;
  out.calibrate = asked.calibrate;
  out.max_calls = asked.max_calls;
  out.max_tokens = asked.max_tokens;
  out.max_seconds = 60 * asked.max_minutes;
  out.seed = static_cast<uint64_t>(spec.hyperparameters.seed.value_or(42));
  return out;
}

absl::StatusOr<SearchData> PrepareSearch(const DatasetStore& datasets, const JobSpec& spec, const ServedModel& model,
                                         const std::function<bool()>& stop) {
  const SearchSettings settings = ResolveSearch(spec);
  SearchData data;
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, datasets.Get(spec.dataset));
  ATTUNE_ASSIGN_OR_RETURN(RenderOptions render, ChooseRender(spec, info, model.context_tokens()));
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer,
                          ExampleRenderer::Create(model.tokenizer_view, model.chat_template(), render));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> rows, datasets.ReadRows(spec.dataset));
  RenderedRows all, train, validation;
  ATTUNE_RETURN_IF_ERROR(RenderRows(renderer, std::move(rows), stop, &all, &data.report.dropped_examples));
  if (spec.validation_dataset.empty()) {
    HoldOut(spec, std::move(all), settings.seed, &train, &validation);
  } else {
    train = std::move(all);
    ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> held, datasets.ReadRows(spec.validation_dataset));
    ATTUNE_RETURN_IF_ERROR(RenderRows(renderer, std::move(held), stop, &validation, &data.report.dropped_examples));
  }
  if (train.rows.empty()) return NoRows("take examples from");
  if (validation.rows.empty()) return NoRows("choose by");
  Account(train.examples, validation.examples, &data);
  data.train = std::move(train.rows);
  data.validation = std::move(validation.rows);
  ShuffleBySeed(&data.validation, settings.seed);
  data.max_tokens = render.max_tokens;
  data.eligible = Eligible(train.examples, model.context_tokens(), settings.max_examples);
  ATTUNE_ASSIGN_OR_RETURN(data.formats, MakeFormats(render.prompt_template, render.completion_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(render.prompt_template));
  for (const Row& row : data.train) data.features.push_back(TextFeatures(TextOf(row, input)));
  const Metric asked = std::get<TextPromptSpec>(spec.method).metric;
  ATTUNE_RETURN_IF_ERROR(ChooseMetric(model, render, asked, validation.examples, &data));
  return data;
}

}  // namespace attune
