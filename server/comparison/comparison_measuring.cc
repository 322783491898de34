// The part of ComparisonRun that measures on the test part.
#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "server/comparison/comparison_run.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/verdict.h"
#include "server/data/utf8.h"
#include "server/evaluation/measures/bootstrap.h"
#include "server/evaluation/measures/calibration.h"
#include "server/evaluation/measures/classification.h"

namespace attune {
namespace {

constexpr int64_t kTimedRequests = 8;  // the first warms up and does not count
constexpr int64_t kParaphrasedRows = 40, kTrainingSample = 300;
constexpr size_t kMostDisagreements = 20, kLongestPrompt = 600;

// A figure without an interval.
Measure Figure(absl::string_view name, double value) { return {std::string(name), value, value, value, 0}; }

void Set(Measure measure, Contender* contender) {
  for (Measure& old : contender->measures) {
    if (old.name == measure.name) {
      old = std::move(measure);
      return;
    }
  }
  contender->measures.push_back(std::move(measure));
}

double MacroF1(const Answers& answers, absl::Span<const int64_t> rows) {
  Confusion confusion;
  for (int64_t row : rows) {
    if (!answers.expected[row].empty()) confusion.Add(answers.expected[row], answers.predicted[row]);
  }
  return confusion.MacroF1();
}

double CalibrationErrorOf(const Answers& answers) {
  std::vector<Judgement> judgements;
  for (size_t row = 0; row < answers.right.size(); ++row) {
    if (!answers.expected[row].empty()) judgements.push_back({answers.confidence[row], answers.right[row] > 0});
  }
  return ExpectedCalibrationError(judgements);
}

Measure Named(absl::string_view name, const Interval& interval, int64_t count) {
  return {std::string(name), interval.value, interval.lower, interval.upper, count};
}

// For people: the row's text.
std::string PromptOf(const Row& row) {
  std::string text;
  for (const ChatTurn& turn : row.messages) absl::StrAppend(&text, turn.role, ": ", turn.content, "\n");
  if (row.messages.empty()) {
    for (const auto& [name, value] : row.columns) absl::StrAppend(&text, name, ": ", value, "\n");
  }
  if (text.size() > kLongestPrompt) text.resize(CharacterStartBefore(text, kLongestPrompt));
  return text;
}

}  // namespace

absl::StatusOr<Answers> ComparisonRun::TestAnswers(const Contender& contender) {
  const std::string key = absl::StrCat("test:", ContenderName(contender.kind));
  ATTUNE_ASSIGN_OR_RETURN(std::string noted, deps_.store->GetNote(id_, key));
  if (!noted.empty()) return AnswersFromJson(noted);
  ATTUNE_ASSIGN_OR_RETURN(Task task, TestTask());
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, ModelOf(contender));
  ATTUNE_ASSIGN_OR_RETURN(Answers answers,
                          Ask(deps_.engine, std::move(model), task, contender.prompt_template, go_on()));
  ATTUNE_RETURN_IF_ERROR(deps_.store->PutNote(id_, key, AnswersToJson(answers)));
  return answers;
}

absl::Status ComparisonRun::MeasureQuality(const Answers& answers, Contender* contender) const {
  Set(QualityOf(answers), contender);
  Set(Figure(kLoss, answers.loss), contender);
  if (now_.choices.empty()) return absl::OkStatus();
  const int64_t count = static_cast<int64_t>(answers.right.size());
  const BootstrapOptions options{.resamples = 500};
  Set(Named(kMacroF1, BootstrapStatistic(count, [&](auto rows) { return MacroF1(answers, rows); }, options), count),
      contender);
  // No interval: resampling adds to its upward bias, and the interval would lie above the truth.
  Set(Figure(kCalibrationError, CalibrationErrorOf(answers)), contender);
  return absl::OkStatus();
}

