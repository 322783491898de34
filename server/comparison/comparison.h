#ifndef ATTUNE_SERVER_COMPARISON_COMPARISON_H_
#define ATTUNE_SERVER_COMPARISON_COMPARISON_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/jobs/job.h"

// A comparison of tuning methods on one task's data, as the server keeps it. The types mirror
// proto/attune/v1/comparison.proto: the same names, units and defaults. Resource names are bare ids here.
namespace attune {

// What may be compared. The numbers are the proto's and the database's: never renumber.
enum class ContenderKind {
  kZeroShot = 1,    // the base model with the data's own template
  kHandPrompt = 2,  // the base model with a template that the user wrote
  kTextPrompt = 3,  // a searched text prompt
  kSoftPrompt = 4,
  kPrefix = 5,
  kIa3 = 6,
  kLora = 7,
  kPartial = 8,
  kFull = 9,
  kHybrid = 10,     // LoRA over data that is written in the searched text prompt's template
};
inline constexpr int kContenderKinds = 10;
// The proto's name in lower case: "zero_shot", "lora".
absl::string_view ContenderName(ContenderKind kind);
// Whether a tuning job makes it.
bool IsTuned(ContenderKind kind);
// Whether it changes the base model's weights, or adds to them: what may make it forget.
bool ChangesWeights(ContenderKind kind);

// What answers are judged by, each by itself, from 0 to 1. The numbers are the proto's. From the second to kJudge they are
// of generated answers.
enum class QualityMetric {
  kAuto = 0,           // label accuracy if there are choices, likelihood of plain text; else by the answers' form (MetricFor)
  kLabelAccuracy = 1,  // the likeliest of the choices is the right one
  kExactMatch = 2,     // the generated answer is the expected one
  kTokenF1 = 3,        // words shared with it
  kRougeL = 4,         // longest common subsequence of words
  kChrf = 5,           // shared character n-grams
  kNumberMatch = 6,    // the last numbers are equal
  kJsonMatch = 7,      // equal as JSON
  kPatternMatch = 8,   // it matches `pattern`
  kJudge = 9,          // `judge_model` says that it is right
  kLikelihood = 10,    // nothing is generated: how likely the model finds the expected answer, a token of it on average
};
// The proto's name in lower case: "label_accuracy"; "" for kAuto.
absl::string_view MetricName(QualityMetric metric);
// Whether its figure is the share of right answers.
bool CountsRightAnswers(QualityMetric metric);

struct ComparisonSpec {
  std::string id;  // empty before creation: the server makes one
  std::string display_name;
  std::string base_model;
  std::string dataset;
  std::string validation_dataset, test_dataset;  // empty: parts of `dataset`
  std::vector<ContenderKind> contenders;         // empty: all that what is given suffices for
  std::string hand_prompt;                       // template of kHandPrompt
  QualityMetric metric = QualityMetric::kAuto;
  std::string pattern;             // regular expression (PCRE2) that right answers match; also measured beside other metrics
  std::string judge_model;         // of kJudge; empty: the base model
  std::string judge_prompt;        // empty: the built-in one; see judge.h
  int32_t max_answer_tokens = 0;   // of a generated answer; 0: 64
  std::string retention_dataset;   // what must not be forgotten; empty: the built-in probe alone
  bool learning_curve = false;     // also train on an eighth, a quarter and a half of the rows
  int32_t max_trials = 0;         // settings tried for each method; 0: 2
  int64_t max_train_examples = 0;  // 0: all
  int64_t max_test_examples = 0;   // 0: 2000
  double test_fraction = 0;        // of `dataset`, without a test dataset; 0: 0.2
  Hyperparameters hyperparameters;  // of every tuned contender; its learning rate is searched unless set
  DataOptions data;
  std::optional<int64_t> seed;  // unset: 42
  bool skip_side_effects = false;  // neither forgetting nor consistency nor overfitting
  bool keep_models = false;        // also those that lost
  double price_per_device_hour = 0;  // any currency; 0: no costs are told
  std::string tenant;
  std::map<std::string, std::string> labels;
  bool operator==(const ComparisonSpec&) const = default;
};

// The numbers are the proto's and the database's.
enum class ComparisonState { kQueued = 1, kRunning = 2, kSucceeded = 3, kFailed = 4, kCancelled = 5 };
bool IsFinal(ComparisonState state);

// One figure with its 95% interval.
struct Measure {
  std::string name;  // see measure_names.h
  double value = 0, lower = 0, upper = 0;
  int64_t count = 0;  // examples behind it; 0: it is no average
  bool operator==(const Measure&) const = default;
};
// One without an interval.
Measure Figure(absl::string_view name, double value);
// The mean: with its Wilson interval where all values are 0 or 1, else with a bootstrap interval; of no values one of count 0.
Measure MeanOf(absl::string_view name, absl::Span<const double> values);

// One setting of a method that was tried.
struct Trial {
  enum class State { kPlanned = 1, kRunning = 2, kDone = 3, kFailed = 4 };
  State state = State::kPlanned;
  std::string settings;  // for people: "learning rate x2, rank 8"
  double rate_multiplier = 1, size_multiplier = 1;
  std::string tuning_job, model;  // ids
  Measure validation;             // the metric on the validation part
  double device_seconds = 0;
  std::optional<double> energy_joules;  // of the device, in that time; unset: it does not tell
  int64_t memory_bytes = 0;  // most of the device that its job took at once, beside the base model's; 0: not measured
  std::string error;
  bool operator==(const Trial&) const = default;
};

// The best setting of a method, trained on a part of the rows. Its model goes once it is measured.
struct CurveTrial {
  int64_t examples = 0;
  Trial trial;
  bool operator==(const CurveTrial&) const = default;
};

struct Contender {
  enum class State {
    kWaiting = 1,
    kSearching = 2,
    kStopped = 3,   // hopeless: no further settings were tried; still measured
    kFailed = 4,    // no trial of it succeeded; `note` says why
    kMeasured = 5,  // on the test part
  };
  ContenderKind kind = ContenderKind::kZeroShot;
  State state = State::kWaiting;
  std::string note;           // one line for people
  std::vector<Trial> trials;
  int32_t best_trial = -1;
  std::string model;           // that answers as this contender does
  std::string prompt_template;  // with which, where it is not the model's own
  std::vector<CurveTrial> curve;  // fewest rows first; all rows are the best trial
  std::vector<Measure> measures;
  int32_t rank = 0;         // 1 is best; 0: not measured
  double p_value = 1;       // that it is as good as the best one, paired, Holm-corrected
  bool ties_best = false;   // the test part does not tell them apart
  const Measure* Find(absl::string_view name) const;
  void Set(Measure measure);  // in place of the one of that name
  bool operator==(const Contender&) const = default;
};

// A test example whose answers differ.
struct Disagreement {
  std::string prompt, expected;
  std::map<std::string, std::string> answers;  // by contender
  bool operator==(const Disagreement&) const = default;
};

struct Comparison {
  ComparisonSpec spec;
  ComparisonState state = ComparisonState::kQueued;
  std::string state_reason;  // one line: what it is at, or why it ended
  std::optional<JobError> error;
  QualityMetric metric = QualityMetric::kAuto;  // what kAuto became
  std::vector<Contender> contenders;
  int64_t train_examples = 0, validation_examples = 0, test_examples = 0;
  std::vector<std::string> choices;             // that answers are among; empty: free text
  std::vector<Disagreement> disagreements;      // a few
  int32_t winner = -1;                          // index of a contender
  std::string verdict;                          // in plain words, with its evidence
  absl::Time create_time;
  std::optional<absl::Time> start_time, end_time;
  std::string prefix;    // of what it makes: "cmp-{id}", and more where that was taken; empty before it begins
  int64_t version = 0;   // rises with every change
  int64_t position = 0;  // of its database row; orders listings
  bool cancel_requested = false;
  const Contender* FindContender(ContenderKind kind) const;
  bool operator==(const Comparison&) const = default;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_COMPARISON_H_
