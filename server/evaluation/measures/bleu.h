#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_BLEU_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_BLEU_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attune {

// What BLEU needs to know of an answer. Statistics of examples add up to those of a corpus, so a
// bootstrap resamples these and computes no text twice.
struct BleuStatistics {
  static constexpr int kOrders = 4;
  int64_t answer_words = 0, reference_words = 0;           // of the reference nearest in length
  std::array<int64_t, kOrders> matches = {}, totals = {};  // n-grams of words

  BleuStatistics& operator+=(const BleuStatistics& other);
};

// REQUIRES: at least one reference.
BleuStatistics CountBleu(absl::string_view answer, absl::Span<const std::string> references);

// Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it: tokenizer 13a, case counts, exponential
// smoothing of orders without a match. 0 to 1; sacrebleu prints 100 times this.
double BleuScore(const BleuStatistics& statistics);

// The words of a text by the rules of mteval-v13a: white space and punctuation part words, except
// full stops and commas between digits.
std::vector<std::string> Tokenize13a(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_BLEU_H_
