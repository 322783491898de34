#include "server/comparison/comparison_manager.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/log.h"
#include "common/resource_name.h"
#include "server/comparison/judge.h"
#include "server/evaluation/measures/pattern.h"

namespace attune {
namespace {

constexpr size_t kLongestId = 32;  // its parts' and jobs' names have it inside
constexpr absl::Duration kAfterStoreError = absl::Seconds(5);
constexpr int32_t kMostTrials = 20, kMostAnswerTokens = 4096;

// All that need nothing but the data.
bool IsTemplate(ContenderKind kind) {
  return kind == ContenderKind::kHandPrompt || kind == ContenderKind::kTextPrompt || kind == ContenderKind::kHybrid;
}

// Chats and plain text have no template that a prompt could be.
absl::Status CheckKind(const ComparisonSpec& spec, DatasetKind data) {
  if (data == DatasetKind::kPreference || data == DatasetKind::kChatPreference) {
    return InvalidField("comparison.dataset", "must not hold preferences: they have no one answer that could be judged",
                        "PREFERENCE_DATA");
  }
  if (data == DatasetKind::kPromptCompletion) return absl::OkStatus();
  const bool has_template = std::any_of(spec.contenders.begin(), spec.contenders.end(), IsTemplate);
  if (!has_template && spec.hand_prompt.empty()) return absl::OkStatus();
  return InvalidField(has_template ? "comparison.contenders" : "comparison.hand_prompt",
                      "HAND_PROMPT, TEXT_PROMPT and HYBRID are for rows of prompt and completion");
}

std::vector<ContenderKind> UsualContenders(const ComparisonSpec& spec, DatasetKind data) {
  if (data != DatasetKind::kPromptCompletion) {
    return {ContenderKind::kZeroShot, ContenderKind::kSoftPrompt, ContenderKind::kPrefix, ContenderKind::kIa3,
            ContenderKind::kLora,     ContenderKind::kPartial,    ContenderKind::kFull};
  }
  std::vector<ContenderKind> kinds = {ContenderKind::kZeroShot, ContenderKind::kTextPrompt, ContenderKind::kSoftPrompt,
                                      ContenderKind::kPrefix,   ContenderKind::kIa3,        ContenderKind::kLora,
                                      ContenderKind::kPartial,  ContenderKind::kFull,       ContenderKind::kHybrid};
  if (!spec.hand_prompt.empty()) kinds.insert(kinds.begin() + 1, ContenderKind::kHandPrompt);
  return kinds;
}

void CheckContenders(const ComparisonSpec& spec, std::vector<FieldViolation>* violations) {
  std::set<ContenderKind> seen;
  for (ContenderKind kind : spec.contenders) {
    if (ContenderName(kind).empty()) violations->push_back({"comparison.contenders", "holds no known contender"});
    if (!seen.insert(kind).second) {
      violations->push_back({"comparison.contenders", absl::StrCat("names ", ContenderName(kind), " twice")});
    }
  }
  if (spec.contenders.size() == 1) violations->push_back({"comparison.contenders", "must be at least two"});
  if (seen.contains(ContenderKind::kHybrid) && !seen.contains(ContenderKind::kTextPrompt)) {
    violations->push_back({"comparison.contenders", "must name TEXT_PROMPT with HYBRID, which builds on it"});
  }
  if (seen.contains(ContenderKind::kHandPrompt) && spec.hand_prompt.empty()) {
    violations->push_back({"comparison.hand_prompt", "is required with the contender HAND_PROMPT"});
  }
}

void CheckJudging(const ComparisonSpec& spec, std::vector<FieldViolation>* violations) {
  const bool has_judge = spec.metric == QualityMetric::kJudge;
  if (spec.metric == QualityMetric::kPatternMatch && spec.pattern.empty()) {
    violations->push_back({"comparison.pattern", "is required with the metric PATTERN_MATCH"});
  }
  if (const absl::Status read = Pattern::Compile(spec.pattern).status(); !read.ok()) {
    violations->push_back({"comparison.pattern", std::string(read.message())});
  }
  if (const absl::Status read = CheckJudgePrompt(spec.judge_prompt); !read.ok()) {
    violations->push_back({"comparison.judge_prompt", std::string(read.message())});
  }
  if (!has_judge && !spec.judge_model.empty()) {
    violations->push_back({"comparison.judge_model", "goes with the metric JUDGE alone"});
  }
  if (!has_judge && !spec.judge_prompt.empty()) {
    violations->push_back({"comparison.judge_prompt", "goes with the metric JUDGE alone"});
  }
  if (spec.skip_side_effects && !spec.retention_dataset.empty()) {
    violations->push_back({"comparison.retention_dataset", "is a side effect, which skip_side_effects leaves out"});
  }
  if (spec.max_answer_tokens < 0 || spec.max_answer_tokens > kMostAnswerTokens) {
    violations->push_back({"comparison.max_answer_tokens", "must be 0 to 4096"});
  }
}

}  // namespace

absl::Status ValidateComparisonSpec(const ComparisonSpec& spec) {
  std::vector<FieldViolation> violations;
  auto require = [&](bool good, absl::string_view field, absl::string_view description) {
    if (!good) violations.push_back({std::string(field), std::string(description)});
  };
  auto require_id = [&](const std::string& id, absl::string_view field, bool is_optional) {
    if (is_optional && id.empty()) return;
    require(CheckId(id, field).ok(), field, "must be [a-z]([a-z0-9-]{0,61}[a-z0-9])?");
  };
  require_id(spec.id, "comparison_id", true);
  require(spec.id.size() <= kLongestId, "comparison_id", "must be at most 32 bytes");
  require_id(spec.base_model, "comparison.base_model", false);
  require_id(spec.dataset, "comparison.dataset", false);
  require_id(spec.validation_dataset, "comparison.validation_dataset", true);
  require_id(spec.test_dataset, "comparison.test_dataset", true);
  require(spec.display_name.size() <= 200, "comparison.display_name", "must be at most 200 bytes");
  require_id(spec.judge_model, "comparison.judge_model", true);
  require_id(spec.retention_dataset, "comparison.retention_dataset", true);
  CheckContenders(spec, &violations);
  CheckJudging(spec, &violations);
  require(spec.max_trials >= 0 && spec.max_trials <= kMostTrials, "comparison.max_trials", "must be 0 to 20");
  require(spec.max_train_examples >= 0, "comparison.max_train_examples", "must not be negative");
  require(spec.max_test_examples >= 0, "comparison.max_test_examples", "must not be negative");
  require(spec.test_fraction >= 0 && spec.test_fraction <= 0.5, "comparison.test_fraction", "must be 0 to 0.5");
  require(std::isfinite(spec.price_per_device_hour) && spec.price_per_device_hour >= 0,
          "comparison.price_per_device_hour", "must not be negative");
  if (violations.empty()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, "INVALID_COMPARISON",
                   absl::StrCat(violations[0].field, ": ", violations[0].description), {}, violations);
}

void ComparisonManager::Start() { thread_ = std::thread([this] { Loop(); }); }

void ComparisonManager::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    is_stopping_ = true;
    wake_.SignalAll();
    watchers_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

bool ComparisonManager::ShouldStop() const {
  absl::MutexLock lock(&mutex_);
  return is_stopping_ || is_cancelled_;
}

void ComparisonManager::Loop() {
  while (true) {
    absl::StatusOr<std::vector<Comparison>> waiting = deps_.store->Unfinished();
    if (!waiting.ok()) LogError("comparison.unreadable", {{"why", std::string(waiting.status().message())}});
    std::string next;
    {
      absl::MutexLock lock(&mutex_);
      if (is_stopping_) return;
      if (waiting.ok() && !waiting->empty()) next = waiting->front().spec.id;
      if (!waiting.ok()) {
        wake_.WaitWithTimeout(&mutex_, kAfterStoreError);
      } else if (next.empty() && !has_work_) {
        wake_.Wait(&mutex_);
      }
      has_work_ = false;
      if (is_stopping_) return;
      running_ = next;
      is_cancelled_ = !next.empty() && waiting->front().cancel_requested;
    }
    if (!next.empty()) RunOne(next);
    absl::MutexLock lock(&mutex_);
    running_.clear();
  }
}

void ComparisonManager::RunOne(const std::string& id) {
  LogInfo("comparison.started", {{"comparison", id}});
  ComparisonRun run(deps_, id, [this] { return ShouldStop(); }, [this] { WakeWatchers(); });
  const absl::Status status = run.Run();
  if (status.ok()) {
    LogInfo("comparison.succeeded", {{"comparison", id}});
    return;
  }
  absl::StatusOr<Comparison> ended = deps_.store->Get(id);
  if (absl::IsCancelled(status) && ended.ok() && !ended->cancel_requested) return;  // the server ends
  // Before the end is stored: of one that has ended nobody would cancel them any more.
  if (ended.ok()) CancelJobs(*ended);
  ended = deps_.store->Update(id, [&](Comparison& comparison) {
    if (IsFinal(comparison.state)) return absl::OkStatus();
    const bool is_cancelled = comparison.cancel_requested;
    comparison.state = is_cancelled ? ComparisonState::kCancelled : ComparisonState::kFailed;
    comparison.state_reason = is_cancelled ? "cancelled" : "failed";
    comparison.end_time = deps_.clock->Now();
    if (!is_cancelled) comparison.error = JobError{GetErrorDetails(status).reason, std::string(status.message())};
    return absl::OkStatus();
  });
  if (!ended.ok()) {
    LogError("comparison.not_stored", {{"comparison", id}, {"why", std::string(ended.status().message())}});
    absl::MutexLock lock(&mutex_);
    wake_.WaitWithTimeout(&mutex_, kAfterStoreError);  // else it would be run again at once, and again
    return;
  }
  LogWarning("comparison.ended", {{"comparison", id}, {"why", std::string(status.message())}});
  WakeWatchers();
}

void ComparisonManager::CancelJobs(const Comparison& comparison) {
  for (const Contender& contender : comparison.contenders) {
    for (const Trial& trial : contender.trials) {
      if (trial.state == Trial::State::kRunning) deps_.jobs->Cancel(trial.tuning_job, "").IgnoreError();
    }
    for (const CurveTrial& point : contender.curve) {
      if (point.trial.state == Trial::State::kRunning) deps_.jobs->Cancel(point.trial.tuning_job, "").IgnoreError();
    }
  }
}

absl::StatusOr<Comparison> ComparisonManager::Create(ComparisonSpec spec, absl::string_view request_id) {
  ATTUNE_RETURN_IF_ERROR(ValidateComparisonSpec(spec));
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo base, deps_.models->Get(spec.base_model));
  if (IsAdapter(base.kind)) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "BASE_IS_ADAPTER",
                     absl::StrCat("'models/", base.id, "' is an adapter; compare on the model that it is based on."));
  }
  ATTUNE_ASSIGN_OR_RETURN(const DatasetInfo data, deps_.datasets->Get(spec.dataset));
  if (!spec.judge_model.empty()) ATTUNE_RETURN_IF_ERROR(deps_.models->Get(spec.judge_model).status());
  for (const std::string& dataset : {spec.validation_dataset, spec.test_dataset, spec.retention_dataset}) {
    if (!dataset.empty()) ATTUNE_RETURN_IF_ERROR(deps_.datasets->Get(dataset).status());
  }
  ATTUNE_RETURN_IF_ERROR(CheckKind(spec, data.kind));
  if (spec.contenders.empty()) spec.contenders = UsualContenders(spec, data.kind);
  absl::StatusOr<Comparison> made = deps_.store->Create(std::move(spec), request_id);
  absl::MutexLock lock(&mutex_);
  has_work_ = true;
  wake_.Signal();
  return made;
}

