// The part of ComparisonRun that measures on the test part.
#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/utf8.h"
#include "server/comparison/comparison_run.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/parts.h"
#include "server/comparison/text_measures.h"
#include "server/comparison/verdict.h"
#include "server/evaluation/measures/bootstrap.h"
#include "server/evaluation/measures/calibration.h"
#include "server/evaluation/measures/classification.h"

namespace attune {
namespace {

constexpr int64_t kTimedRequests = 24;  // half of them count
constexpr int64_t kMostRowsUnderWay = 128;
constexpr size_t kMostDisagreements = 20, kLongestPrompt = 600;

double MacroF1(const Answers& answers, absl::Span<const int64_t> rows) {
  Confusion confusion;
  for (int64_t row : rows) {
    if (!answers.expected[row].empty()) confusion.Add(answers.expected[row], answers.predicted[row]);
  }
  return confusion.MacroF1();
}

double CalibrationErrorOf(const Answers& answers) {
  std::vector<Judgement> judgements;
  for (size_t row = 0; row < answers.scores.size(); ++row) {
    if (!answers.expected[row].empty()) judgements.push_back({answers.confidence[row], answers.scores[row] > 0});
  }
  return ExpectedCalibrationError(judgements);
}

std::string TestKey(const Contender& contender) { return absl::StrCat("test:", ContenderName(contender.kind)); }

Measure Named(absl::string_view name, const Interval& interval, int64_t count) {
  return {std::string(name), interval.value, interval.lower, interval.upper, count};
}

// For people, cut: what the row asks.
std::string ShownPrompt(const EvalTask& task, const Row& row) {
  std::string text = PromptText(task.data, row).value_or("");
  if (text.size() > kLongestPrompt) text.resize(CharacterStartBefore(text, kLongestPrompt));
  return text;
}

}  // namespace

std::vector<std::future<absl::StatusOr<Answers>>> ComparisonRun::AskTestPart(const EvalTask& task) const {
  std::vector<std::future<absl::StatusOr<Answers>>> asked(now_.contenders.size());
  for (size_t i = 0; i < asked.size(); ++i) {
    const Contender& contender = now_.contenders[i];
    if (contender.model.empty()) continue;
    const absl::StatusOr<std::string> noted = deps_.store->GetNote(id_, TestKey(contender));
    if (!noted.ok() || !noted->empty()) {
      asked[i] = std::async(std::launch::deferred, [noted]() -> absl::StatusOr<Answers> {
        return noted.ok() ? AnswersFromJson(*noted) : noted.status();
      });
      continue;
    }
    auto ask = [this, &task, id = contender.model, prompt = contender.prompt_template,
                key = TestKey(contender)]() -> absl::StatusOr<Answers> {
      ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, deps_.acquire(id));
      ATTUNE_ASSIGN_OR_RETURN(Answers answers, Ask(deps_.engine, std::move(model), task, prompt, go_on()));
      ATTUNE_RETURN_IF_ERROR(deps_.store->PutNote(id_, key, AnswersToJson(answers)));  // whatever becomes of the others
      return answers;
    };
    asked[i] = std::async(std::launch::async, std::move(ask));
  }
  return asked;
}

absl::Status ComparisonRun::TakeAnswers(std::future<absl::StatusOr<Answers>> asked, Contender* contender, Answers* answers) {
  ATTUNE_ASSIGN_OR_RETURN(*answers, asked.get());
  return MeasureQuality(*answers, contender);
}

absl::Status ComparisonRun::MeasureQuality(const Answers& answers, Contender* contender) const {
  contender->Set(QualityOf(answers));
  contender->Set(Figure(kLoss, answers.loss));
  contender->Set(Figure(kPerplexity, std::exp(answers.loss)));
  if (now_.metric == QualityMetric::kLikelihood) return absl::OkStatus();
  if (now_.choices.empty()) {
    for (Measure& measure : TextMeasures(answers.expected, answers.predicted, now_.spec.pattern)) {
      contender->Set(std::move(measure));
    }
    return absl::OkStatus();
  }
  const int64_t count = static_cast<int64_t>(answers.scores.size());
  const BootstrapOptions options{.resamples = 500};
  contender->Set(Named(kMacroF1, BootstrapStatistic(count, [&](auto rows) { return MacroF1(answers, rows); }, options), count));
  // No interval: resampling adds to its upward bias, and the interval would lie above the truth.
  contender->Set(Figure(kCalibrationError, CalibrationErrorOf(answers)));
  return absl::OkStatus();
}

void ComparisonRun::MeasureEnergy(Contender* contender) const {
  if (contender->best_trial < 0) return;
  const std::optional<double> best = contender->trials[contender->best_trial].energy_joules;
  if (best) contender->Set(Figure(kTrainingEnergy, *best));
  double all = 0;
  for (const Trial& trial : contender->trials) {
    // A sum that lacks a trial would pass for less than it was.
    if (trial.device_seconds > 0 && !trial.energy_joules) return;
    all += trial.energy_joules.value_or(0);
  }
  contender->Set(Figure(kSearchEnergy, all));
}

