#include "server/advice/advice_run.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/shuffle.h"
#include "server/advice/rules.h"
#include "server/comparison/parts.h"
#include "server/comparison/split.h"
#include "server/comparison/trials.h"
#include "server/data/example.h"
#include "server/evaluation/measures/random.h"

namespace attune {
namespace {

constexpr int64_t kMostRendered = 1000, kMostEmbedded = 300;
constexpr size_t kEmbeddedTokens = 256;  // of each prompt
constexpr double kAskedShare = 0.3;      // of the data, without test data: the rest gives examples and the curve's rows
constexpr int64_t kCurveAsked = 40;      // rows that each job of the curve is asked
constexpr double kSecondsAJob = 1.5;     // to load, save and publish
// Short jobs are slower than the estimate, which is of long ones on an idle device; so is asking few rows.
constexpr double kTrainingSlack = 2.5, kAskingSlack = 1.5;
constexpr int64_t kSearchedRows = 1500;  // answers that a search for a text prompt asks for
constexpr int64_t kDefaultTokens = 2048;

double ValueOf(const std::vector<Finding>& findings, absl::string_view name) {
  const Finding* finding = FindFinding(findings, name);
  return finding ? finding->value : 0;
}

std::optional<Proportion> ShareOf(const Measure& measure) {
  if (measure.count == 0) return std::nullopt;
  return Proportion{measure.value, measure.lower, measure.upper, measure.count};
}

}  // namespace

AdviceRun::AdviceRun(const AdvisorDeps& deps, const AdviceRequest& request, const Advisor::Progress& progress)
    : deps_(deps), request_(request), progress_(progress) {}

absl::Status AdviceRun::Say(const std::string& what) {
  at_ = what;
  return progress_(at_) ? absl::OkStatus() : absl::CancelledError("The advice was stopped.");
}

GoOn AdviceRun::go_on() const {
  return [this](int64_t, int64_t) { return progress_(at_); };
}

void AdviceRun::Add(std::vector<Finding> findings) {
  for (Finding& finding : findings) findings_.push_back(std::move(finding));
}

absl::Status AdviceRun::Gather() {
  ATTUNE_RETURN_IF_ERROR(Say("reading the data"));
  ATTUNE_RETURN_IF_ERROR(ReadData());
  ATTUNE_RETURN_IF_ERROR(LookAtData());
  ATTUNE_RETURN_IF_ERROR(LookForNoise());
  ATTUNE_RETURN_IF_ERROR(AskBase());
  ATTUNE_RETURN_IF_ERROR(Say("estimating what each method would take"));
  EstimateCosts();
  return LearnCurve();
}

absl::Status AdviceRun::ReadData() {
  ATTUNE_ASSIGN_OR_RETURN(base_info_, deps_.models->Get(request_.base_model));
  if (IsAdapter(base_info_.kind)) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, "BASE_IS_ADAPTER",
        absl::StrCat("'models/", base_info_.id, "' is an adapter; ask for advice on the model that it is based on."));
  }
  ATTUNE_ASSIGN_OR_RETURN(data_, deps_.datasets->Get(request_.dataset));
  if (data_.kind == DatasetKind::kText) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_ANSWERS",
                     "Plain text has no answers that could be judged; give rows with prompts and completions.");
  }
  if (data_.kind == DatasetKind::kPreference || data_.kind == DatasetKind::kChatPreference) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "PREFERENCE_DATA",
                     "Preferences have no one answer that could be judged; give rows with prompts and completions.");
  }
  UseTemplates(request_.data, &data_);
  ATTUNE_ASSIGN_OR_RETURN(rows_, deps_.datasets->ReadRows(data_.id));
  if (rows_.size() < 2) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_ENOUGH_DATA",
                     "One row says nothing; give at least two.");
  }
  ATTUNE_ASSIGN_OR_RETURN(described_, DescribeRows(data_, rows_));
  asked_.choices = ChoicesOf(described_);
  asked_.data = data_;
  asked_.options = request_.data;
  asked_.tenant = request_.tenant;
  view_.train = described_;
  view_.has_labels = !asked_.choices.empty();
  ATTUNE_RETURN_IF_ERROR(ChooseAsked());
  ATTUNE_ASSIGN_OR_RETURN(base_, deps_.acquire(request_.base_model));
  return RenderRows();
}

absl::Status AdviceRun::ChooseAsked() {
  const std::vector<int64_t> all = AllRows(rows_.size());
  if (request_.test_dataset.empty()) {
    const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kAskedShare * static_cast<double>(rows_.size())));
    const std::vector<int64_t> asked = SampleRows(described_, all, std::min(kMostProbed, most), request_.seed);
    asked_.rows = TakeRows(rows_, asked);
    std::set_difference(all.begin(), all.end(), asked.begin(), asked.end(), std::back_inserter(learned_));
  } else {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> test, deps_.datasets->ReadRows(request_.test_dataset));
    ATTUNE_ASSIGN_OR_RETURN(view_.test, DescribeRows(data_, test));
    asked_.rows = TakeRows(test, SampleRows(view_.test, AllRows(test.size()), kMostProbed, request_.seed));
    learned_ = all;
  }
  // Every beginning of the rows is a fair sample.
  CounterRandom random(request_.seed);
  Shuffle(&asked_.rows, [&](int64_t count) { return random.Below(count); });
  Shuffle(&learned_, [&](int64_t count) { return random.Below(count); });
  return absl::OkStatus();
}

