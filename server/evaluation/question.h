#ifndef ATTUNE_SERVER_EVALUATION_QUESTION_H_
#define ATTUNE_SERVER_EVALUATION_QUESTION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/residency.h"

namespace attune {

// A question of the server's own to a model: as a user's turn where it has a chat template, else as text that ends with
// `lead` ("Answer:") on a line of its own. Errors: those of the template.
absl::StatusOr<std::vector<int32_t>> QuestionTokens(const ServedModel& model, const std::string& question,
                                                    absl::string_view lead);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_QUESTION_H_
