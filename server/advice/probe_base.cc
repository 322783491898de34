#include "server/advice/probe_base.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "server/advice/few_shot.h"
#include "server/comparison/side_effects.h"

namespace attune {
namespace {

constexpr size_t kTimedRows = 10;  // half of them count
constexpr double kRoomForShots = 0.5;  // of the context
constexpr double kFarTask = 2;  // nats per token

// Of a few of the task's rows, alone.
absl::StatusOr<double> TimeRequests(Engine* engine, const std::shared_ptr<const ServedModel>& base, EvalTask task,
                                    const GoOn& go_on) {
  task.rows.resize(std::min(task.rows.size(), kTimedRows));
  return RequestMilliseconds(engine, base, task, "", go_on);
}

// Fills in what examples bring, if any fit.
absl::Status ProbeFewShot(Engine* engine, const std::shared_ptr<const ServedModel>& base, const EvalTask& task,
                          const Candidates& candidates, const GoOn& go_on, BaseProbe* probe) {
  const double room = kRoomForShots * static_cast<double>(base->context_tokens());
  std::vector<Row> shots;
  double tokens = 0;
  for (int64_t i : ChooseShots(candidates.described, !task.choices.empty(), candidates.tokens, kShots, room)) {
    shots.push_back(candidates.rows[i]);
    tokens += candidates.tokens[i];
  }
  if (shots.empty()) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(EvalTask shown, WithShots(task, shots));
  // The limit is for the row, not for what stands before it.
  if (shown.options.max_sequence_tokens > 0)
    shown.options.max_sequence_tokens += static_cast<int32_t>(tokens) + 2 * kShots;
  ATTUNE_ASSIGN_OR_RETURN(Answers answers, Ask(engine, base, shown, "", go_on));
  probe->few_shot = QualityOf(answers);
  probe->shots = static_cast<int64_t>(shots.size());
  ATTUNE_ASSIGN_OR_RETURN(probe->few_shot_milliseconds, TimeRequests(engine, base, shown, go_on));
  return absl::OkStatus();
}

// Nats per token of text that it writes itself.
absl::StatusOr<double> OwnLoss(Engine* engine, const std::shared_ptr<const ServedModel>& base, const GoOn& go_on) {
  ATTUNE_ASSIGN_OR_RETURN(OwnText text, WriteOwnText(engine, base, go_on));
  double sum = 0, tokens = 0;
  for (const std::vector<double>& logprobs : text.logprobs) {
    for (double logprob : logprobs) sum -= logprob;
    tokens += static_cast<double>(logprobs.size());
  }
  return tokens > 0 ? sum / tokens : 0;
}

Finding QualityFinding(absl::string_view name, const Measure& quality, std::string text) {
  return {std::string(name), quality.value,   quality.lower,           quality.upper,
          quality.count,     std::move(text), Finding::Severity::kInfo};
}

std::string Figure(const Measure& quality) {
  return absl::StrFormat("%.3f (%.3f to %.3f) on %d rows", quality.value, quality.lower, quality.upper, quality.count);
}

}  // namespace

absl::StatusOr<BaseProbe> ProbeBase(Engine* engine, std::shared_ptr<const ServedModel> base, const EvalTask& task,
                                    const Candidates& candidates, const GoOn& go_on,
                                    const std::function<void(const std::string&)>& say) {
  BaseProbe probe;
  say(absl::StrCat("asking the base model ", task.rows.size(), " rows"));
  const absl::Time start = absl::Now();
  ATTUNE_ASSIGN_OR_RETURN(Answers answers, Ask(engine, base, task, "", go_on));
  probe.seconds_per_row = absl::ToDoubleSeconds(absl::Now() - start) / static_cast<double>(task.rows.size());
  probe.zero_shot = QualityOf(answers);
  probe.answer_loss = answers.loss;
  ATTUNE_ASSIGN_OR_RETURN(probe.zero_shot_milliseconds, TimeRequests(engine, base, task, go_on));
  say("asking again, with examples before each prompt");
  ATTUNE_RETURN_IF_ERROR(ProbeFewShot(engine, base, task, candidates, go_on, &probe));
  say("letting the base model write, to see how far the task is from it");
  ATTUNE_ASSIGN_OR_RETURN(probe.own_loss, OwnLoss(engine, base, go_on));
  return probe;
}

std::vector<Finding> FindingsOf(const BaseProbe& probe) {
  std::vector<Finding> findings;
  findings.push_back(QualityFinding(kZeroShotQuality, probe.zero_shot,
                                    absl::StrCat("The base model as it is: ", Figure(probe.zero_shot), ".")));
  if (probe.shots > 0) {
    findings.push_back(QualityFinding(
        kFewShotQuality, probe.few_shot,
        absl::StrCat("With ", probe.shots, " examples before the prompt: ", Figure(probe.few_shot), ".")));
  }
  const double distance = probe.task_distance();
  findings.push_back(
      {std::string(kTaskDistance), distance, distance, distance, 0,
       absl::StrFormat(
           "The right answers cost the base model %.2f nats per token, its own text %.2f: the task is %s it.",
           probe.answer_loss, probe.own_loss, distance >= kFarTask ? "far from" : "near to"),
       Finding::Severity::kInfo});
  const double alone = probe.zero_shot_milliseconds;
  std::string text = absl::StrFormat("A request alone takes about %.0f ms", alone);
  if (probe.shots > 0) absl::StrAppendFormat(&text, ", with the examples %.0f", probe.few_shot_milliseconds);
  findings.push_back({std::string(kRequestTime), alone, alone, alone, 0, text + ".", Finding::Severity::kInfo});
  return findings;
}

absl::StatusOr<std::vector<float>> EmbedPrompts(Engine* engine, std::shared_ptr<const ServedModel> base,
                                                const std::vector<std::vector<int32_t>>& prompts, const GoOn& go_on) {
  std::vector<float> features;
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<std::vector<float>> embedded,
                          EmbedAll(engine, std::move(base), prompts, go_on));
  for (const std::vector<float>& one : embedded) features.insert(features.end(), one.begin(), one.end());
  return features;
}

}  // namespace attune
