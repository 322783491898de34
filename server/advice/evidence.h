#ifndef ATTUNE_SERVER_ADVICE_EVIDENCE_H_
#define ATTUNE_SERVER_ADVICE_EVIDENCE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/comparison/comparison.h"
#include "server/evaluation/measures/learning_curve.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {

// What one job of a method would take.
struct MethodCost {
  double device_seconds = 0;        // on a device that is otherwise idle
  double request_milliseconds = 0;  // alone; 0: unknown
  std::string why_not;              // empty: it can be run here
};

// What is known of a task before anything is tuned; the rules see nothing else.
struct Evidence {
  // The data.
  int64_t rows = 0;       // to train on, repeated ones left out
  int64_t test_rows = 0;  // to measure on
  int64_t labels = 0;     // 0: free text
  double majority = 0;    // share of the commonest label
  // The base model.
  int64_t parameters = 0;                         // 0: unknown
  std::optional<Proportion> zero_shot, few_shot;  // quality; unset: not probed
  std::optional<double> task_distance;            // loss on the answers less loss on own text, nats per token
  std::vector<CurvePoint> curve;                  // of short LoRA jobs
  bool curve_is_sure = false;                     // the points fix the curve (CurveEvidence::kEnough) as far as they go
  // The methods. Those without a cost are not recommended.
  std::map<ContenderKind, MethodCost> costs;
};

// What the user needs. Fields as in proto/attune/v1/advice.proto; zero: no such need.
struct Needs {
  double accuracy = 0;
  double deadline_seconds = 0;
  double budget = 0;
  double price_per_device_hour = 0;
  bool keep_skills = false;
  double lifetime_days = 0;
  int64_t tenants = 0;
  double request_milliseconds = 0;
  bool operator==(const Needs&) const = default;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_EVIDENCE_H_
