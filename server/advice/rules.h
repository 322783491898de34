#ifndef ATTUNE_SERVER_ADVICE_RULES_H_
#define ATTUNE_SERVER_ADVICE_RULES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/advice/evidence.h"
#include "server/comparison/comparison.h"

// What each method may be expected to bring, from what is known before it is tried. Pure.
//
// A method wins a share of the headroom, which is what the base model leaves (1 - zero-shot quality):
//   share(n) = strength * n / (n + half_rows * labels) + shift, held to 0 to 1
// with n the rows. `strength` is what unlimited rows bring to a model of a billion parameters; a model ten times
// larger adds `per_decade`, a nat of task distance, up to four, takes `per_nat`
// off.
namespace attune {

struct MethodRule {
  double strength = 0;
  double per_decade = 0;
  double per_nat = 0;
  double half_rows = 0;  // of each label, with which half of it is won; free text counts as 20 labels
  double spread = 0;     // half a 95% range of the share where rows are many; more where they are few
};

// Prior knowledge, and what past comparisons taught about it.
struct RuleTable {
  std::map<ContenderKind, MethodRule> rules;
  std::map<ContenderKind, double> shift;         // of the share
  std::map<ContenderKind, int64_t> comparisons;  // that it was learned from
};

// Numbers from the papers that the code names, and from this project's measurements of SmolLM2 on Reuters R8 and of a
// 135 M model on Banking77 (tests/bench/results).
RuleTable PriorRules();

// What a method is expected to reach.
struct Expectation {
  double quality = 0, lower = 0, upper = 0;  // lower <= quality <= upper, 0 to 1
  double share = 0;                          // of the headroom
  bool is_measured = false;                  // by the probe or a learning curve, not by the rules alone
  std::vector<std::string> findings;         // that it rests on
};

// More rows never lower it. Without a probe the base model counts as one that guesses, with twice the spread. A
// learning curve moves LoRA's figure most of the way up to where it leads. Its jobs are short: a floor more than a
// forecast, so that it moves LoRA a third of the way down only if it is sure, and else not; the other tuned methods
// move half as far.
Expectation Expect(const RuleTable& table, ContenderKind kind, const Evidence& evidence);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_RULES_H_
