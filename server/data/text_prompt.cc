#include "server/data/text_prompt.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kBetween[] = "\n\n";

Json TrialToJson(const TextPromptTrial& trial) {
  return {{"instruction", trial.instruction},
          {"examples", trial.examples},
          {"input_template", trial.input_template},
          {"score", trial.score},
          {"lower", trial.lower},
          {"upper", trial.upper},
          {"rows", trial.rows},
          {"origin", trial.origin}};
}

TextPromptTrial TrialFromJson(const Json& json) {
  return {json.at("instruction"), json.at("examples"), json.at("input_template"), json.at("score"),
          json.at("lower"),       json.at("upper"),    json.at("rows"),           json.at("origin")};
}

TextPrompt Decode(const Json& json) {
  TextPrompt prompt;
  json.at("instruction").get_to(prompt.instruction);
  json.at("examples").get_to(prompt.examples);
  json.at("input_template").get_to(prompt.input_template);
  json.at("output_template").get_to(prompt.output_template);
  json.at("label_offsets").get_to(prompt.label_offsets);
  json.at("edited_from").get_to(prompt.edited_from);
  for (const Json& trial : json.at("trials")) prompt.trials.push_back(TrialFromJson(trial));
  return prompt;
}

}  // namespace

absl::StatusOr<std::string> MakePromptTemplate(const TextPrompt& prompt) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(prompt.input_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate output, PromptTemplate::Parse(prompt.output_template));
  std::string literal;
  if (!prompt.instruction.empty()) absl::StrAppend(&literal, prompt.instruction, kBetween);
  for (const Columns& example : prompt.examples) {
    ATTUNE_ASSIGN_OR_RETURN(std::string question, input.Render(example));
    ATTUNE_ASSIGN_OR_RETURN(std::string answer, output.Render(example));
    absl::StrAppend(&literal, question, answer, kBetween);
  }
  return absl::StrCat(EscapeTemplateText(literal), prompt.input_template);
}

std::string TextPromptToJson(const TextPrompt& prompt) {
  Json trials = Json::array();
  for (const TextPromptTrial& trial : prompt.trials) trials.push_back(TrialToJson(trial));
  const Json json = {{"instruction", prompt.instruction},
                     {"examples", prompt.examples},
                     {"input_template", prompt.input_template},
                     {"output_template", prompt.output_template},
                     {"label_offsets", prompt.label_offsets},
                     {"edited_from", prompt.edited_from},
                     {"trials", trials}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<TextPrompt> TextPromptFromJson(absl::string_view text) {
  try {
    return Decode(Json::parse(text.begin(), text.end()));
  } catch (const Json::exception& error) {
    return MakeError(absl::StatusCode::kDataLoss, "MODEL_DAMAGED",
                     absl::StrCat("text_prompt.json cannot be read: ", error.what()));
  }
}

std::string TextPromptPath(const std::string& directory) { return directory + "/text_prompt.json"; }

absl::Status WriteTextPrompt(const std::string& directory, const TextPrompt& prompt) {
  return WriteFileDurably(TextPromptPath(directory), TextPromptToJson(prompt));
}

absl::StatusOr<TextPrompt> ReadTextPrompt(const std::string& directory) {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(TextPromptPath(directory)));
  return TextPromptFromJson(text);
}

}  // namespace attune
