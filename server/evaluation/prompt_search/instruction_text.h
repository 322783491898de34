#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INSTRUCTION_TEXT_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INSTRUCTION_TEXT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace attune {

// What a model wrote when asked for an instruction, as one: its first paragraph on one line,
// without a heading ("Instruction:"), list marks and quotes around it, cut after a sentence.
// Empty if nothing of use is left: fewer than three words, or no valid UTF-8.
std::string CleanInstruction(absl::string_view written);

// Cleaned, in their order, without empty ones and repetitions (case and the last mark aside).
std::vector<std::string> CleanInstructions(const std::vector<std::string>& written);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INSTRUCTION_TEXT_H_
