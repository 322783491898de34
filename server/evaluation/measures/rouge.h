#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_ROUGE_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_ROUGE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attune {

struct RougeScore {
  double precision = 0, recall = 0, f1 = 0;  // 0 to 1
};

// ROUGE-L (Lin 2004) as the package rouge_score computes it without stemming: the longest common
// subsequence of words, which are runs of a-z and 0-9 after lowering the case. Of several references
// the one with the best f1. Time and memory: words of one times words of the other, and their sum.
RougeScore RougeL(absl::string_view answer, absl::Span<const std::string> references);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_ROUGE_H_
