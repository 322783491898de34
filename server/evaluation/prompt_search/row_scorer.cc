#include "server/evaluation/prompt_search/row_scorer.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "server/evaluation/calibration.h"

namespace attune {
namespace {

constexpr size_t kWindow = 32;  // calls under way at once: as many a stop has to wait for
constexpr absl::Duration kPollInterval = absl::Milliseconds(50);
constexpr absl::Duration kRetryInterval = absl::Milliseconds(50);  // after the engine's queue was full

int64_t TokensOf(const ScoreParams& params) {
  int64_t tokens = static_cast<int64_t>(params.prompt.size());
  for (const auto& continuation : params.continuations) tokens += static_cast<int64_t>(continuation.size());
  return tokens;
}

}  // namespace

struct RowScorer::Work {
  const PreparedPrompt* prompt = nullptr;
  bool is_content_free = false;
  int64_t index = 0;  // of the row, or of the content-free input

  int64_t input() const { return is_content_free ? ContentFreeInput(index) : index; }
};

// Shared with the engine's callback, which may come after the search has gone.
struct RowScorer::Pending {
  Work work;
  ScoreParams params;
  int64_t tokens = 0;
  absl::Notification done;
  absl::StatusOr<ScoreResult> result = absl::UnknownError("not yet");
};

std::vector<double> OffsetsOf(const SearchMemo& memo, const std::string& prompt) {
  const auto inputs = memo.content_free.find(prompt);
  if (inputs == memo.content_free.end() || inputs->second.size() < ContentFreeInputs().size()) return {};
  std::vector<std::vector<double>> logprobs;
  for (const auto& [input, of_labels] : inputs->second) logprobs.push_back(of_labels);
  return CalibrationOffsets(logprobs);
}

std::vector<int64_t> FirstRows(int64_t count) {
  std::vector<int64_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

const Row& RowScorer::RowOf(int64_t row) const {
  return row >= 0 ? host_.data->validation[row] : host_.data->train[TrainingRow(row)];
}

std::vector<RowScorer::Work> RowScorer::Missing(const std::vector<const PreparedPrompt*>& prompts,
                                                const std::vector<int64_t>& rows) const {
  std::vector<Work> works;
  const int64_t inputs = host_.data->labels.empty() ? 0 : static_cast<int64_t>(ContentFreeInputs().size());
  for (int64_t i = 0; i < inputs; ++i) {
    for (const PreparedPrompt* prompt : prompts) {
      const auto known = host_.memo->content_free.find(prompt->key());
      if (known == host_.memo->content_free.end() || known->second.count(i) == 0) works.push_back({prompt, true, i});
    }
  }
  for (int64_t row : rows) {
    for (const PreparedPrompt* prompt : prompts) {
      if (host_.memo->Find(prompt->key(), row) == nullptr) works.push_back({prompt, false, row});
    }
  }
  return works;
}

absl::StatusOr<Row> RowScorer::RowOf(const Work& work) const {
  if (work.is_content_free) return work.prompt->ContentFreeRow(ContentFreeInputs()[work.index]);
  return RowOf(work.index);
}

absl::StatusOr<bool> RowScorer::EmbedInputs(const std::vector<Work>& works) {
  std::map<int64_t, Columns> inputs;
  for (const Work& work : works) {
    if (!work.prompt->retrieves()) continue;
    ATTUNE_ASSIGN_OR_RETURN(Row row, RowOf(work));
    inputs.try_emplace(work.input(), std::move(row.columns));
  }
  return embeddings_.Add(inputs);
}

absl::StatusOr<bool> RowScorer::Score(const std::vector<const PreparedPrompt*>& prompts,
                                      const std::vector<int64_t>& rows) {
  std::vector<Work> works = Missing(prompts, rows);
  ATTUNE_ASSIGN_OR_RETURN(const bool embedded, EmbedInputs(works));
  if (!embedded) std::erase_if(works, [](const Work& work) { return work.prompt->retrieves(); });
  const auto first_wave = works.begin() + static_cast<int64_t>(std::min(works.size(), prompts.size()));
  ATTUNE_ASSIGN_OR_RETURN(bool complete, RunAll({works.begin(), first_wave}));
  if (!complete) return false;
  ATTUNE_ASSIGN_OR_RETURN(complete, RunAll({first_wave, works.end()}));
  return complete && embedded;
}

absl::StatusOr<ScoreParams> RowScorer::ParamsFor(const Work& work) const {
  ATTUNE_ASSIGN_OR_RETURN(const Row row, RowOf(work));
  static const std::vector<float> none;
  const bool retrieves = work.prompt->retrieves();
  absl::StatusOr<ScoreParams> params =
      work.prompt->ParamsFor(row, retrieves ? embeddings_.Of(work.input()) : none, embeddings_.PoolRow(work.input()));
  if (!params.ok()) return params;
  params->model = host_.model;
  params->priority = kBackgroundPriority;
  params->tenant = host_.tenant;
  return params;
}

absl::StatusOr<bool> RowScorer::RunAll(const std::vector<Work>& works) {
  counted_until_ = absl::Now();
  bool complete = true;
  for (size_t i = 0; complete && i < works.size(); ++i) {
    absl::StatusOr<bool> begun = Begin(works[i]);
    if (!begun.ok()) return Abandon(begun.status());
    complete = *begun;
  }
  while (!window_.empty()) {
    absl::Status status = HarvestOldest();
    if (!status.ok()) return Abandon(status);
  }
  return complete;
}

absl::StatusOr<bool> RowScorer::Begin(const Work& work) {
  while (window_.size() >= kWindow) ATTUNE_RETURN_IF_ERROR(HarvestOldest());
  if (host_.stop_request() != StopRequest::kNone) return SearchStopped();
  absl::StatusOr<ScoreParams> params = ParamsFor(work);
  if (absl::IsOutOfRange(params.status())) {  // no answer is none that is right
    ATTUNE_RETURN_IF_ERROR(Keep(work, nullptr));
    return true;
  }
  ATTUNE_RETURN_IF_ERROR(params.status());
  auto pending = std::make_shared<Pending>();
  pending->work = work;
  pending->params = *std::move(params);
  pending->tokens = TokensOf(pending->params);
  int64_t tokens = pending->tokens;
  for (const auto& under_way : window_) tokens += under_way->tokens;
  if (!HasBudget(*host_.settings, *host_.memo, static_cast<int64_t>(window_.size()), tokens)) return false;
  Submit(pending);
  window_.push_back(std::move(pending));
  return true;
}

void RowScorer::Submit(const std::shared_ptr<Pending>& pending) {
  host_.engine->ScoreAsync(pending->params, [pending](absl::StatusOr<ScoreResult> result) {
    pending->result = std::move(result);
    pending->done.Notify();
  });
}

absl::Status RowScorer::HarvestOldest() {
  Pending& oldest = *window_.front();
  while (!oldest.done.WaitForNotificationWithTimeout(kPollInterval)) {
    if (host_.stop_request() != StopRequest::kNone) return SearchStopped();
  }
  if (IsQueueFull(oldest.result.status())) {
    if (host_.stop_request() != StopRequest::kNone) return SearchStopped();
    absl::SleepFor(kRetryInterval);
    auto again = std::make_shared<Pending>();
    again->work = oldest.work;
    again->params = std::move(oldest.params);
    again->tokens = oldest.tokens;
    window_.front() = again;
    Submit(again);
    return absl::OkStatus();
  }
  if (!oldest.result.ok()) return AwaitStop(host_, oldest.result.status());
  ATTUNE_RETURN_IF_ERROR(Count(oldest));
  window_.pop_front();
  return host_.on_call();
}

absl::Status RowScorer::Count(const Pending& pending) {
  const absl::Time now = absl::Now();
  host_.memo->calls += 1;
  host_.memo->tokens += pending.tokens;
  host_.memo->seconds += absl::ToDoubleSeconds(now - std::exchange(counted_until_, now));
  return Keep(pending.work, &*pending.result);
}

absl::Status RowScorer::Abandon(const absl::Status& status) {
  constexpr absl::Duration kLongestWait = absl::Seconds(20);
  const absl::Time deadline = absl::Now() + kLongestWait;
  while (absl::IsCancelled(status) && !window_.empty()) {
    const Pending& oldest = *window_.front();
    while (host_.stop_request() != StopRequest::kCancel && absl::Now() < deadline) {
      if (oldest.done.WaitForNotificationWithTimeout(kPollInterval)) break;
    }
    // In order: a row is not to be kept without the content-free inputs before it.
    if (!oldest.done.HasBeenNotified() || !oldest.result.ok()) break;
    ATTUNE_RETURN_IF_ERROR(Count(oldest));
    window_.pop_front();
  }
  window_.clear();
  return status;
}

absl::Status RowScorer::Keep(const Work& work, const ScoreResult* result) {
  const std::string& key = work.prompt->key();
  if (work.is_content_free) {
    std::vector<double> logprobs(host_.data->labels.size(), 0);  // equal: nothing to take off
    for (size_t i = 0; result && i < logprobs.size(); ++i) logprobs[i] = result->continuations[i].logprob;
    host_.memo->content_free[key][work.index] = std::move(logprobs);
    return absl::OkStatus();
  }
  RowScore score;
  if (result) {
    const Row& row = RowOf(work.index);
    ATTUNE_ASSIGN_OR_RETURN(score.plain, work.prompt->ScoreOf(row, *result, {}));
    ATTUNE_ASSIGN_OR_RETURN(score.calibrated, work.prompt->ScoreOf(row, *result, OffsetsOf(*host_.memo, key)));
  }
  host_.memo->scores[key][work.index] = score;
  return absl::OkStatus();
}

}  // namespace attune
