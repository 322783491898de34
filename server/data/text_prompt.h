#ifndef ATTUNE_SERVER_DATA_TEXT_PROMPT_H_
#define ATTUNE_SERVER_DATA_TEXT_PROMPT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/data/dataset.h"
#include "server/data/example_pool.h"
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
  int64_t retrieved = 0;  // examples, by similarity; those of `examples` are always the same
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
  // Where set, each request gets `retrieved` of these rows after the examples, those most similar to its input. Shared:
  // a search's prompts all have one.
  std::shared_ptr<const ExamplePool> pool;
  int64_t retrieved = 0;  // above 0 with a pool, else 0
};
// Of all that a file would hold.
bool operator==(const TextPrompt& a, const TextPrompt& b);

// The prompt template that the parts make: the instruction, the examples and the input
// template, with an empty line between them; what is no variable of the input template
// comes out as it is. INVALID_ARGUMENT (BAD_TEMPLATE), or (MISSING_COLUMN) if an example
// lacks a variable of either template. `retrieved` are rows of the pool, which come last, in this order.
absl::StatusOr<std::string> MakePromptTemplate(const TextPrompt& prompt, const std::vector<int64_t>& retrieved = {});

// The same of each row of the pool, which must be there.
absl::Status CheckPoolRows(const TextPrompt& prompt);

std::string TextPromptToJson(const TextPrompt& prompt);
// DATA_LOSS (MODEL_DAMAGED), also of a pool that is too large or has embeddings of several widths.
absl::StatusOr<TextPrompt> TextPromptFromJson(absl::string_view text);

// The file in a model's folder.
std::string TextPromptPath(const std::string& directory);
absl::Status WriteTextPrompt(const std::string& directory, const TextPrompt& prompt);
// DATA_LOSS (MODEL_DAMAGED), naming the file; also of one that is larger than any prompt that may be made.
absl::StatusOr<TextPrompt> ReadTextPrompt(const std::string& directory);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_TEXT_PROMPT_H_
