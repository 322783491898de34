#include "server/adapters/model_card.h"

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

const char* Method(ModelKind kind) {
  switch (kind) {
    case ModelKind::kBase: return "none: an imported base model";
    case ModelKind::kFullWeights: return "fine-tuning of the weights";
    case ModelKind::kLora: return "LoRA";
    case ModelKind::kSoftPrompt: return "soft prompt (prompt tuning)";
    case ModelKind::kPrefix: return "prefix tuning";
    case ModelKind::kIa3: return "IA3";
    case ModelKind::kTextPrompt: return "text prompt (an instruction and examples; no weights)";
  }
  return "";
}

const char* Rows(DatasetKind kind) {
  switch (kind) {
    case DatasetKind::kPromptCompletion: return "prompts with completions";
    case DatasetKind::kChat: return "conversations";
    case DatasetKind::kText: return "plain text";
    case DatasetKind::kUnspecified: break;
  }
  return "";
}

// A YAML scalar or a table cell that no text can break out of.
std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void AddTemplate(const char* title, const std::string& text, std::string* card) {
  if (!text.empty()) absl::StrAppend(card, "- ", title, ": ", Quoted(text), "\n");
}

}  // namespace

std::string ModelCard(const ModelInfo& info, bool peft) {
  std::string card = absl::StrCat("---\nlibrary_name: ", peft ? "peft" : "transformers", "\n");
  if (!info.base_model.empty()) absl::StrAppend(&card, "base_model: ", Quoted(info.base_model), "\n");
  absl::StrAppend(&card, "pipeline_tag: text-generation\ntags: [attune]\n---\n\n# ",
                  info.display_name.empty() ? info.id : info.display_name, "\n\n");
  if (!info.description.empty()) absl::StrAppend(&card, info.description, "\n\n");
  absl::StrAppend(&card, "- Method: ", Method(info.kind), "\n");
  if (!info.base_model.empty()) absl::StrAppend(&card, "- Base model: ", info.base_model, "\n");
  if (!info.tuning_job.empty()) absl::StrAppend(&card, "- Tuning job: ", info.tuning_job, "\n");
  const Architecture& a = info.architecture;
  if (a.parameters > 0) {
    absl::StrAppend(&card, "- Network: ", a.family, ", ", a.layers, " layers, hidden size ", a.hidden_size, ", ",
                    a.parameters, " parameters, context ", a.context_tokens, " tokens\n");
  }
  if (info.dataset_kind != DatasetKind::kUnspecified) {
    absl::StrAppend(&card, "\n## Data\n\n- Rows: ", Rows(info.dataset_kind), "\n");
    AddTemplate("Prompt template", info.prompt_template, &card);
    AddTemplate("Completion template", info.completion_template, &card);
    if (info.max_sequence_tokens > 0)
      absl::StrAppend(&card, "- Longest example: ", info.max_sequence_tokens, " tokens\n");
  }
  if (!info.metrics.empty()) absl::StrAppend(&card, "\n## Metrics\n\n| metric | value |\n|---|---|\n");
  for (const auto& [name, value] : info.metrics) absl::StrAppend(&card, "| ", name, " | ", value, " |\n");
  return card;
}

}  // namespace attune
