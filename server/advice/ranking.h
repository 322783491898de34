#ifndef ATTUNE_SERVER_ADVICE_RANKING_H_
#define ATTUNE_SERVER_ADVICE_RANKING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "server/advice/evidence.h"
#include "server/advice/rules.h"
#include "server/comparison/comparison.h"

namespace attune {

// Why a method stands where it does.
struct Reason {
  std::string text;                   // in plain words
  std::vector<std::string> evidence;  // names of findings (finding.h), or of needs: "needs.deadline"
  bool is_against = false;            // it speaks against the method
  bool operator==(const Reason&) const = default;
};

// How far a range is to be trusted. The numbers are the proto's.
enum class Confidence {
  kLow = 1,     // rules alone, or a range wider than 0.3
  kMedium = 2,  // the base model was probed
  kHigh = 3,    // a range of at most 0.15 that is measured, or whose rule has three comparisons behind it
};

struct Recommendation {
  ContenderKind kind = ContenderKind::kZeroShot;
  double quality = 0, lower = 0, upper = 0;  // expected, with a 95% range
  double device_seconds = 0;                 // of one job with its defaults
  double price = 0;                          // of that; 0 without a price
  bool meets_needs = true;
  Confidence confidence = Confidence::kLow;
  std::vector<Reason> reasons;
  bool operator==(const Recommendation&) const = default;
};

// The numbers are the proto's.
enum class AdviceVerdict {
  kRecommended = 1,      // the first is worth trying before all others
  kTied = 2,             // the ranges of the first two overlap widely: the better bargain stands first
  kNotEnoughToTell = 3,  // they do, and there is too little evidence to name one
};

// What would tell the first two apart.
struct Settlement {
  std::vector<ContenderKind> contenders;  // to compare; empty: nothing is to be settled
  int64_t rows = 0;
  double device_seconds = 0;
  std::string text;
  bool operator==(const Settlement&) const = default;
};

struct Ranking {
  std::vector<Recommendation> recommendations;  // best first
  AdviceVerdict verdict = AdviceVerdict::kNotEnoughToTell;
  std::string text;  // the advice in plain words
  Settlement settlement;
  bool operator==(const Ranking&) const = default;
};

// Evidence below which a wide overlap is "not enough data to tell": rows, test rows, and a probe.
inline constexpr int64_t kEnoughRows = 40, kEnoughTestRows = 8;

// Ranks every method that has a cost. First come those that break no need, then those that break one, and so on; a
// method that cannot run here, or that makes the model forget where it must not, goes behind all others. Among equals
// the expected quality counts, up to the accuracy that is wanted, less:
//   half a point for each doubling of device time above a minute, doubled for a short life (under 31 days), halved for
//     a long one (180 days and more);
//   a point for each doubling of a request's time against the base model's;
//   for what trains, 10 points for a life under 8 days, 5 under 31;
//   with several tenants 2 points for what needs a whole copy of the model for each; from 10 tenants on that breaks a
//     need.
// Pure.
Ranking Rank(const RuleTable& table, const Evidence& evidence, const Needs& needs);

// "LoRA", as a reader knows it.
std::string MethodTitle(ContenderKind kind);
// "about 40 s", "about 6 minutes", "about 2.5 hours".
std::string AboutTime(double seconds);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_RANKING_H_
