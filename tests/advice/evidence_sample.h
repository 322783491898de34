#ifndef ATTUNE_TESTS_ADVICE_EVIDENCE_SAMPLE_H_
#define ATTUNE_TESTS_ADVICE_EVIDENCE_SAMPLE_H_

#include <utility>

#include "server/advice/evidence.h"
#include "server/advice/rules.h"
#include "server/comparison/measure_names.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {

// Topics of news with a model of 135 M: 400 rows, 8 labels, a poor zero-shot figure, answers far from the model.
inline Evidence SampleEvidence() {
  Evidence evidence;
  evidence.rows = 400;
  evidence.test_rows = 80;
  evidence.labels = 8;
  evidence.majority = 0.5;
  evidence.parameters = 135'000'000;
  evidence.zero_shot = WilsonInterval(36, 120);
  evidence.few_shot = WilsonInterval(60, 120);
  evidence.task_distance = 3;
  evidence.costs[ContenderKind::kZeroShot] = {.device_seconds = 0, .request_milliseconds = 20};
  evidence.costs[ContenderKind::kTextPrompt] = {.device_seconds = 120, .request_milliseconds = 60};
  for (const auto& [kind, rule] : PriorRules().rules) {
    if (kind != ContenderKind::kTextPrompt) evidence.costs[kind] = {.device_seconds = 60, .request_milliseconds = 20};
  }
  evidence.costs[ContenderKind::kHybrid] = {.device_seconds = 180, .request_milliseconds = 60};
  evidence.costs[ContenderKind::kFull] = {.device_seconds = 90, .request_milliseconds = 20};
  return evidence;
}

// A comparison that measured these methods on 200 test rows.
inline Comparison SampleOutcome(const std::string& id, std::vector<std::pair<ContenderKind, double>> measured) {
  Comparison comparison;
  comparison.spec.id = id;
  comparison.spec.base_model = "m";
  comparison.spec.dataset = "d";
  comparison.state = ComparisonState::kSucceeded;
  comparison.train_examples = 400;
  comparison.test_examples = 200;
  comparison.choices = {"a", "b", "c", "d", "e", "f", "g", "h"};
  for (const auto& [kind, quality] : measured) {
    const Proportion share = WilsonInterval(static_cast<int64_t>(quality * 200 + 0.5), 200);
    Contender contender;
    contender.kind = kind;
    contender.state = Contender::State::kMeasured;
    contender.measures = {{std::string(kQuality), share.value, share.lower, share.upper, 200},
                          {std::string(kTrainingSeconds), IsTuned(kind) ? 60.0 : 0, 0, 0, 0}};
    comparison.contenders.push_back(std::move(contender));
  }
  return comparison;
}

}  // namespace attune

#endif  // ATTUNE_TESTS_ADVICE_EVIDENCE_SAMPLE_H_
