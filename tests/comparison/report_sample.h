#ifndef ATTUNE_TESTS_COMPARISON_REPORT_SAMPLE_H_
#define ATTUNE_TESTS_COMPARISON_REPORT_SAMPLE_H_

#include <initializer_list>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/comparison/comparison.h"
#include "server/comparison/measure_names.h"

// A finished comparison with every kind of contender, as a server would keep it; figures made up.
namespace attune {

inline void AddMeasure(Contender* contender, absl::string_view name, double value, double half_width = 0) {
  contender->measures.push_back(
      {std::string(name), value, value - half_width, value + half_width, half_width > 0 ? 2000 : 0});
}

inline void AddTrials(Contender* contender, double best, double seconds) {
  const double shares[] = {best - 0.021, best};
  const char* const settings[] = {"learning rate 0.0002", "learning rate 0.0005, rank 16"};
  for (int i = 0; i < 2; ++i) {
    Trial trial;
    trial.state = Trial::State::kDone;
    trial.settings = settings[i];
    trial.validation = {"", shares[i], shares[i] - 0.02, shares[i] + 0.02, 548};
    trial.device_seconds = seconds;
    contender->trials.push_back(trial);
  }
  contender->best_trial = 1;
}

inline Contender SampleContender(ContenderKind kind, int rank, double quality, double half_width, double seconds) {
  Contender contender;
  contender.kind = kind;
  contender.state = Contender::State::kMeasured;
  contender.rank = rank;
  contender.p_value = rank == 1 ? 1 : rank <= 3 ? 0.31 : 0.0004;
  contender.ties_best = rank <= 3;
  contender.model = absl::StrCat("r8-", ContenderName(kind));
  AddMeasure(&contender, kQuality, quality, half_width);
  AddMeasure(&contender, kMacroF1, quality - 0.03);
  AddMeasure(&contender, kLoss, 0.9 - quality * 0.8);
  AddMeasure(&contender, kCalibrationError, 0.09 - quality * 0.06);
  AddMeasure(&contender, kConsistency, 0.8 + quality * 0.15, 0.011);
  AddMeasure(&contender, kPromptTokens, 182);
  AddMeasure(&contender, kRequestMilliseconds, 38 + 2 * rank);
  if (!IsTuned(kind)) return contender;
  AddTrials(&contender, quality - 0.004, seconds);
  AddMeasure(&contender, kOverfitting, 0.004 * rank, 0.012);
  AddMeasure(&contender, kTrainingSeconds, seconds);
  AddMeasure(&contender, kSearchSeconds, 2 * seconds);
  AddMeasure(&contender, kTrainingEnergy, 310 * seconds);
  AddMeasure(&contender, kSearchEnergy, 620 * seconds);
  AddMeasure(&contender, kModelBytes, seconds * 123456);
  if (!ChangesWeights(kind)) return contender;
  AddMeasure(&contender, kProbeAccuracy, 0.61, 0.04);
  AddMeasure(&contender, kForgetting, 0.002 * seconds / 10 - 0.006, 0.015);
  AddMeasure(&contender, kDivergence, 0.0011 * seconds, 0.0001 * seconds);
  return contender;
}

inline void AddDisagreements(Comparison* comparison) {
  const char* const prompts[] = {
      "Classify the story.\n\nshell canada to raise crude oil prices. royal dutch group's shell canada said it would "
      "raise "
      "posted prices by 47 canadian cents a barrel today.\n\nTopic:",
      "Classify the story.\n\nchampion products approves stock split. the board authorised a two for one split of its "
      "common "
      "shares for holders of record on april 1.\n\nTopic:",
      "Classify the story.\n\nbundesbank sees no change in credit policies. money market dealers said the central bank "
      "would "
      "leave its rates where they are.\n\nTopic:"};
  const char* const expected[] = {"crude", "earn", "money-fx"};
  for (int i = 0; i < 3; ++i) {
    Disagreement example{prompts[i], expected[i], {}};
    for (const Contender& contender : comparison->contenders) {
      if (contender.rank == 0) continue;
      const bool is_right = contender.rank <= 5 - i;
      example.answers[std::string(ContenderName(contender.kind))] = is_right ? expected[i]
                                                                    : i == 1 ? "acq"
                                                                             : "interest";
    }
    comparison->disagreements.push_back(example);
  }
}

inline Comparison SampleComparison() {
  using Kind = ContenderKind;
  Comparison comparison;
  comparison.spec.id = "r8-topics";
  comparison.spec.display_name = "Topics of Reuters stories";
  comparison.spec.base_model = "smollm2-135m-instruct";
  comparison.spec.dataset = "reuters-r8";
  comparison.spec.data.prompt_template = "Classify the story.\n\n{text}\n\nTopic:";
  comparison.spec.data.completion_template = " {label}";
  comparison.spec.hand_prompt = "You sort news. Answer with one topic.\n\n{text}\n\nTopic:";
  comparison.spec.hyperparameters.epochs = 2;
  comparison.spec.hyperparameters.batch_size = 32;
  comparison.state = ComparisonState::kSucceeded;
  comparison.metric = QualityMetric::kLabelAccuracy;
  comparison.choices = {"acq", "crude", "earn", "interest", "money-fx"};
  comparison.contenders = {
      SampleContender(Kind::kZeroShot, 9, 0.303, 0.020, 0),     SampleContender(Kind::kHandPrompt, 8, 0.412, 0.022, 0),
      SampleContender(Kind::kTextPrompt, 7, 0.655, 0.021, 240), SampleContender(Kind::kSoftPrompt, 6, 0.884, 0.014, 54),
      SampleContender(Kind::kPrefix, 5, 0.902, 0.013, 58),      SampleContender(Kind::kIa3, 4, 0.931, 0.011, 61),
      SampleContender(Kind::kLora, 2, 0.978, 0.006, 94),        SampleContender(Kind::kPartial, 0, 0, 0, 0),
      SampleContender(Kind::kFull, 1, 0.981, 0.006, 212),       SampleContender(Kind::kHybrid, 3, 0.976, 0.007, 131)};
  Contender& failed = comparison.contenders[7];
  failed.state = Contender::State::kFailed;
  failed.note = "out of memory at 4,096 tokens a step";
  failed.measures.clear();
  failed.trials.resize(1);
  failed.trials[0].state = Trial::State::kFailed;
  failed.trials[0].settings = "learning rate 0.00005, last 4 layers";
  failed.trials[0].error = "out of memory at 4,096 tokens a step";
  failed.best_trial = -1;
  comparison.contenders[3].state = Contender::State::kStopped;
  comparison.contenders[3].note = "8 points behind after one setting";
  comparison.contenders[2].prompt_template = "Name the topic of this story.\n{text}\nTopic:";
  comparison.winner = 6;
  comparison.verdict =
      "LoRA answers 97.8% of the test stories rightly (97.2% to 98.4%). Full fine-tuning and LoRA + searched prompt "
      "tie "
      "with it; LoRA takes less than half of full fine-tuning's training time, and no loss of other skills was shown.";
  comparison.train_examples = 4388;
  comparison.validation_examples = 549;
  comparison.test_examples = 2189;
  comparison.create_time = absl::FromUnixSeconds(1'773'000'000);
  comparison.start_time = comparison.create_time + absl::Seconds(4);
  comparison.end_time = comparison.create_time + absl::Minutes(41);
  AddDisagreements(&comparison);
  return comparison;
}

}  // namespace attune

#endif  // ATTUNE_TESTS_COMPARISON_REPORT_SAMPLE_H_
