#include "server/rpc/convert_text_prompt.h"

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/rpc/check.h"

namespace attune {
namespace {

constexpr size_t kMostInstructionBytes = 65536;
constexpr int kMostExamples = 1000;
constexpr char kPoolField[] = "text_prompt.pool";
constexpr size_t kMostPoolBytes = 8 << 20;  // of the rows' text: as JSON it stays below what may be read

absl::Status CheckRows(const PromptTemplate& source, const std::vector<Columns>& rows, absl::string_view field) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const absl::Status status = source.Render(rows[i]).status();
    if (!status.ok()) {
      return InvalidField(absl::StrCat(field, ".examples[", i, "].columns"), status.message(), "MISSING_COLUMN");
    }
  }
  return absl::OkStatus();
}

// Templates and examples by what they are for; MakePromptTemplate finds the same, but not the field.
absl::Status CheckParts(const TextPrompt& prompt) {
  for (const auto& [field, source] : {std::pair("text_prompt.input_template", &prompt.input_template),
                                      std::pair("text_prompt.output_template", &prompt.output_template)}) {
    absl::StatusOr<PromptTemplate> parsed = PromptTemplate::Parse(*source);
    if (!parsed.ok()) return InvalidField(field, parsed.status().message(), "BAD_TEMPLATE");
    ATTUNE_RETURN_IF_ERROR(CheckRows(*parsed, prompt.examples, "text_prompt"));
    if (prompt.pool) ATTUNE_RETURN_IF_ERROR(CheckRows(*parsed, prompt.pool->rows, kPoolField));
  }
  return absl::OkStatus();
}

absl::Status CheckOffsets(const TextPrompt& prompt) {
  for (const auto& [label, offset] : prompt.label_offsets) {
    if (!std::isfinite(offset)) return InvalidField("text_prompt.label_offsets", "must be finite");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const ExamplePool>> ToPool(const v1::TextPrompt::ExamplePool& in) {
  if (in.examples().empty() || in.examples_size() > kMostPoolRows) {
    return InvalidField(absl::StrCat(kPoolField, ".examples"), absl::StrCat("must be 1 to ", kMostPoolRows));
  }
  if (in.retrieved_examples() < 1 || in.retrieved_examples() > kMostRetrieved) {
    return InvalidField(absl::StrCat(kPoolField, ".retrieved_examples"), absl::StrCat("must be 1 to ", kMostRetrieved));
  }
  auto out = std::make_shared<ExamplePool>();
  size_t bytes = 0;
  for (const v1::TextPrompt::Example& example : in.examples()) {
    for (const auto& [name, value] : example.columns()) bytes += name.size() + value.size();
    if (bytes > kMostPoolBytes) {
      return InvalidField(absl::StrCat(kPoolField, ".examples"), absl::StrCat("must hold at most ", kMostPoolBytes, " bytes"));
    }
    out->rows.emplace_back(example.columns().begin(), example.columns().end());
    if (example.embedding().empty()) continue;
    Normalize(&out->embeddings.emplace_back(example.embedding().begin(), example.embedding().end()));
  }
  if (!out->embeddings.empty()) ATTUNE_RETURN_IF_ERROR(CheckEmbeddings(*out, 0, kPoolField));
  return std::shared_ptr<const ExamplePool>(std::move(out));
}

void FillPool(const TextPrompt& in, v1::TextPrompt::ExamplePool* out) {
  out->set_retrieved_examples(static_cast<int32_t>(in.retrieved));
  for (size_t i = 0; i < in.pool->rows.size(); ++i) {
    v1::TextPrompt::Example* example = out->add_examples();
    example->mutable_columns()->insert(in.pool->rows[i].begin(), in.pool->rows[i].end());
    example->mutable_embedding()->Assign(in.pool->embeddings[i].begin(), in.pool->embeddings[i].end());
  }
}

}  // namespace

absl::StatusOr<TextPrompt> ToTextPrompt(const v1::TextPrompt& in) {
  TextPrompt out;
  ATTUNE_RETURN_IF_ERROR(CheckLength(in.instruction(), kMostInstructionBytes, "text_prompt.instruction"));
  if (in.examples_size() > kMostExamples) {
    return InvalidField("text_prompt.examples", absl::StrCat("must be at most ", kMostExamples));
  }
  out.instruction = in.instruction();
  for (const v1::TextPrompt::Example& example : in.examples()) {
    out.examples.emplace_back(example.columns().begin(), example.columns().end());
  }
  if (!in.input_template().empty()) out.input_template = in.input_template();
  if (!in.output_template().empty()) out.output_template = in.output_template();
  out.label_offsets.insert(in.label_offsets().begin(), in.label_offsets().end());
  if (!in.edited_from().empty()) {
    ATTUNE_ASSIGN_OR_RETURN(out.edited_from, ParseName(kModels, in.edited_from(), "text_prompt.edited_from"));
  }
  if (in.has_pool()) {
    ATTUNE_ASSIGN_OR_RETURN(out.pool, ToPool(in.pool()));
    out.retrieved = in.pool().retrieved_examples();
  }
  ATTUNE_RETURN_IF_ERROR(CheckOffsets(out));
  ATTUNE_RETURN_IF_ERROR(CheckParts(out));
  return out;
}

v1::TextPrompt ToProto(const TextPrompt& in) {
  v1::TextPrompt out;
  out.set_instruction(in.instruction);
  for (const Columns& example : in.examples) {
    out.add_examples()->mutable_columns()->insert(example.begin(), example.end());
  }
  out.set_input_template(in.input_template);
  out.set_output_template(in.output_template);
  out.mutable_label_offsets()->insert(in.label_offsets.begin(), in.label_offsets.end());
  if (!in.edited_from.empty()) out.set_edited_from(absl::StrCat(kModels, "/", in.edited_from));
  if (in.pool) FillPool(in, out.mutable_pool());
  for (const TextPromptTrial& trial : in.trials) {
    v1::TextPrompt::Trial* to = out.add_trials();
    to->set_instruction(trial.instruction);
    to->set_examples(static_cast<int32_t>(trial.examples));
    to->set_input_template(trial.input_template);
    to->set_score(trial.score);
    to->set_lower(trial.lower);
    to->set_upper(trial.upper);
    to->set_rows(trial.rows);
    to->set_origin(trial.origin);
    to->set_retrieved_examples(static_cast<int32_t>(trial.retrieved));
  }
  return out;
}

}  // namespace attune
