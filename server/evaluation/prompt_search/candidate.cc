#include "server/evaluation/prompt_search/candidate.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "server/data/template.h"

namespace attune {

absl::StatusOr<TextPrompt> ToTextPrompt(const Candidate& candidate, const std::vector<Row>& train) {
  TextPrompt prompt;
  prompt.instruction = candidate.instruction;
  prompt.input_template = candidate.format.input_template;
  prompt.output_template = candidate.format.output_template;
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(prompt.input_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate output, PromptTemplate::Parse(prompt.output_template));
  for (int64_t index : candidate.examples) {
    Columns& kept = prompt.examples.emplace_back();
    for (const PromptTemplate* part : {&input, &output}) {
      for (const std::string& name : part->variables()) {
        const auto it = train[index].columns.find(name);
        if (it != train[index].columns.end()) kept.insert(*it);
      }
    }
  }
  ATTUNE_RETURN_IF_ERROR(MakePromptTemplate(prompt).status());
  return prompt;
}

std::string KeyOf(const TextPrompt& prompt) {
  constexpr size_t kKeyDigits = 32;  // 128 bits
  TextPrompt read;
  read.instruction = prompt.instruction;
  read.examples = prompt.examples;
  read.input_template = prompt.input_template;
  read.output_template = prompt.output_template;
  Sha256 hash;
  hash.Update(TextPromptToJson(read));
  return hash.Finish().substr(0, kKeyDigits);
}

}  // namespace attune
