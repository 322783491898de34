#include "server/evaluation/prompt_search/search.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "server/evaluation/calibration.h"
#include "server/evaluation/prompt_search/mean_interval.h"
#include "server/evaluation/prompt_search/successive_halving.h"

namespace attune {
namespace {

constexpr int64_t kFirstRows = 16, kMostRows = 256;  // of the halving
constexpr int64_t kMostFinalRows = 512;
constexpr int64_t kSurvivors = 2;  // that meet the next round's prompts, and the baseline in the final
constexpr int64_t kShownRows = 6,
                  kCheckedRows = 16;  // training rows that the model sees, and that errors are looked for in
constexpr int kProposals = 4;         // a round
constexpr size_t kMostTrials = 50;

int64_t Rows(const SearchData& data) { return static_cast<int64_t>(data.validation.size()); }

HalvingOptions HalvingFor(const SearchData& data) {
  HalvingOptions options;
  options.rows = std::min(kMostRows, Rows(data));
  options.first_rows = kFirstRows;
  options.finalists = kSurvivors;
  return options;
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

int64_t FinalCalls(const SearchData& data) { return (kSurvivors + 1) * std::min(kMostFinalRows, Rows(data)); }

// Content-free inputs that a prompt is yet to be asked.
int64_t MissingContentFree(const SearchHost& host, const std::string& prompt) {
  if (host.data->labels.empty()) return 0;
  const auto known = host.memo->content_free.find(prompt);
  const size_t asked = known == host.memo->content_free.end() ? 0 : known->second.size();
  return static_cast<int64_t>(ContentFreeInputs().size() - asked);
}

// Whether calls are left for a final after so many rows of these prompts. By what is missing, so
// that a resumed search decides alike.
bool LeavesAFinal(const SearchHost& host, const std::vector<const PreparedPrompt*>& prompts, int64_t rows) {
  const int64_t most = host.settings->max_calls;
  int64_t missing = 0;
  for (const PreparedPrompt* prompt : prompts) {
    for (int64_t row = 0; row < rows; ++row) missing += host.memo->Find(prompt->key(), row) == nullptr;
    missing += MissingContentFree(host, prompt->key());
  }
  if (most == 0 || missing == 0) return true;
  return host.memo->calls + missing <= most - std::min(most / 4, FinalCalls(*host.data));
}

}  // namespace

int64_t PlannedCalls(const SearchSettings& settings, const SearchData& data) {
  const int64_t inputs = data.labels.empty() ? 0 : static_cast<int64_t>(ContentFreeInputs().size());
  const auto round = [&](int64_t candidates) {
    return HalvingCost(HalvingFor(data), candidates + kSurvivors) + candidates * inputs;
  };
  // The first round has the baseline and every instruction that was given, however many.
  const int64_t first = std::max<int64_t>(settings.candidates, 1 + static_cast<int64_t>(settings.instructions.size()));
  const int64_t proposals = settings.rounds * kProposals + (settings.rounds - 1) * kCheckedRows;
  const int64_t calls = round(first) + (settings.rounds - 1) * round(settings.candidates) + proposals + FinalCalls(data);
  return settings.max_calls > 0 ? std::min(settings.max_calls, calls) : calls;
}

PromptSearch::PromptSearch(const SearchHost* host, std::function<absl::Status(const SearchRound&)> on_round)
    : host_(*host), on_round_(std::move(on_round)), pool_(host->data, host->settings), proposer_(host), scorer_(host) {}

absl::StatusOr<SearchOutcome> PromptSearch::Run() {
  for (int64_t round = 0; round < host_.settings->rounds; ++round) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<Candidate> candidates, CandidatesFor(round));
    std::vector<int64_t> arms = best_;
    for (Candidate& candidate : candidates) {
      ATTUNE_ASSIGN_OR_RETURN(PreparedPrompt prompt,
                              PreparedPrompt::Make(*host_.model, *host_.data, std::move(candidate)));
      const bool leaves_room = prompt.tokens() <= host_.model->context_tokens() / 2;
      if (!leaves_room && !prompts_.empty()) continue;  // the baseline is there in any case
      arms.push_back(static_cast<int64_t>(prompts_.size()));
      prompts_.push_back(std::move(prompt));
    }
    ATTUNE_ASSIGN_OR_RETURN(bool complete, Halve(arms));
    const int64_t rows = Rows(*host_.data);
    ATTUNE_RETURN_IF_ERROR(
        on_round_({round + 1, prompts_[best_[0]].candidate(), Estimate(best_[0], rows), IsCalibrated(best_[0], rows)}));
    if (!complete) break;
  }
  return Finish();
}

