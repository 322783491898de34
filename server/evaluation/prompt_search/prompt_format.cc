#include "server/evaluation/prompt_search/prompt_format.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/template.h"

namespace attune {
namespace {

struct Headings {
  const char *name, *input, *output;
};
constexpr Headings kHeadings[] = {
    {"input-output", "Input", "Output"}, {"text-label", "Text", "Label"}, {"question-answer", "Q", "A"}};

std::string Variable(const std::string& name) { return absl::StrCat("{{", name, "}}"); }

// One variable under the heading; several under their own names.
std::string InputTemplate(const PromptTemplate& input, const Headings& headings) {
  std::string out;
  const bool single = input.variables().size() == 1;
  for (const std::string& name : input.variables()) {
    absl::StrAppend(&out, single ? headings.input : name, ": ", Variable(name), "\n");
  }
  return absl::StrCat(out, headings.output, ":");
}

// Apart from the heading by a space.
std::string OutputTemplate(const PromptTemplate& output) {
  if (output.variables().size() == 1) return absl::StrCat(" ", Variable(output.variables()[0]));
  const std::string& source = output.source();
  return !source.empty() && absl::ascii_isspace(source[0]) ? source : absl::StrCat(" ", source);
}

}  // namespace

absl::StatusOr<std::vector<PromptFormat>> MakeFormats(const std::string& prompt_template,
                                                      const std::string& completion_template) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate output, PromptTemplate::Parse(completion_template));
  std::vector<PromptFormat> formats = {{"data", prompt_template, completion_template}};
  if (input.variables().empty()) return formats;
  for (const Headings& headings : kHeadings) {
    PromptFormat format{headings.name, InputTemplate(input, headings), OutputTemplate(output)};
    const bool is_own = format.input_template == prompt_template && format.output_template == completion_template;
    if (!is_own) formats.push_back(std::move(format));
  }
  return formats;
}

}  // namespace attune
