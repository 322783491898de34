#include "server/comparison/report/report_names.h"

#include <algorithm>
#include <limits>
#include <map>

#include "server/comparison/measure_names.h"

namespace attune {

absl::string_view ContenderTitle(ContenderKind kind) {
  switch (kind) {
    case ContenderKind::kZeroShot:
      return "Base model as it is";
    case ContenderKind::kHandPrompt:
      return "Hand-written prompt";
    case ContenderKind::kTextPrompt:
      return "Searched prompt";
    case ContenderKind::kSoftPrompt:
      return "Soft prompt";
    case ContenderKind::kPrefix:
      return "Prefix";
    case ContenderKind::kIa3:
      return "IA3";
    case ContenderKind::kLora:
      return "LoRA";
    case ContenderKind::kPartial:
      return "Partial fine-tuning";
    case ContenderKind::kFull:
      return "Full fine-tuning";
    case ContenderKind::kHybrid:
      return "LoRA + searched prompt";
  }
  return "Unknown method";
}

absl::string_view ContenderMeaning(ContenderKind kind) {
  switch (kind) {
    case ContenderKind::kZeroShot:
      return "The base model with the data’s own template; nothing is trained.";
    case ContenderKind::kHandPrompt:
      return "The base model with a template that a person wrote; nothing is trained.";
    case ContenderKind::kTextPrompt:
      return "Instructions and examples found by a search, as readable text.";
    case ContenderKind::kSoftPrompt:
      return "A few trained vectors before the prompt; the model stays as it is.";
    case ContenderKind::kPrefix:
      return "Trained vectors before the prompt in every layer; the model stays as it is.";
    case ContenderKind::kIa3:
      return "Trained factors that scale the model’s activations.";
    case ContenderKind::kLora:
      return "Small trained matrices added to the model’s weights.";
    case ContenderKind::kPartial:
      return "A part of the model’s own weights is trained.";
    case ContenderKind::kFull:
      return "All of the model’s weights are trained.";
    case ContenderKind::kHybrid:
      return "LoRA, trained on data written in the searched prompt’s template.";
  }
  return "";
}

std::string TitleOfName(absl::string_view name) {
  for (int number = 1; number <= kContenderKinds; ++number) {
    const auto kind = static_cast<ContenderKind>(number);
    if (ContenderName(kind) == name) return std::string(ContenderTitle(kind));
  }
  return std::string(name);
}

absl::string_view MetricTitle(QualityMetric metric) {
  switch (metric) {
    case QualityMetric::kAuto:
      return "right answers";
    case QualityMetric::kLabelAccuracy:
      return "right labels: the likeliest choice is the expected one";
    case QualityMetric::kExactMatch:
      return "exact answers: the generated text is the expected one";
    case QualityMetric::kTokenF1:
      return "token F1: words that the generated and the expected answer share";
    case QualityMetric::kRougeL:
      return "ROUGE-L: the longest run of words, gaps allowed, that both answers have";
    case QualityMetric::kChrf:
      return "chrF: runs of characters that both answers have";
    case QualityMetric::kNumberMatch:
      return "right numbers: the last number of the generated answer is that of the expected one";
    case QualityMetric::kJsonMatch:
      return "right JSON: the generated answer means the same as the expected one";
    case QualityMetric::kPatternMatch:
      return "right form: the generated answer matches the pattern";
    case QualityMetric::kJudge:
      return "approved answers: another model finds that they say the same as the expected ones";
    case QualityMetric::kLikelihood:
      return "likelihood: how probable the model finds the expected text, a token of it on average (the inverse of perplexity)";
  }
  return "";
}

absl::string_view StateTitle(ComparisonState state) {
  switch (state) {
    case ComparisonState::kQueued:
      return "Waiting to start";
    case ComparisonState::kRunning:
      return "Still running";
    case ComparisonState::kSucceeded:
      return "Finished";
    case ComparisonState::kFailed:
      return "Failed";
    case ComparisonState::kCancelled:
      return "Cancelled";
  }
  return "";
}

MeasureMeaning MeaningOf(absl::string_view measure) {
  static const auto* const meanings = new std::map<absl::string_view, MeasureMeaning>{
      {kQuality,
       {"Mean of the chosen metric over the test examples. None of them was seen in training or in choosing settings.",
        "Higher is better. Where two intervals overlap widely, the order may be chance."}},
      {kMacroF1,
       {"Mean over the labels of F1, the harmonic mean of precision and recall.",
        "Higher is better. Far below quality: rare labels are missed."}},
      {kExactMatch,
       {"Share of generated answers that are the expected ones, white space at the ends aside.",
        "Higher is better. Right answers in other words count nothing."}},
      {kTokenF1,
       {"Words that generated and expected answers share, as F1; case, punctuation and articles aside.",
        "Higher is better. It is blind to order and negation."}},
      {kRougeL,
       {"Longest common subsequence of words, as F1.", "Higher is better. For ranking methods, not for grading answers."}},
      {kChrf,
       {"Runs of up to six characters that both answers share, recall counting twice.",
        "Higher is better. Fair to languages with rich inflection."}},
      {kBleu,
       {"Runs of up to four words that both share, over the whole test part at once.",
        "Higher is better. Compare it only on the same examples."}},
      {kJsonValid, {"Share of generated answers that are valid JSON.", "Higher is better; a program reads nothing else."}},
      {kPatternMatch, {"Share of generated answers that match the pattern given.", "Higher is better."}},
      {kPerplexity,
       {"Among how many equally likely tokens the expected answer’s next one is hidden, as the model sees it.",
        "Lower is better; 1 is certainty."}},
      {kRetention,
       {"Quality on the retention set, which nobody tuned for.", "Higher is better; compare it with the base model’s."}},
      {kRetentionLoss,
       {"How much of the quality on the retention set was lost against the base model, in percentage points.",
        "Lower is better. An interval across zero: no loss was shown."}},
      {kMemorized,
       {"Share of training examples whose long answers the model writes word for word, less the same share of validation "
        "examples, in percentage points.",
        "Near zero is best. What stands above was learnt by heart, and may be told to others."}},
      {kTwiceTheData,
       {"Quality that the learning curve foresees on the validation examples with twice as many to train on.",
        "Only told where the points suffice. Little above what was measured: more data brings little."}},
      {kTrainingMemory,
       {"The most device memory that training took at once, beside the base model’s weights, as measured.",
        "Lower fits smaller devices, and leaves more to requests."}},
      {kLoss,
       {"How improbable the model finds the expected answers, in nats per token.",
        "Lower is better. Compare methods with it, not tasks."}},
      {kCalibrationError,
       {"Mean gap between how sure the model is and how often it is right.",
        "Lower is better. At 5%, answers given with 90% confidence are right in about 85% to 95% of cases."}},
      {kProbeAccuracy,
       {"Share of right answers on general tasks that nobody tuned for.",
        "Higher is better; compare it with the base model’s."}},
      {kForgetting,
       {"How much of those other skills was lost against the base model, in percentage points.",
        "Lower is better. Below zero: other skills got better. An interval across zero: no loss was shown."}},
      {kDivergence,
       {"How far the model’s predictions moved from the base model’s on everyday text (Kullback–Leibler divergence).",
        "Lower is closer. It notices change before accuracy does."}},
      {kConsistency,
       {"How often the answer stays the same when an input is worded differently.",
        "Higher is better, beside high quality: a model that always says the same is consistent, too."}},
      {kResampled,
       {"How often an answer that is drawn by the model’s own probabilities (temperature 1) comes out the same again.",
        "Higher is steadier where answers are sampled. Greedy answers, as measured elsewhere here, do not vary."}},
      {kOverfitting,
       {"Quality on training examples less that on validation examples, in percentage points.",
        "Near zero is best. Large: it learnt examples by heart rather than the task."}},
      {kTrainingSeconds, {"Device time to train the chosen setting.", "What repeating it with known settings takes."}},
      {kSearchSeconds, {"Device time of all settings that were tried.", "What finding the settings took."}},
      {kTrainingEnergy,
       {"What the device used while the chosen setting was trained: the whole device, idle power included.",
        "Jobs that ran at once share it equally, so compare methods that were tuned alike."}},
      {kSearchEnergy,
       {"What the device used for all settings that were tried.", "What finding the settings took; 3.6 MJ are 1 kWh."}},
      {kModelBytes,
       {"What the method adds on disk beside the base model.", "Lower means more tuned models on one machine."}},
      {kPromptTokens,
       {"Mean length of a request’s prompt, the template included.", "Longer prompts cost time with every request."}},
      {kRequestMilliseconds,
       {"Median time of one request with nothing else running.", "Lower is better. Under load the order may differ."}},
      {kPrice, {"Device time of all settings that were tried, at the price given.", "In the currency of that price."}},
  };
  const auto found = meanings->find(measure);
  return found == meanings->end() ? MeasureMeaning{} : found->second;
}

std::vector<const Contender*> ByRank(const Comparison& comparison) {
  std::vector<const Contender*> sorted;
  for (const Contender& contender : comparison.contenders) sorted.push_back(&contender);
  const auto key = [](const Contender* c) { return c->rank > 0 ? c->rank : std::numeric_limits<int32_t>::max(); };
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](const Contender* a, const Contender* b) { return key(a) < key(b); });
  return sorted;
}

const Contender* Winner(const Comparison& comparison) {
  const auto count = static_cast<int64_t>(comparison.contenders.size());
  return comparison.winner >= 0 && comparison.winner < count ? &comparison.contenders[comparison.winner] : nullptr;
}

}  // namespace attune
