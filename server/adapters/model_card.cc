#include "server/adapters/model_card.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
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
    case DatasetKind::kPreference: return "preferences between completions";
    case DatasetKind::kChatPreference: return "preferences between answers in conversations";
    case DatasetKind::kUnspecified: break;
  }
  return "";
}

// What a metric of the model's record is, and which data it is of.
const char* MeasuredOn(absl::string_view metric) {
  if (metric == "train_loss") return "answer tokens of the last training step (preferences: its pairs), nats each";
  if (metric == "validation_loss") return "answer tokens of the validation examples (preferences: pairs), nats each; lower is better";
  if (metric == "validation_token_accuracy") return "answer tokens of the validation examples that were the likeliest";
  if (metric == "validation_preference_accuracy") return "validation pairs whose preferred answer gained more than the other";
  if (metric == "validation_reward_margin") return "validation pairs: by how much more it gained, times beta, nats";
  if (metric == "trained_tokens") return "tokens that training read, all passes";
  if (metric == "steps") return "optimizer steps";
  if (metric == "trainable_parameters") return "numbers that training changed";
  if (metric == "validation_score") return "validation examples, which chose the prompt";
  if (metric == "validation_score_lower" || metric == "validation_score_upper") return "its 95% interval";
  if (metric == "validation_rows") return "examples behind the score";
  if (metric == "baseline_score") return "the same examples, with the data's template alone";
  if (metric == "model_calls") return "calls of the model that the search took";
  return "";
}

// A YAML scalar or a table cell that no text can break out of.
std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// On one line, and no end of a table's cell.
std::string Cell(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"|", "\\|"}, {"\n", " "}, {"\r", " "}});
}

void AddLine(absl::string_view title, absl::string_view text, std::string* card) {
  if (!text.empty()) absl::StrAppend(card, "- ", title, ": ", text, "\n");
}

void AddTemplate(absl::string_view title, const std::string& text, std::string* card) {
  if (!text.empty()) AddLine(title, Quoted(text), card);
}

// Examples for training and validation, and where they are from.
std::string DataText(const ModelCardFacts& facts) {
  if (facts.dataset.empty()) return "";
  std::string text = facts.dataset;
  if (facts.train_examples > 0) {
    absl::StrAppend(&text, ", ", facts.train_examples, " examples to train, ", facts.validation_examples, " to validate");
  }
  if (!facts.validation_dataset.empty()) absl::StrAppend(&text, " (of ", facts.validation_dataset, ")");
  return text;
}

void AddData(const ModelInfo& info, const ModelCardFacts& facts, std::string* card) {
  if (info.dataset_kind == DatasetKind::kUnspecified && facts.dataset.empty()) return;
  absl::StrAppend(card, "\n## Data\n\n");
  AddLine("Rows", Rows(info.dataset_kind), card);
  AddLine("Dataset", DataText(facts), card);
  AddTemplate("Prompt template", info.prompt_template, card);
  AddTemplate("Completion template", info.completion_template, card);
  if (info.max_sequence_tokens > 0 && info.kind != ModelKind::kTextPrompt) {
    absl::StrAppend(card, "- Longest example: ", info.max_sequence_tokens, " tokens\n");
  }
}

void AddTable(absl::string_view section, const ModelCardFacts::Lines& lines, std::string* card) {
  if (lines.empty()) return;
  absl::StrAppend(card, "\n## ", section, "\n\n| what | value |\n|---|---|\n");
  for (const auto& [name, value] : lines) absl::StrAppend(card, "| ", Cell(name), " | ", Cell(value), " |\n");
}

void AddMetrics(const ModelInfo& info, std::string* card) {
  if (info.metrics.empty()) return;
  absl::StrAppend(card, "\n## Metrics\n\n| metric | value | of |\n|---|---|---|\n");
  for (const auto& [name, value] : info.metrics) {
    absl::StrAppend(card, "| ", Cell(name), " | ", value, " | ", MeasuredOn(name), " |\n");
  }
}

