#include "server/adapters/publish_text_prompt.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"

namespace attune {

absl::StatusOr<ModelInfo> PublishTextPrompt(ModelRegistry* registry, ModelInfo info, const TextPrompt& prompt,
                                            const std::string& request_id) {
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo base, registry->Get(info.base_model));
  if (base.kind != ModelKind::kBase && base.kind != ModelKind::kFullWeights) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "BASE_IS_ADAPTER",
                     absl::StrCat("'models/", base.id, "' has no weights of its own; take the model that it is over."));
  }
  ATTUNE_ASSIGN_OR_RETURN(info.prompt_template, MakePromptTemplate(prompt));
  if (prompt.pool) {
    ATTUNE_RETURN_IF_ERROR(CheckPoolRows(prompt));
    ATTUNE_RETURN_IF_ERROR(CheckEmbeddings(*prompt.pool, base.architecture.hidden_size, "text_prompt.pool"));
  }
  info.completion_template = prompt.output_template;
  info.kind = ModelKind::kTextPrompt;
  info.dataset_kind = DatasetKind::kPromptCompletion;
  info.architecture = base.architecture;
  ATTUNE_ASSIGN_OR_RETURN(std::string staging, registry->NewStagingDirectory());
  absl::Status written = WriteTextPrompt(staging, prompt);
  absl::StatusOr<ModelInfo> published =
      written.ok() ? registry->Publish(std::move(info), staging, request_id) : absl::StatusOr<ModelInfo>(written);
  // Nothing is left of it where it was published.
  RemoveAll(staging).IgnoreError();
  return published;
}

}  // namespace attune
