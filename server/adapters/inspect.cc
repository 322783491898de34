#include "server/adapters/inspect.h"

#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/adapter.h"
#include "server/adapters/formats/peft.h"
#include "server/model/base_model.h"
#include "server/model/rope.h"
#include "server/model/weights/gguf.h"
#include "server/tokenizer/load.h"

namespace attune {
namespace {

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const std::string& directory) {
  const std::string gguf = directory + "/model.gguf";
  std::error_code error;
  if (!std::filesystem::exists(gguf, error)) return LoadTokenizer(directory);
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::Open(gguf));
  return LoadTokenizer(*file);
}

}  // namespace

absl::StatusOr<Architecture> InspectModel(const std::string& directory) {
  ATTUNE_ASSIGN_OR_RETURN(ModelConfig config, LoadConfig(directory));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, OpenTokenizer(directory));
  if (tokenizer->vocab_size() > config.vocab) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_MODEL",
                     absl::StrCat("Not a usable model: the tokenizer has ", tokenizer->vocab_size(),
                                  " tokens, the embedding table ", config.vocab, " rows"));
  }
  Architecture architecture;
  architecture.family = config.family;
  architecture.layers = config.layers;
  architecture.hidden_size = config.hidden;
  architecture.intermediate_size = config.intermediate;
  architecture.attention_heads = config.heads;
  architecture.key_value_heads = config.kv_heads;
  architecture.vocabulary_size = config.vocab;
  architecture.context_tokens = config.context;
  architecture.parameters = config.Parameters();
  return architecture;
}

absl::StatusOr<ModelKind> InspectAdapter(const std::string& directory, const std::string& base_directory) {
  ATTUNE_ASSIGN_OR_RETURN(const ModelConfig config, LoadConfig(base_directory));
  ATTUNE_ASSIGN_OR_RETURN(const std::unique_ptr<Adapter> adapter,
                          LoadPeft(directory, config, ComputeTarget(), MakeRopeTables(config)));
  if (adapter->virtual_tokens() >= config.context) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ADAPTER",
                     absl::StrCat("The adapter's ", adapter->virtual_tokens(), " virtual tokens leave no room in the base "
                                                                               "model's context of ", config.context, "."));
  }
  if (adapter->soft_prompt) return ModelKind::kSoftPrompt;
  if (adapter->prefix) return ModelKind::kPrefix;
  return adapter->ia3 ? ModelKind::kIa3 : ModelKind::kLora;
}

}  // namespace attune