absl::Status AdviceRun::RenderRows() {
  RenderOptions options;
  options.kind = data_.kind;
  options.prompt_template = data_.prompt_template;
  options.completion_template = data_.completion_template;
  options.max_tokens = std::numeric_limits<int32_t>::max();
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer,
                          ExampleRenderer::Create(base_->tokenizer_view, base_->chat_template(), options));
  view_.context_tokens = std::min(base_->context_tokens(), kDefaultTokens);
  if (request_.data.max_sequence_tokens > 0)
    view_.context_tokens = std::min<int64_t>(view_.context_tokens, request_.data.max_sequence_tokens);
  rendered_.assign(learned_.begin(),
                   learned_.begin() + std::min<int64_t>(kMostRendered, static_cast<int64_t>(learned_.size())));
  for (int64_t row : rendered_) {
    ATTUNE_ASSIGN_OR_RETURN(Example example, renderer.Render(rows_[row], row));
    view_.example_tokens.push_back(static_cast<double>(example.tokens.size()));
    view_.answer_tokens.push_back(static_cast<double>(example.tokens.size() - example.prompt_tokens));
    prompts_.emplace_back(example.tokens.begin(), example.tokens.begin() + example.prompt_tokens);
  }
  return absl::OkStatus();
}

absl::Status AdviceRun::LookAtData() {
  ATTUNE_RETURN_IF_ERROR(Say("looking at the data: lengths, labels, duplicates, leakage"));
  Add(FindInData(view_));
  evidence_.rows = static_cast<int64_t>(ValueOf(findings_, kRows));
  evidence_.test_rows = static_cast<int64_t>(ValueOf(findings_, kTestRows));
  evidence_.labels = static_cast<int64_t>(asked_.choices.size());
  evidence_.majority = ValueOf(findings_, kLabelBalance);
  evidence_.parameters = base_info_.architecture.parameters;
  const double parameters = static_cast<double>(evidence_.parameters);
  if (parameters > 0) {
    findings_.push_back({std::string(kParameters), parameters, parameters, parameters, 0,
                         absl::StrFormat("The base model has %.3g million parameters.", parameters / 1e6)});
  }
  return absl::OkStatus();
}

absl::Status AdviceRun::LookForNoise() {
  if (!view_.has_labels) return absl::OkStatus();
  EmbeddedRows embedded;
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < rendered_.size() && static_cast<int64_t>(i) < kMostEmbedded; ++i) {
    if (prompts_[i].empty()) continue;
    embedded.rows.push_back(rendered_[i]);
    prompts.push_back(prompts_[i]);
    prompts.back().resize(std::min(prompts.back().size(), std::min<size_t>(kEmbeddedTokens, view_.context_tokens)));
  }
  ATTUNE_RETURN_IF_ERROR(Say(absl::StrCat("looking for wrong labels among ", prompts.size(), " rows")));
  ATTUNE_ASSIGN_OR_RETURN(embedded.features, EmbedPrompts(deps_.engine, base_, prompts, go_on()));
  Add(FindLabelNoiseIn(view_, embedded));
  return absl::OkStatus();
}

absl::Status AdviceRun::AskBase() {
  Candidates candidates;
  candidates.tokens = view_.example_tokens;
  candidates.rows = TakeRows(rows_, rendered_);
  for (int64_t row : rendered_) candidates.described.push_back(described_[row]);
  absl::Status told;
  absl::StatusOr<BaseProbe> probe = ProbeBase(deps_.engine, base_, asked_, candidates, go_on(),
                                              [&](const std::string& what) { told.Update(Say(what)); });
  ATTUNE_RETURN_IF_ERROR(told);
  if (absl::IsCancelled(probe.status())) return probe.status();
  if (!probe.ok()) {
    if (absl::IsUnavailable(probe.status())) return probe.status();  // the server ends
    // Nothing that fits, say: the advice goes on without, and says so.
    const std::string why(probe.status().message());
    LogWarning("advice.no_probe", {{"why", why}});
    findings_.push_back({std::string(kZeroShotQuality), 0, 0, 0, 0,
                         absl::StrCat("The base model could not be asked: ", why), Finding::Severity::kWarning});
    return absl::OkStatus();
  }
  probe_ = *probe;
  evidence_.zero_shot = ShareOf(probe_.zero_shot);
  evidence_.few_shot = ShareOf(probe_.few_shot);
  evidence_.task_distance = probe_.task_distance();
  Add(FindingsOf(probe_));
  return absl::OkStatus();
}

JobSpec AdviceRun::JobOf(ContenderKind kind) const {
  JobSpec spec;
  spec.base_model = request_.base_model;
  spec.dataset = request_.dataset;
  spec.method = MethodFor(kind, TrialSettings(), base_info_.architecture.layers);
  spec.data = request_.data;
  spec.tenant = request_.tenant;
  return spec;
}

