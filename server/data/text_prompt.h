#ifndef ATTUNE_SERVER_DATA_TEXT_PROMPT_H_
#define ATTUNE_SERVER_DATA_TEXT_PROMPT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/data/dataset.h"
#include "server/data/template.h"

namespace attune {

// A prompt that a search tried, and how it did on the validation rows that it met.
struct TextPromptTrial {
  std::string instruction;
  int64_t examples = 0;
  std::string input_template;
  double score = 0, lower = 0, upper = 0;
  int64_t rows = 0;
  std::string origin;
  bool operator==(const TextPromptTrial&) const = default;
};

// A readable prompt in its parts; fields as in TextPrompt of proto/attune/v1/model.proto.
struct TextPrompt {
  std::string instruction;
  std::vector<Columns> examples;
  std::string input_template = kDefaultPromptTemplate;
  std::string output_template = kDefaultCompletionTemplate;
  std::map<std::string, double> label_offsets;
  std::string edited_from;  // id of a model; empty: none
  std::vector<TextPromptTrial> trials;
  bool operator==(const TextPrompt&) const = default;
};

// The prompt template that the parts make: the instruction, the examples and the input
// template, with an empty line between them; what is no variable of the input template
// comes out as it is. INVALID_ARGUMENT (BAD_TEMPLATE), or (MISSING_COLUMN) if an example
// lacks a variable of either template.
absl::StatusOr<std::string> MakePromptTemplate(const TextPrompt& prompt);

std::string TextPromptToJson(const TextPrompt& prompt);
// DATA_LOSS (MODEL_DAMAGED).
absl::StatusOr<TextPrompt> TextPromptFromJson(absl::string_view text);

// The file in a model's folder.
std::string TextPromptPath(const std::string& directory);
absl::Status WriteTextPrompt(const std::string& directory, const TextPrompt& prompt);
absl::StatusOr<TextPrompt> ReadTextPrompt(const std::string& directory);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_TEXT_PROMPT_H_
