#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_PARAPHRASE_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_PARAPHRASE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// Variants of an input that mean the same to a classifier or as a question, by rules: what a consistent model answers
// alike (invariance tests, Ribeiro et al. 2020). Rules about words know English; on other languages they do nothing.
// None changes a number, an address, a placeholder or a word in capitals.
namespace attune {

enum class ParaphraseRule {
  kLowerCase,
  kUpperCase,
  kContract,       // "do not" to "don't"
  kExpand,         // "don't" to "do not"
  kPunctuation,    // the last mark dropped, added or doubled
  kWhiteSpace,     // one space doubled
  kSynonym,        // common words for others
  kPolitePrefix,   // "Please tell me: "
  kSentenceOrder,  // of three and more sentences
  kTypo,           // two neighbouring letters inside one word swapped
};

// Stable, for reports: "lower_case" and so on.
const char* RuleName(ParaphraseRule rule);

// What the rule makes of the text; `seed` chooses where there is a choice. Nothing if the rule changes nothing.
std::optional<std::string> ApplyRule(ParaphraseRule rule, absl::string_view text, uint64_t seed);

struct Paraphrase {
  ParaphraseRule rule;
  std::string text;
};

// One variant by each rule that has any, in the order of the rules: distinct, and never the text itself. The same for
// the same seed, on any platform. Typos only if asked for, since they may cost meaning.
std::vector<Paraphrase> ListParaphrases(absl::string_view text, uint64_t seed, bool typos = false);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_PARAPHRASE_H_