absl::Status ComparisonRun::MeasureCost(const Answers& answers, Contender* contender) {
  double all = 0;
  for (const Trial& trial : contender->trials) all += trial.device_seconds;
  const double best = contender->best_trial >= 0 ? contender->trials[contender->best_trial].device_seconds : 0;
  Set(Figure(kTrainingSeconds, best), contender);
  Set(Figure(kSearchSeconds, all), contender);
  if (now_.spec.price_per_device_hour > 0) Set(Figure(kPrice, all / 3600 * now_.spec.price_per_device_hour), contender);
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, deps_.models->Get(contender->model));
  Set(Figure(kModelBytes, IsTuned(contender->kind) ? static_cast<double>(info.size_bytes) : 0), contender);
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, ModelOf(*contender));
  const int64_t virtual_tokens = HasVirtualTokens(info.kind) ? info.architecture.context_tokens - model->context_tokens() : 0;
  Set(Figure(kPromptTokens, answers.prompt_tokens + static_cast<double>(virtual_tokens)), contender);
  // One request at a time, as a lone user sees it.
  ATTUNE_ASSIGN_OR_RETURN(Task task, ReadTask(PartName("train"), kTimedRequests));
  std::vector<double> milliseconds;
  for (const Row& row : task.rows) {
    Task one = task;
    one.rows = {row};
    const absl::Time start = absl::Now();
    const absl::StatusOr<Answers> answer = Ask(deps_.engine, model, one, contender->prompt_template, go_on());
    if (absl::IsCancelled(answer.status())) return answer.status();
    const bool counts = &row != task.rows.data();
    if (answer.ok() && counts) milliseconds.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
  }
  if (milliseconds.empty()) return absl::OkStatus();
  std::nth_element(milliseconds.begin(), milliseconds.begin() + milliseconds.size() / 2, milliseconds.end());
  Set(Figure(kRequestMilliseconds, milliseconds[milliseconds.size() / 2]), contender);
  return absl::OkStatus();
}

absl::Status ComparisonRun::MeasureForgetting(const std::vector<double>& base, const OwnText& text,
                                              Contender* contender) {
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, ModelOf(*contender));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<double> right, AnswerProbe(deps_.engine, model, go_on()));
  Set(ProbeAccuracyOf(right), contender);
  Set(ForgettingOf(base, right), contender);
  ATTUNE_ASSIGN_OR_RETURN(Measure divergence, DivergenceFrom(deps_.engine, text, model, go_on()));
  Set(std::move(divergence), contender);
  return absl::OkStatus();
}

absl::Status ComparisonRun::MeasureSteadiness(const Variants& variants, const Task& train_sample,
                                              const Task& validation, Contender* contender) {
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, ModelOf(*contender));
  const std::string& prompt = contender->prompt_template;
  if (!variants.group.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(Answers answers, Ask(deps_.engine, model, variants.task, prompt, go_on()));
    Set(ConsistencyOf(variants, answers), contender);
  }
  if (!IsTuned(contender->kind)) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(Answers seen, Ask(deps_.engine, model, train_sample, prompt, go_on()));
  ATTUNE_ASSIGN_OR_RETURN(Answers unseen, Ask(deps_.engine, model, validation, prompt, go_on()));
  Set(OverfittingOf(QualityOf(seen), QualityOf(unseen)), contender);
  return absl::OkStatus();
}