void AddComparison(const ModelCardFacts::Compared& compared, std::string* card) {
  absl::StrAppend(card, "\n## Comparison with other methods\n\n", Cell(compared.standing), " (comparison ", compared.id,
                  ").\n");
  if (!compared.verdict.empty()) absl::StrAppend(card, "\n> ", Cell(compared.verdict), "\n");
  if (compared.figures.empty()) return;
  absl::StrAppend(card, "\n| figure | value | 95% interval | what it is |\n|---|---|---|---|\n");
  for (const ModelCardFacts::Figure& figure : compared.figures) {
    absl::StrAppend(card, "| ", Cell(figure.title), " | ", Cell(figure.value), " | ", Cell(figure.interval), " | ",
                    Cell(figure.meaning), " |\n");
  }
}

std::string ForgettingText(const ModelInfo& info, const ModelCardFacts& facts) {
  if (!facts.forgetting.empty()) return facts.forgetting;
  if (info.kind == ModelKind::kTextPrompt) return "the base model's weights are as they were.";
  return "what the model has forgotten of what its base model knew was not measured.";
}

void AddLimits(const ModelInfo& info, const ModelCardFacts& facts, std::string* card) {
  if (info.kind == ModelKind::kBase) return;
  absl::StrAppend(card, "\n## Limits\n\n");
  if (info.architecture.context_tokens > 0) {
    absl::StrAppend(card, "- Context: ", info.architecture.context_tokens, " tokens for prompt and answer",
                    HasVirtualTokens(info.kind) ? ", the virtual tokens included" : "", ".\n");
  }
  const bool is_text_prompt = info.kind == ModelKind::kTextPrompt;
  if (is_text_prompt && info.max_sequence_tokens > 0) {
    absl::StrAppend(card, "- Length: at most ", info.max_sequence_tokens, " tokens, instruction and examples included; longer "
                    "inputs were not tried.\n");
  } else if (info.max_sequence_tokens > 0) {
    absl::StrAppend(card, "- Length: tuned on at most ", info.max_sequence_tokens, " tokens an example");
    if (facts.cut_examples > 0) absl::StrAppend(card, "; longer prompts cut: ", facts.cut_examples);
    if (facts.left_out_examples > 0) {
      absl::StrAppend(card, "; left out for their answers' length: ", facts.left_out_examples);
    }
    absl::StrAppend(card, ". Longer inputs were not tried.\n");
  }
  if (is_text_prompt) {
    absl::StrAppend(card, "- Form: its instruction and examples are in text_prompt.json; what they were chosen by, other data and "
                    "other models may not share.\n");
  } else if (!info.prompt_template.empty()) {
    absl::StrAppend(card, "- Form: tuned with the prompt template above alone; prompts of another form were not tried.\n");
  }
  absl::StrAppend(card, "- Other skills: ", ForgettingText(info, facts), "\n");
}

}  // namespace

std::string ModelCard(const ModelInfo& info, const ModelCardFacts& facts, absl::string_view library) {
  std::string card = absl::StrCat("---\nlibrary_name: ", library, "\n");
  if (!info.base_model.empty()) absl::StrAppend(&card, "base_model: ", Quoted(info.base_model), "\n");
  absl::StrAppend(&card, "pipeline_tag: text-generation\ntags: [attune]\n---\n\n# ",
                  info.display_name.empty() ? info.id : info.display_name, "\n\n");
  if (!info.description.empty()) absl::StrAppend(&card, info.description, "\n\n");
  AddLine("Method", Method(info.kind), &card);
  AddLine("Base model", info.base_model, &card);
  AddLine("Tuning job", info.tuning_job, &card);
  const Architecture& a = info.architecture;
  if (a.parameters > 0) {
    absl::StrAppend(&card, "- Network: ", a.family, ", ", a.layers, " layers, hidden size ", a.hidden_size, ", ",
                    a.parameters, " parameters, context ", a.context_tokens, " tokens\n");
  }
  AddData(info, facts, &card);
  AddTable("Settings", facts.settings, &card);
  AddTable("Cost of tuning", facts.cost, &card);
  AddMetrics(info, &card);
  if (facts.compared) AddComparison(*facts.compared, &card);
  AddLimits(info, facts, &card);
  return card;
}

}  // namespace attune
