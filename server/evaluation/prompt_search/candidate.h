#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_CANDIDATE_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_CANDIDATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/data/text_prompt.h"
#include "server/evaluation/prompt_search/prompt_format.h"

namespace attune {

// A prompt that the search may try.
struct Candidate {
  std::string instruction;
  PromptFormat format;
  std::vector<int64_t> examples;  // indices of training rows, in the prompt's order
  std::string origin;             // for people: "baseline", "proposed", ...
  int64_t retrieved = 0;          // examples that each row gets of the search's pool
};

// The prompt itself. Of a row only the columns that the templates use are kept. `pool` is for those that retrieve.
// REQUIRES: every index is one of `train`. INVALID_ARGUMENT (BAD_TEMPLATE), (MISSING_COLUMN).
absl::StatusOr<TextPrompt> ToTextPrompt(const Candidate& candidate, const std::vector<Row>& train,
                                        std::shared_ptr<const ExamplePool> pool = nullptr);

// Of `columns` those that the format's templates use. INVALID_ARGUMENT (BAD_TEMPLATE).
absl::StatusOr<Columns> UsedColumns(const PromptFormat& format, const Columns& columns);

// Names what the model would read: equal for candidates that make the same prompt.
std::string KeyOf(const TextPrompt& prompt);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_CANDIDATE_H_
