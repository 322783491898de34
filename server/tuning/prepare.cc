#include "server/tuning/prepare.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/held_out.h"
#include "server/data/preference.h"

namespace attune {
namespace {

std::string Fingerprint(const Example& example) {
  return std::string(reinterpret_cast<const char*>(example.tokens.data()), example.tokens.size() * sizeof(int32_t));
}

std::string Fingerprint(const std::vector<Example>& examples, int64_t first, int64_t count) {
  std::string all;
  for (int64_t i = first; i < first + count; ++i) all += Fingerprint(examples[i]) + "|";
  return all;
}

// Counts what lists of examples, or of pairs, hold.
void Account(const PreparedData& data, DataReport* report) {
  const int64_t group = data.group_size;
  report->train_examples = data.train_groups();
  report->validation_examples = static_cast<int64_t>(data.validation.size()) / group;
  auto is_truncated = [group](const std::vector<Example>& examples, int64_t first) {
    return std::any_of(examples.begin() + first, examples.begin() + first + group,
                       [](const Example& example) { return example.truncated; });
  };
  std::set<std::string> seen;
  for (const Example& example : data.train) {
    report->train_tokens += example.tokens.size();
    report->train_loss_tokens += std::accumulate(example.has_loss.begin(), example.has_loss.end(), int64_t{0});
  }
  for (int64_t i = 0; i < report->train_examples; ++i) {
    report->truncated_examples += is_truncated(data.train, i * group);
    seen.insert(Fingerprint(data.train, i * group, group));
  }
  for (int64_t i = 0; i < report->validation_examples; ++i) {
    report->truncated_examples += is_truncated(data.validation, i * group);
    report->overlapping_examples += seen.count(Fingerprint(data.validation, i * group, group));
  }
}

absl::StatusOr<RenderOptions> ChooseRender(const JobSpec& spec, const DatasetInfo& info, int64_t context_tokens) {
  RenderOptions render;
  render.kind = info.kind;
  render.prompt_template = spec.data.prompt_template.empty() ? info.prompt_template : spec.data.prompt_template;
  render.completion_template =
      spec.data.completion_template.empty() ? info.completion_template : spec.data.completion_template;
  render.train_on_prompt = spec.data.train_on_prompt;
  render.split_long_texts = spec.data.split_long_texts;
  render.max_tokens = std::min<int64_t>(2048, context_tokens);
  if (spec.data.max_sequence_tokens > 0) {
    if (spec.data.max_sequence_tokens > context_tokens) {
      return InvalidField("tuning_job.data.max_sequence_tokens",
                          absl::StrCat(spec.data.max_sequence_tokens, " is more than the ", context_tokens,
                                       " tokens that the model has room for"));
    }
    render.max_tokens = spec.data.max_sequence_tokens;
  }
  return render;
}

// What a row becomes: an example, the parts of a long text, or a pair of preferences.
using RowRenderer = std::function<absl::StatusOr<std::vector<Example>>(const Row&, int64_t)>;

absl::StatusOr<RowRenderer> MakeRenderer(const Tokenizer& tokenizer, const ChatTemplate* chat, bool is_preference,
                                         RenderOptions* options) {
  if (is_preference) {
    ATTUNE_ASSIGN_OR_RETURN(PreferenceRenderer renderer, PreferenceRenderer::Create(&tokenizer, chat, *options));
    options->kind = renderer.options().kind;
    return [renderer](const Row& row, int64_t index) -> absl::StatusOr<std::vector<Example>> {
      ATTUNE_ASSIGN_OR_RETURN(PreferenceExamples pair, renderer.Render(row, index));
      return std::vector<Example>{std::move(pair.chosen), std::move(pair.rejected)};
    };
  }
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer, ExampleRenderer::Create(&tokenizer, chat, *options));
  return [renderer](const Row& row, int64_t index) -> absl::StatusOr<std::vector<Example>> {
    return renderer.RenderAll(row, index);
  };
}

// Renders rows into `out`; an answer that is too long drops the row.
absl::Status RenderRows(const RowRenderer& render, const std::vector<Row>& rows, const std::function<bool()>& stop,
                        std::vector<Example>* out, int64_t* dropped) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i % 64 == 0 && stop && stop()) return absl::CancelledError("stopped while preparing data");
    absl::StatusOr<std::vector<Example>> examples = render(rows[i], i);
    if (absl::IsOutOfRange(examples.status())) {
      ++*dropped;
      continue;
    }
    ATTUNE_RETURN_IF_ERROR(examples.status());
    std::move(examples->begin(), examples->end(), std::back_inserter(*out));
  }
  return absl::OkStatus();
}

// Which of the rows that became examples each example is of.
std::vector<int64_t> CountRows(const std::vector<Example>& examples) {
  std::vector<int64_t> rows;
  int64_t row = -1;
  for (size_t i = 0; i < examples.size(); ++i) {
    if (i == 0 || examples[i].row != examples[i - 1].row) ++row;
    rows.push_back(row);
  }
  return rows;
}

absl::Status CheckObjective(const JobSpec& spec, DatasetKind kind) {
  if (!spec.dpo || IsPreference(kind)) return absl::OkStatus();
  return InvalidField("tuning_job.dataset", "must hold rows of prompt, chosen and rejected, which dpo learns from",
                      "NO_PREFERENCES");
}

}  // namespace

absl::StatusOr<PreparedData> PrepareData(const DatasetStore& datasets, const JobSpec& spec, const Tokenizer& tokenizer,
                                         const ChatTemplate* chat, int64_t context_tokens, uint64_t seed,
                                         const std::function<bool()>& stop) {
  PreparedData data;
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, datasets.Get(spec.dataset));
  ATTUNE_ASSIGN_OR_RETURN(data.render, ChooseRender(spec, info, context_tokens));
  ATTUNE_RETURN_IF_ERROR(CheckObjective(spec, info.kind));
  data.group_size = spec.dpo ? 2 : 1;
  ATTUNE_ASSIGN_OR_RETURN(const RowRenderer renderer, MakeRenderer(tokenizer, chat, spec.dpo.has_value(), &data.render));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> rows, datasets.ReadRows(spec.dataset));
  std::vector<Example> all;
  ATTUNE_RETURN_IF_ERROR(RenderRows(renderer, rows, stop, &all, &data.report.dropped_examples));
  if (!spec.validation_dataset.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> held, datasets.ReadRows(spec.validation_dataset));
    ATTUNE_RETURN_IF_ERROR(RenderRows(renderer, held, stop, &data.validation, &data.report.dropped_examples));
    data.train = std::move(all);
  } else {
    const std::vector<int64_t> rows_of = CountRows(all);  // a row is held out whole
    const int64_t count = all.empty() ? 0 : rows_of.back() + 1;
    std::vector<bool> held = ChooseHeldOut(count, HeldOutCount(spec.data.validation_fraction, count), seed);
    for (size_t i = 0; i < all.size(); ++i) {
      (held[rows_of[i]] ? data.validation : data.train).push_back(std::move(all[i]));
    }
  }
  Account(data, &data.report);
  if (data.report.train_loss_tokens == 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "NO_USABLE_EXAMPLES",
                     absl::StrCat("no example is left to train on: ", rows.size(), " rows, ",
                                  data.report.dropped_examples, " with answers longer than ", data.render.max_tokens,
                                  " tokens; raise max_sequence_tokens"));
  }
  return data;
}

}  // namespace attune