absl::StatusOr<std::vector<Candidate>> PromptSearch::CandidatesFor(int64_t round) {
  if (round == 0) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> proposed,
                            proposer_.FromExamples(pool_.DrawExamples(kShownRows), kProposals));
    return pool_.First(proposed);
  }
  const PreparedPrompt& best = prompts_[best_[0]];
  ATTUNE_ASSIGN_OR_RETURN(std::vector<int64_t> errors, ErrorsOf(best));
  absl::StatusOr<std::vector<std::string>> proposed =
      errors.empty() ? proposer_.FromExamples(pool_.DrawExamples(kShownRows), kProposals)
                     : proposer_.FromErrors(best.candidate().instruction, errors, kProposals);
  if (!proposed.ok()) return proposed.status();
  std::vector<Candidate> parents;
  for (int64_t prompt : best_) parents.push_back(prompts_[prompt].candidate());
  return pool_.Next(parents, *proposed);
}

absl::StatusOr<std::vector<int64_t>> PromptSearch::ErrorsOf(const PreparedPrompt& prompt) {
  constexpr double kWrong = 0.5;
  std::vector<int64_t> rows;
  const std::vector<int64_t>& own = prompt.candidate().examples;  // whose answers it shows
  for (int64_t index : pool_.DrawExamples(kCheckedRows)) {
    if (std::find(own.begin(), own.end(), index) == own.end()) rows.push_back(TrainingRow(index));
  }
  ATTUNE_RETURN_IF_ERROR(scorer_.Score({&prompt}, rows).status());
  std::vector<int64_t> errors;
  for (int64_t row : rows) {
    const RowScore* score = host_.memo->Find(prompt.key(), row);
    const bool is_wrong = score != nullptr && score->plain < kWrong;
    if (is_wrong && static_cast<int64_t>(errors.size()) < kShownRows) errors.push_back(TrainingRow(row));
  }
  return errors;
}

absl::StatusOr<bool> PromptSearch::Measure(const std::vector<int64_t>& arms, int64_t rows) {
  std::vector<const PreparedPrompt*> prompts;
  for (int64_t arm : arms) prompts.push_back(&prompts_[arm]);
  return scorer_.Score(prompts, FirstRows(rows));
}

absl::StatusOr<bool> PromptSearch::Halve(const std::vector<int64_t>& arms) {
  bool complete = true;
  HalvingArms problem;
  problem.count = static_cast<int64_t>(arms.size());
  problem.measure = [&](const std::vector<int64_t>& alive, int64_t rows) {
    std::vector<int64_t> numbers;
    std::vector<const PreparedPrompt*> prompts;
    for (int64_t arm : alive) prompts.push_back(&prompts_[numbers.emplace_back(arms[arm])]);
    // The first rung of all comes first: without it there is nothing to bring into a final.
    const bool is_first = best_.empty() && rows <= kFirstRows;
    const bool goes_on = is_first || LeavesAFinal(host_, prompts, rows);
    absl::StatusOr<bool> measured = goes_on ? Measure(numbers, rows) : absl::StatusOr<bool>(false);
    complete = complete && measured.ok() && *measured;
    return measured;
  };
  problem.estimate = [&](int64_t arm, int64_t rows) { return Estimate(arms[arm], rows); };
  ATTUNE_ASSIGN_OR_RETURN(std::vector<HalvingResult> results, SuccessiveHalving(HalvingFor(*host_.data), problem));
  best_.clear();
  for (const HalvingResult& result : results) {
    if (static_cast<int64_t>(best_.size()) < kSurvivors) best_.push_back(arms[result.arm]);
  }
  return complete;
}

