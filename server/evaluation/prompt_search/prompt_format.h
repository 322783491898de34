#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PROMPT_FORMAT_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PROMPT_FORMAT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace attune {

// How a row's input and its answer are written.
struct PromptFormat {
  std::string name;  // for people: "data", "input-output", ...
  std::string input_template, output_template;
  bool operator==(const PromptFormat&) const = default;
};

// The data's own format first; then, if its input has variables, the same variables under
// other headings. INVALID_ARGUMENT (BAD_TEMPLATE).
absl::StatusOr<std::vector<PromptFormat>> MakeFormats(const std::string& prompt_template,
                                                      const std::string& completion_template);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PROMPT_FORMAT_H_
