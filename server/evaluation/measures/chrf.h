#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_CHRF_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_CHRF_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attune {

// What chrF needs to know of an answer. Statistics of examples add up to those of a corpus, so a
// bootstrap resamples these and computes no text twice.
struct ChrfStatistics {
  static constexpr int kOrders = 6;
  struct Order {
    int64_t answer = 0, reference = 0, matches = 0;  // n-grams of characters
  };
  std::array<Order, kOrders> orders;

  ChrfStatistics& operator+=(const ChrfStatistics& other);
};

// Against the reference that gives the best score. REQUIRES: at least one reference.
ChrfStatistics CountChrf(absl::string_view answer, absl::Span<const std::string> references);

// chrF2 (Popović 2015; recall counts twice as much as precision) as sacrebleu computes it: characters
// without white space, n-grams of 1 to 6, orders that one side lacks left out. 0 to 1; sacrebleu prints
// 100 times this. Of one example's statistics its sentence score, of a sum the corpus's.
double ChrfScore(const ChrfStatistics& statistics);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_CHRF_H_