absl::StatusOr<Comparison> ComparisonManager::Cancel(absl::string_view id) {
  ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, deps_.store->Update(id, [&](Comparison& c) {
    if (IsFinal(c.state)) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "COMPARISON_ENDED",
                       absl::StrCat("The comparison '", id, "' has ended already."));
    }
    c.cancel_requested = true;
    if (c.state == ComparisonState::kQueued) {  // the one that runs may take hours yet
      c.state = ComparisonState::kCancelled;
      c.state_reason = "cancelled";
      c.end_time = deps_.clock->Now();
    }
    return absl::OkStatus();
  }));
  absl::MutexLock lock(&mutex_);
  if (running_ == id) is_cancelled_ = true;
  has_work_ = true;
  wake_.Signal();
  watchers_.SignalAll();
  return comparison;
}

absl::StatusOr<Comparison> ComparisonManager::Wait(absl::string_view id, int64_t after_version, absl::Time deadline,
                                                   const std::function<bool()>& cancelled) {
  while (true) {
    ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, deps_.store->Get(id));
    if (comparison.version > after_version || IsFinal(comparison.state)) return comparison;
    if (cancelled && cancelled()) return absl::CancelledError("The caller went away.");
    absl::MutexLock lock(&mutex_);
    if (is_stopping_) {
      return MakeError(absl::StatusCode::kUnavailable, "SHUTTING_DOWN", "The server shuts down.");
    }
    // What changed between the look and the wait is seen at the next wake-up, at the latest soon.
    constexpr absl::Duration kLongest = absl::Milliseconds(500);
    if (deps_.clock->Now() >= deadline) return comparison;
    watchers_.WaitWithTimeout(&mutex_, kLongest);
  }
}

void ComparisonManager::WakeWatchers() {
  absl::MutexLock lock(&mutex_);
  watchers_.SignalAll();
}

}  // namespace attune
