#include "server/tuning/prepare.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/held_out.h"

namespace attune {
namespace {

std::string Fingerprint(const Example& example) {
  return std::string(reinterpret_cast<const char*>(example.tokens.data()), example.tokens.size() * sizeof(int32_t));
}

// Counts what a list of examples holds.
void Account(const PreparedData& data, DataReport* report) {
  report->train_examples = data.train.size();
  report->validation_examples = data.validation.size();
  std::set<std::string> seen;
  for (const Example& example : data.train) {
    report->train_tokens += example.tokens.size();
    report->train_loss_tokens += std::accumulate(example.has_loss.begin(), example.has_loss.end(), int64_t{0});
    report->truncated_examples += example.truncated;
    seen.insert(Fingerprint(example));
  }
  for (const Example& example : data.validation) {
    report->truncated_examples += example.truncated;
    report->overlapping_examples += seen.count(Fingerprint(example));
  }
}

absl::StatusOr<RenderOptions> ChooseRender(const JobSpec& spec, const DatasetInfo& info, int64_t context_tokens) {
  RenderOptions render;
  render.kind = info.kind;
  render.prompt_template = spec.data.prompt_template.empty() ? info.prompt_template : spec.data.prompt_template;
  render.completion_template =
      spec.data.completion_template.empty() ? info.completion_template : spec.data.completion_template;
  render.train_on_prompt = spec.data.train_on_prompt;
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

// Renders rows into `out`; an answer that is too long drops the row.
absl::Status RenderRows(const ExampleRenderer& renderer, const std::vector<Row>& rows, const std::function<bool()>& stop,
                        std::vector<Example>* out, int64_t* dropped) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i % 64 == 0 && stop && stop()) return absl::CancelledError("stopped while preparing data");
    absl::StatusOr<Example> example = renderer.Render(rows[i], i);
    if (absl::IsOutOfRange(example.status())) {
      ++*dropped;
      continue;
    }
    ATTUNE_RETURN_IF_ERROR(example.status());
    out->push_back(std::move(*example));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PreparedData> PrepareData(const DatasetStore& datasets, const JobSpec& spec, const Tokenizer& tokenizer,
                                         const ChatTemplate* chat, int64_t context_tokens, uint64_t seed,
                                         const std::function<bool()>& stop) {
  PreparedData data;
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, datasets.Get(spec.dataset));
  ATTUNE_ASSIGN_OR_RETURN(data.render, ChooseRender(spec, info, context_tokens));
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer, ExampleRenderer::Create(&tokenizer, chat, data.render));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> rows, datasets.ReadRows(spec.dataset));
  std::vector<Example> all;
  ATTUNE_RETURN_IF_ERROR(RenderRows(renderer, rows, stop, &all, &data.report.dropped_examples));
  if (!spec.validation_dataset.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> held, datasets.ReadRows(spec.validation_dataset));
    ATTUNE_RETURN_IF_ERROR(RenderRows(renderer, held, stop, &data.validation, &data.report.dropped_examples));
    data.train = std::move(all);
  } else {
    const int64_t count = all.size();
    std::vector<bool> held = ChooseHeldOut(count, HeldOutCount(spec.data.validation_fraction, count), seed);
    for (int64_t i = 0; i < count; ++i) (held[i] ? data.validation : data.train).push_back(std::move(all[i]));
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
