#ifndef ATTUNE_SERVER_RPC_MODEL_SERVICE_H_
#define ATTUNE_SERVER_RPC_MODEL_SERVICE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "attune/v1/model_service.grpc.pb.h"
#include "server/adapters/registry.h"
#include "server/comparison/comparison_store.h"
#include "server/data/text_prompt.h"
#include "server/engine/engine.h"
#include "server/jobs/job_store.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call.h"
#include "server/rpc/model_provider.h"

namespace attune {

struct ExportRequest {
  enum class Format { kDefault = 0, kPeft = 1, kSafetensors = 2, kGgufF16 = 3, kGgufQ8 = 4 };
  std::string model;  // id
  Format format = Format::kDefault;
  std::string destination;  // relative to the export root
};

struct ExportOutcome {
  std::string path;                // absolute
  std::vector<std::string> files;  // relative to `path`
  int64_t size_bytes = 0;
};

// See proto/attune/v1/model_service.proto. Thread-safe.
class ModelService final : public v1::ModelService::Service {
 public:
  struct Deps {
    ModelRegistry* models = nullptr;  // the pointers outlive the service
    const JobStore* job_store = nullptr;
    const ComparisonStore* comparison_store = nullptr;
    // Forgets a model's weights after it was deleted.
    std::function<void(absl::string_view id)> drop;
    std::function<absl::StatusOr<ExportOutcome>(const ExportRequest& request)> export_model;
    // What embeds the examples of new text prompts.
    ModelProvider served;
    Engine* engine = nullptr;
    Metrics* metrics = nullptr;
  };
  explicit ModelService(Deps deps) : deps_(std::move(deps)) {}

  grpc::Status ImportModel(grpc::ServerContext* context, const v1::ImportModelRequest* request,
                           v1::Model* response) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request, v1::Model* response) override;
  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override;
  grpc::Status UpdateModel(grpc::ServerContext* context, const v1::UpdateModelRequest* request,
                           v1::Model* response) override;
  grpc::Status DeleteModel(grpc::ServerContext* context, const v1::DeleteModelRequest* request,
                           google::protobuf::Empty* response) override;
  grpc::Status ExportModel(grpc::ServerContext* context, const v1::ExportModelRequest* request,
                           v1::ExportModelResponse* response) override;
  grpc::Status GetTextPrompt(grpc::ServerContext* context, const v1::GetTextPromptRequest* request,
                             v1::TextPrompt* response) override;
  grpc::Status CreateTextPrompt(grpc::ServerContext* context, const v1::CreateTextPromptRequest* request,
                                v1::Model* response) override;

 private:
  absl::Status DoUpdate(Call& call, const v1::UpdateModelRequest& request, v1::Model* response);
  absl::Status DoDelete(Call& call, const v1::DeleteModelRequest& request);
  absl::Status DoExport(Call& call, const v1::ExportModelRequest& request, v1::ExportModelResponse* response);
  absl::Status DoGetTextPrompt(Call& call, const v1::GetTextPromptRequest& request, v1::TextPrompt* response);
  // Has the base model embed the pool's examples, unless they came with embeddings.
  absl::Status FillPool(Call& call, const std::string& base, const std::string& id, TextPrompt* prompt);
  absl::Status DoCreateTextPrompt(Call& call, const v1::CreateTextPromptRequest& request, v1::Model* response);

  const Deps deps_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_MODEL_SERVICE_H_