absl::Status ComparisonRun::MeasureSideEffects() {
  ATTUNE_RETURN_IF_ERROR(Report("what the base model can do besides"));
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> base, deps_.acquire(now_.spec.base_model));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<double> base_right, AnswerProbe(deps_.engine, base, go_on()));
  ATTUNE_ASSIGN_OR_RETURN(OwnText text, WriteOwnText(deps_.engine, base, go_on()));
  const std::string& test = now_.spec.test_dataset;
  ATTUNE_ASSIGN_OR_RETURN(Task asked, ReadTask(test.empty() ? PartName("test") : test, kParaphrasedRows));
  ATTUNE_ASSIGN_OR_RETURN(const Variants variants,
                          MakeVariants(asked, kParaphrasedRows, static_cast<uint64_t>(seed())));
  ATTUNE_ASSIGN_OR_RETURN(Task train_sample, ReadTask(PartName("train"), kTrainingSample));
  const std::string& validation = now_.spec.validation_dataset;
  ATTUNE_ASSIGN_OR_RETURN(Task unseen, ReadTask(validation.empty() ? PartName("validation") : validation, kTrainingSample));
  for (Contender& contender : now_.contenders) {
    if (contender.state != Contender::State::kMeasured && contender.state != Contender::State::kStopped) continue;
    const std::string key = absl::StrCat("side effects:", ContenderName(contender.kind));
    ATTUNE_ASSIGN_OR_RETURN(const std::string noted, deps_.store->GetNote(id_, key));
    if (!noted.empty()) continue;  // an earlier run measured them
    ATTUNE_RETURN_IF_ERROR(Report(absl::StrCat("side effects of ", ContenderName(contender.kind))));
    if (ChangesWeights(contender.kind)) {
      ATTUNE_RETURN_IF_ERROR(MeasureForgetting(base_right, text, &contender));
    } else {
      // The same weights: nothing is forgotten, and that is known without asking.
      Set(ProbeAccuracyOf(base_right), &contender);
      Set(Figure(kForgetting, 0), &contender);
      Set(Figure(kDivergence, 0), &contender);
    }
    ATTUNE_RETURN_IF_ERROR(MeasureSteadiness(variants, train_sample, unseen, &contender));
    ATTUNE_RETURN_IF_ERROR(Save());
    ATTUNE_RETURN_IF_ERROR(deps_.store->PutNote(id_, key, "yes"));
  }
  return absl::OkStatus();
}

void ComparisonRun::CollectDisagreements(const std::vector<Answers>& answers) {
  now_.disagreements.clear();
  const absl::StatusOr<Task> task = TestTask();
  if (!task.ok()) return;
  for (size_t row = 0; row < task->rows.size() && now_.disagreements.size() < kMostDisagreements; ++row) {
    Disagreement found{PromptOf(task->rows[row]), "", {}};
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

absl::Status ComparisonRun::MeasureTest(Contender* contender, Answers* answers) {
  ATTUNE_ASSIGN_OR_RETURN(*answers, TestAnswers(*contender));
  ATTUNE_RETURN_IF_ERROR(MeasureQuality(*answers, contender));
  return MeasureCost(*answers, contender);
}

absl::Status ComparisonRun::Test() {
  absl::Status first_error;
  for (Contender& contender : now_.contenders) {  // what an earlier run said of some of them
    contender.rank = 0;
    contender.p_value = 1;
    contender.ties_best = false;
  }
  std::vector<Answers> answers(now_.contenders.size());
  std::vector<std::vector<double>> scores(now_.contenders.size());
  for (size_t i = 0; i < now_.contenders.size(); ++i) {
    Contender& contender = now_.contenders[i];
    if (contender.model.empty()) continue;
    ATTUNE_RETURN_IF_ERROR(Report(absl::StrCat("asking ", ContenderName(contender.kind), " the test part")));
    const absl::Status measured = MeasureTest(&contender, &answers[i]);
    if (absl::IsCancelled(measured)) return measured;
    if (!measured.ok()) {  // the others' figures are worth as much as before
      contender.state = Contender::State::kFailed;
      contender.note = std::string(measured.message());
      first_error.Update(measured);
      continue;
    }
    scores[i] = answers[i].right;
    now_.test_examples = static_cast<int64_t>(answers[i].right.size());
    if (contender.state != Contender::State::kStopped) contender.state = Contender::State::kMeasured;
    Decide(scores, &now_);  // a live leaderboard
    ATTUNE_RETURN_IF_ERROR(Save());
  }
  const bool has_scores = std::any_of(scores.begin(), scores.end(), [](const auto& of) { return !of.empty(); });
  if (!has_scores && !first_error.ok()) return first_error;
  if (!now_.spec.skip_side_effects) ATTUNE_RETURN_IF_ERROR(MeasureSideEffects());
  Decide(scores, &now_);
  CollectDisagreements(answers);
  return Save();
}

}  // namespace attune
