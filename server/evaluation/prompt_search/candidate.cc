#include "server/evaluation/prompt_search/candidate.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "server/data/template.h"

namespace attune {

absl::StatusOr<Columns> UsedColumns(const PromptFormat& format, const Columns& columns) {
  Columns used;
  for (const std::string* source : {&format.input_template, &format.output_template}) {
    ATTUNE_ASSIGN_OR_RETURN(const PromptTemplate part, PromptTemplate::Parse(*source));
    for (const std::string& name : part.variables()) {
      const auto it = columns.find(name);
      if (it != columns.end()) used.insert(*it);
    }
  }
  return used;
}

absl::StatusOr<TextPrompt> ToTextPrompt(const Candidate& candidate, const std::vector<Row>& train,
                                        std::shared_ptr<const ExamplePool> pool) {
  TextPrompt prompt;
  prompt.instruction = candidate.instruction;
  prompt.input_template = candidate.format.input_template;
  prompt.output_template = candidate.format.output_template;
  for (int64_t index : candidate.examples) {
    ATTUNE_ASSIGN_OR_RETURN(prompt.examples.emplace_back(), UsedColumns(candidate.format, train[index].columns));
  }
  if (candidate.retrieved > 0) {
    prompt.pool = std::move(pool);
    prompt.retrieved = candidate.retrieved;
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
  if (prompt.pool) {
    // Without the embeddings: a search that resumes embeds again, and rounding is not to make it another prompt.
    TextPrompt rows;
    rows.examples = prompt.pool->rows;
    hash.Update(absl::StrCat(prompt.retrieved, TextPromptToJson(rows)));
  }
  return hash.Finish().substr(0, kKeyDigits);
}

}  // namespace attune