// A search for a text prompt asks the base model; the others train.
MethodCost AdviceRun::CostOf(ContenderKind kind) const {
  MethodCost cost;
  const bool has_prompt = kind == ContenderKind::kTextPrompt || kind == ContenderKind::kHybrid;
  cost.request_milliseconds =
      has_prompt && probe_.shots > 0 ? probe_.few_shot_milliseconds : probe_.zero_shot_milliseconds;
  if (has_prompt && probe_.seconds_per_row == 0) {
    cost.why_not = "what a search takes is not known: the base model could not be asked.";
    return cost;
  }
  if (has_prompt) cost.device_seconds += probe_.seconds_per_row * kSearchedRows;
  if (!ChangesWeights(kind)) return cost;
  const absl::StatusOr<JobManager::Estimate> job = deps_.jobs->EstimateJob(JobOf(kind));
  if (!job.ok()) {
    cost.why_not = std::string(job.status().message());
    return cost;
  }
  cost.device_seconds += job->estimate.duration_seconds;
  if (!job->admissible) {
    cost.why_not = absl::StrFormat("it needs %.1f GiB of the device's memory, which has %.1f.",
                                   static_cast<double>(job->estimate.peak_memory_bytes) / (1 << 30),
                                   static_cast<double>(job->available_memory_bytes) / (1 << 30));
  }
  return cost;
}

void AdviceRun::EstimateCosts() {
  evidence_.costs[ContenderKind::kZeroShot] = CostOf(ContenderKind::kZeroShot);
  for (const auto& [kind, rule] : PriorRules().rules) evidence_.costs[kind] = CostOf(kind);
  if (!evidence_.costs[ContenderKind::kLora].why_not.empty()) return;
  const double lora = evidence_.costs[ContenderKind::kLora].device_seconds;
  findings_.push_back({std::string(kDeviceSeconds), lora, lora, lora, 0,
                       absl::StrCat("A LoRA job with its defaults would take the device ", AboutTime(lora), ".")});
}

CurveRequest AdviceRun::MakeCurve() const {
  CurveRequest curve;
  JobSpec one_pass = JobOf(ContenderKind::kLora);
  one_pass.hyperparameters.epochs = 1;
  const absl::StatusOr<JobManager::Estimate> pass = deps_.jobs->EstimateJob(one_pass);
  if (!pass.ok()) return curve;
  curve.asked = asked_;
  if (static_cast<int64_t>(curve.asked.rows.size()) > kCurveAsked) curve.asked.rows.resize(kCurveAsked);
  const double asking = probe_.seconds_per_row * static_cast<double>(curve.asked.rows.size());
  const double per_row = pass->estimate.duration_seconds / static_cast<double>(rows_.size());
  curve.plan = PlanCurve(static_cast<int64_t>(learned_.size()), kTrainingSlack * per_row,
                         kAskingSlack * asking + kSecondsAJob, request_.curve_seconds);
  absl::BitGen random;
  curve.id = absl::StrFormat("advice-%08x", absl::Uniform<uint32_t>(random));
  curve.job = JobOf(ContenderKind::kLora);
  curve.data = data_;
  curve.rows = TakeRows(rows_, learned_);
  curve.deadline = absl::Now() + absl::Seconds(request_.curve_seconds);
  return curve;
}

absl::Status AdviceRun::LearnCurve() {
  if (request_.curve_seconds <= 0 || !evidence_.costs[ContenderKind::kLora].why_not.empty()) return absl::OkStatus();
  const CurveRequest curve = MakeCurve();
  const std::vector<int64_t>& sizes = curve.plan.sizes;
  if (sizes.empty()) {
    findings_.push_back({std::string(kLearningCurve), 0, 0, 0, 0,
                         absl::StrCat("No learning curve: one that tells something needs ",
                                      AboutTime(curve.plan.seconds), " of training here, and 32 rows.")});
    return absl::OkStatus();
  }
  ATTUNE_RETURN_IF_ERROR(Say(absl::StrCat("short LoRA jobs on ", sizes.front(), " to ", sizes.back(), " rows")));
  const CurveDeps deps{deps_.engine, deps_.jobs, deps_.datasets, deps_.acquire, deps_.delete_model};
  const absl::StatusOr<std::vector<CurvePoint>> points = ProbeCurve(deps, curve, go_on());
  if (absl::IsCancelled(points.status())) return points.status();
  if (!points.ok() || points->empty()) {
    const std::string why = points.ok() ? "no short LoRA job ended in time; the device may be busy"
                                        : std::string(points.status().message());
    LogWarning("advice.no_curve", {{"why", why}});
    findings_.push_back({std::string(kLearningCurve), 0, 0, 0, 0, absl::StrCat("No learning curve: ", why, ".")});
    return absl::OkStatus();
  }
  evidence_.curve = *points;
  const auto end = PredictQuality(*points, points->back().examples, CurveOptions());
  evidence_.curve_is_sure = end.ok() && end->evidence == CurveEvidence::kEnough;
  Add(FindingsOf(evidence_.curve, evidence_.rows));
  return absl::OkStatus();
}

}  // namespace attune