std::vector<double> PromptSearch::Values(int64_t prompt, int64_t rows, bool calibrated) const {
  std::vector<double> values;
  const auto scores = host_.memo->scores.find(prompts_[prompt].key());
  if (scores == host_.memo->scores.end()) return values;
  for (auto it = scores->second.lower_bound(0); it != scores->second.end() && it->first < rows; ++it) {
    values.push_back(calibrated ? it->second.calibrated : it->second.plain);
  }
  return values;
}

bool PromptSearch::IsCalibrated(int64_t prompt, int64_t rows) const {
  if (host_.data->labels.empty()) return false;
  if (host_.settings->calibrate) return *host_.settings->calibrate;
  return Mean(Values(prompt, rows, true)) > Mean(Values(prompt, rows, false));
}

Proportion PromptSearch::Estimate(int64_t prompt, int64_t rows) const {
  return MeanInterval(Values(prompt, rows, IsCalibrated(prompt, rows)));
}

absl::StatusOr<SearchOutcome> PromptSearch::Finish() {
  const int64_t rows = std::min(kMostFinalRows, Rows(*host_.data));
  std::vector<int64_t> finalists = best_;
  if (std::find(finalists.begin(), finalists.end(), 0) == finalists.end()) finalists.push_back(0);
  ATTUNE_ASSIGN_OR_RETURN(bool complete, Measure(finalists, rows));
  if (Estimate(best_[0], rows).count == 0) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "BUDGET_TOO_SMALL",
                     "The limits ended the search before any prompt met a row; raise them.");
  }
  int64_t winner = best_[0];
  for (int64_t prompt : finalists) {
    const double gain = Estimate(prompt, rows).value - Estimate(winner, rows).value;
    const bool is_shorter = prompts_[prompt].tokens() < prompts_[winner].tokens();
    if (complete && (gain > 0 || (gain == 0 && is_shorter))) winner = prompt;
  }
  SearchOutcome outcome;
  outcome.prompt = prompts_[winner].text();
  outcome.max_tokens = prompts_[winner].max_tokens();
  outcome.score = Estimate(winner, rows);
  outcome.baseline = MeanInterval(Values(0, rows, /*calibrated=*/false));
  if (IsCalibrated(winner, rows)) {
    const std::vector<double> offsets = OffsetsOf(*host_.memo, prompts_[winner].key());
    for (size_t i = 0; i < offsets.size(); ++i) outcome.prompt.label_offsets[host_.data->labels[i]] = offsets[i];
  }
  outcome.prompt.trials = Trials();
  return outcome;
}

std::vector<TextPromptTrial> PromptSearch::Trials() const {
  std::vector<TextPromptTrial> trials;
  for (size_t i = 0; i < prompts_.size(); ++i) {
    const Candidate& candidate = prompts_[i].candidate();
    const Proportion score = Estimate(static_cast<int64_t>(i), Rows(*host_.data));
    if (score.count == 0) continue;
    trials.push_back({candidate.instruction, static_cast<int64_t>(candidate.examples.size()),
                      candidate.format.input_template, score.value, score.lower, score.upper, score.count,
                      candidate.origin, candidate.retrieved});
  }
  // What is known to be good comes first.
  std::stable_sort(trials.begin(), trials.end(), [](const auto& a, const auto& b) { return a.lower > b.lower; });
  if (trials.size() > kMostTrials) trials.resize(kMostTrials);
  return trials;
}

}  // namespace attune