absl::Status ComparisonRun::MeasureCost(const Answers& answers, Contender* contender) {
  double all = 0;
  for (const Trial& trial : contender->trials) all += trial.device_seconds;
  const double best = contender->best_trial >= 0 ? contender->trials[contender->best_trial].device_seconds : 0;
  contender->Set(Figure(kTrainingSeconds, best));
  contender->Set(Figure(kSearchSeconds, all));
  MeasureEnergy(contender);
  const double price = now_.spec.price_per_device_hour;
  if (price > 0) contender->Set(Figure(kPrice, all / 3600 * price));
  const int64_t memory = contender->best_trial >= 0 ? contender->trials[contender->best_trial].memory_bytes : 0;
  if (memory > 0) contender->Set(Figure(kTrainingMemory, static_cast<double>(memory)));
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, deps_.models->Get(contender->model));
  contender->Set(Figure(kModelBytes, IsTuned(contender->kind) ? static_cast<double>(info.size_bytes) : 0));
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, ModelOf(*contender));
  const int64_t virtual_tokens = HasVirtualTokens(info.kind) ? info.architecture.context_tokens - model->context_tokens() : 0;
  contender->Set(Figure(kPromptTokens, answers.prompt_tokens + static_cast<double>(virtual_tokens)));
  ATTUNE_ASSIGN_OR_RETURN(EvalTask task, ReadTask(PartName("train"), kTimedRequests));
  ATTUNE_ASSIGN_OR_RETURN(const double milliseconds,
                          RequestMilliseconds(deps_.engine, model, task, contender->prompt_template, go_on()));
  if (milliseconds > 0) contender->Set(Figure(kRequestMilliseconds, milliseconds));
  return absl::OkStatus();
}

void ComparisonRun::CollectDisagreements(const std::vector<Answers>& answers) {
  now_.disagreements.clear();
  if (now_.metric == QualityMetric::kLikelihood) return;
  const absl::StatusOr<EvalTask> task = TestTask();
  if (!task.ok()) return;
  for (size_t row = 0; row < task->rows.size() && now_.disagreements.size() < kMostDisagreements; ++row) {
    Disagreement found{ShownPrompt(*task, task->rows[row]), "", {}};
    std::set<std::string> distinct;
    for (size_t i = 0; i < now_.contenders.size(); ++i) {
      // Those that are out of the race would differ everywhere.
      const bool is_near = now_.contenders[i].rank >= 1 && (now_.contenders[i].rank <= 3 || now_.contenders[i].ties_best);
      const bool fits = row < answers[i].expected.size() && !answers[i].expected[row].empty();
      if (!is_near || !fits) continue;
      found.expected = answers[i].expected[row];
      found.answers[std::string(ContenderName(now_.contenders[i].kind))] = answers[i].predicted[row];
      distinct.insert(answers[i].predicted[row]);
    }
    if (distinct.size() > 1) now_.disagreements.push_back(std::move(found));
  }
}

absl::Status ComparisonRun::Test() {
  for (Contender& contender : now_.contenders) {  // what an earlier run said of some of them
    contender.rank = 0;
    contender.p_value = 1;
    contender.ties_best = false;
  }
  std::vector<Answers> answers(now_.contenders.size());
  std::vector<std::vector<double>> scores(now_.contenders.size());
  absl::Status first_error;
  // The others' figures are worth as much as before.
  auto fail = [&](const absl::Status& why, size_t i) {
    now_.contenders[i].state = Contender::State::kFailed;
    now_.contenders[i].note = std::string(why.message());
    now_.contenders[i].rank = 0;
    now_.contenders[i].p_value = 1;
    now_.contenders[i].ties_best = false;
    scores[i].clear();
    first_error.Update(why);
  };
  ATTUNE_RETURN_IF_ERROR(Report("asking all methods the test part"));
  ATTUNE_ASSIGN_OR_RETURN(EvalTask task, TestTask());
  // Together no more than the engine's queue has places for, which people's requests need, too.
  const int64_t contenders = std::max<int64_t>(1, static_cast<int64_t>(now_.contenders.size()));
  task.most_under_way = std::max<int64_t>(8, kMostRowsUnderWay / contenders);
  std::vector<std::future<absl::StatusOr<Answers>>> asked = AskTestPart(task);
  for (size_t i = 0; i < now_.contenders.size(); ++i) {
    Contender& contender = now_.contenders[i];
    if (contender.model.empty()) continue;
    const absl::Status taken = TakeAnswers(std::move(asked[i]), &contender, &answers[i]);
    if (absl::IsCancelled(taken)) return taken;
    if (!taken.ok()) {
      fail(taken, i);
      continue;
    }
    scores[i] = answers[i].scores;
    now_.test_examples = static_cast<int64_t>(answers[i].scores.size());
    if (contender.state != Contender::State::kStopped) contender.state = Contender::State::kMeasured;
    Decide(scores, &now_);  // a live leaderboard
    ATTUNE_RETURN_IF_ERROR(Save());
  }
  // Requests are timed while no others of this comparison are under way.
  for (size_t i = 0; i < now_.contenders.size(); ++i) {
    if (scores[i].empty()) continue;
    ATTUNE_RETURN_IF_ERROR(Report(absl::StrCat("timing requests to ", ContenderName(now_.contenders[i].kind))));
    const absl::Status measured = MeasureCost(answers[i], &now_.contenders[i]);
    if (absl::IsCancelled(measured)) return measured;
    if (!measured.ok()) fail(measured, i);
  }
  Decide(scores, &now_);
  ATTUNE_RETURN_IF_ERROR(Save());
  const bool has_scores = std::any_of(scores.begin(), scores.end(), [](const auto& of) { return !of.empty(); });
  if (!has_scores && !first_error.ok()) return first_error;
  if (!now_.spec.skip_side_effects) ATTUNE_RETURN_IF_ERROR(MeasureSideEffects());
  Decide(scores, &now_);
  CollectDisagreements(answers);
  return Save();
}

}  // namespace attune
