#include "server/data/text_prompt.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kBetween[] = "\n\n";
constexpr int64_t kMostFileBytes = int64_t{256} << 20;

absl::Status Damaged(absl::string_view message) {
  return MakeError(absl::StatusCode::kDataLoss, "MODEL_DAMAGED",
                   absl::StrCat("text_prompt.json cannot be read: ", message));
}

// What has no pool is written as before there were any.
Json TrialToJson(const TextPromptTrial& trial) {
  Json json = {{"instruction", trial.instruction},
               {"examples", trial.examples},
               {"input_template", trial.input_template},
               {"score", trial.score},
               {"lower", trial.lower},
               {"upper", trial.upper},
               {"rows", trial.rows},
               {"origin", trial.origin}};
  if (trial.retrieved > 0) json["retrieved"] = trial.retrieved;
  return json;
}

TextPromptTrial TrialFromJson(const Json& json) {
  return {json.at("instruction"), json.at("examples"), json.at("input_template"),
          json.at("score"),       json.at("lower"),    json.at("upper"),
          json.at("rows"),        json.at("origin"),   json.value("retrieved", int64_t{0})};
}

Json PoolToJson(const TextPrompt& prompt) {
  Json embeddings = Json::array();
  for (const std::vector<float>& embedding : prompt.pool->embeddings) embeddings.push_back(EncodeEmbedding(embedding));
  return {{"retrieved", prompt.retrieved}, {"rows", prompt.pool->rows}, {"embeddings", embeddings}};
}

absl::Status DecodePool(const Json& json, TextPrompt* prompt) {
  auto pool = std::make_shared<ExamplePool>();
  json.at("retrieved").get_to(prompt->retrieved);
  json.at("rows").get_to(pool->rows);
  const int64_t rows = static_cast<int64_t>(pool->rows.size());
  if (rows < 1 || rows > kMostPoolRows) return Damaged(absl::StrCat("a pool of ", rows, " examples"));
  if (prompt->retrieved < 1 || prompt->retrieved > kMostRetrieved) {
    return Damaged(absl::StrCat(prompt->retrieved, " examples to retrieve"));
  }
  for (const Json& encoded : json.at("embeddings")) {
    absl::StatusOr<std::vector<float>> embedding = DecodeEmbedding(encoded.get_ref<const std::string&>());
    if (!embedding.ok()) return Damaged(embedding.status().message());
    pool->embeddings.push_back(*std::move(embedding));
  }
  const absl::Status checked = CheckEmbeddings(*pool, 0, "pool");
  if (!checked.ok()) return Damaged(checked.message());
  prompt->pool = std::move(pool);
  const absl::Status rendered = CheckPoolRows(*prompt);
  return rendered.ok() ? rendered : Damaged(rendered.message());
}

absl::StatusOr<TextPrompt> Decode(const Json& json) {
  TextPrompt prompt;
  json.at("instruction").get_to(prompt.instruction);
  json.at("examples").get_to(prompt.examples);
  json.at("input_template").get_to(prompt.input_template);
  json.at("output_template").get_to(prompt.output_template);
  json.at("label_offsets").get_to(prompt.label_offsets);
  json.at("edited_from").get_to(prompt.edited_from);
  for (const Json& trial : json.at("trials")) prompt.trials.push_back(TrialFromJson(trial));
  if (json.contains("pool")) ATTUNE_RETURN_IF_ERROR(DecodePool(json.at("pool"), &prompt));
  return prompt;
}

}  // namespace

bool operator==(const TextPrompt& a, const TextPrompt& b) { return TextPromptToJson(a) == TextPromptToJson(b); }

absl::StatusOr<std::string> MakePromptTemplate(const TextPrompt& prompt, const std::vector<int64_t>& retrieved) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(prompt.input_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate output, PromptTemplate::Parse(prompt.output_template));
  std::string literal;
  if (!prompt.instruction.empty()) absl::StrAppend(&literal, prompt.instruction, kBetween);
  std::vector<const Columns*> examples;
  for (const Columns& example : prompt.examples) examples.push_back(&example);
  for (int64_t row : retrieved) examples.push_back(&prompt.pool->rows[row]);
  for (const Columns* example : examples) {
    ATTUNE_ASSIGN_OR_RETURN(std::string question, input.Render(*example));
    ATTUNE_ASSIGN_OR_RETURN(std::string answer, output.Render(*example));
    absl::StrAppend(&literal, question, answer, kBetween);
  }
  return absl::StrCat(EscapeTemplateText(literal), prompt.input_template);
}

absl::Status CheckPoolRows(const TextPrompt& prompt) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(prompt.input_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate output, PromptTemplate::Parse(prompt.output_template));
  for (const Columns& row : prompt.pool->rows) {
    ATTUNE_RETURN_IF_ERROR(input.Render(row).status());
    ATTUNE_RETURN_IF_ERROR(output.Render(row).status());
  }
  return absl::OkStatus();
}

std::string TextPromptToJson(const TextPrompt& prompt) {
  Json trials = Json::array();
  for (const TextPromptTrial& trial : prompt.trials) trials.push_back(TrialToJson(trial));
  Json json = {{"instruction", prompt.instruction},
               {"examples", prompt.examples},
               {"input_template", prompt.input_template},
               {"output_template", prompt.output_template},
               {"label_offsets", prompt.label_offsets},
               {"edited_from", prompt.edited_from},
               {"trials", trials}};
  if (prompt.pool) json["pool"] = PoolToJson(prompt);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<TextPrompt> TextPromptFromJson(absl::string_view text) {
  try {
    return Decode(Json::parse(text.begin(), text.end()));
  } catch (const Json::exception& error) {
    return Damaged(error.what());
  }
}

std::string TextPromptPath(const std::string& directory) { return directory + "/text_prompt.json"; }

absl::Status WriteTextPrompt(const std::string& directory, const TextPrompt& prompt) {
  return WriteFileDurably(TextPromptPath(directory), TextPromptToJson(prompt));
}

absl::StatusOr<TextPrompt> ReadTextPrompt(const std::string& directory) {
  const std::string path = TextPromptPath(directory);
  if (SizeOnDisk(path) > kMostFileBytes) {
    return MakeError(absl::StatusCode::kDataLoss, "MODEL_DAMAGED",
                     absl::StrCat(path, " is too large for a text prompt."));
  }
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  absl::StatusOr<TextPrompt> prompt = TextPromptFromJson(text);
  if (prompt.ok()) return prompt;
  return MakeError(absl::StatusCode::kDataLoss, "MODEL_DAMAGED", absl::StrCat(path, ": ", prompt.status().message()));
}

}  // namespace attune
