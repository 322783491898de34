#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INSTRUCTION_EDITS_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INSTRUCTION_EDITS_H_

#include <string>
#include <vector>

// Instructions that no model has to write. Pure.
namespace attune {

// To begin with, without a word about what the task is; of label tasks with the labels.
std::vector<std::string> PlainInstructions(const std::vector<std::string>& labels);

// Variants by rule, none equal to the instruction or to each other: its first sentence alone,
// its last sentence first, with the list of labels, with what to answer with. `labels` is
// empty for tasks without; long lists are left out of it.
std::vector<std::string> EditInstruction(const std::string& instruction, const std::vector<std::string>& labels);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INSTRUCTION_EDITS_H_
