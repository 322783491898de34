#ifndef ATTUNE_SERVER_RPC_GENERATION_SERVICE_H_
#define ATTUNE_SERVER_RPC_GENERATION_SERVICE_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "attune/v1/generation_service.grpc.pb.h"
#include "server/engine/engine.h"
#include "server/metrics/metrics.h"
#include "server/grammar/grammar.h"
#include "server/rpc/answer.h"
#include "server/rpc/best_answers.h"
#include "server/rpc/call.h"
#include "server/rpc/cancel_watcher.h"
#include "server/rpc/model_provider.h"

namespace attune {

// See proto/attune/v1/generation_service.proto. Thread-safe.
class GenerationService final : public v1::GenerationService::Service {
 public:
  struct Deps {
    ModelProvider models;
    Engine* engine = nullptr;  // the pointers outlive the service
    CancelWatcher* cancel_watcher = nullptr;
    Metrics* metrics = nullptr;
  };
  explicit GenerationService(Deps deps) : deps_(std::move(deps)), grammars_(kGrammarCacheBytes) {}

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        v1::GenerateResponse* response) override;
  grpc::Status StreamGenerate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                              grpc::ServerWriter<v1::StreamGenerateResponse>* writer) override;
  grpc::Status Classify(grpc::ServerContext* context, const v1::ClassifyRequest* request,
                        v1::ClassifyResponse* response) override;
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override;
  grpc::Status Embed(grpc::ServerContext* context, const v1::EmbedRequest* request,
                     v1::EmbedResponse* response) override;
  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override;
  grpc::Status Detokenize(grpc::ServerContext* context, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override;

 private:
  // For each tokenizer.
  static constexpr int64_t kGrammarCacheBytes = int64_t{64} << 20;
  // The model that answers a request for `name`; see ModelProvider.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Acquire(Call& call, const std::string& name,
                                                             const std::string& key);
  // Runs a request to its end and hands out the text as it comes.
  absl::Status RunGeneration(Call& call, const v1::GenerateRequest& request, std::shared_ptr<const ServedModel> pinned,
                             const PieceFunction& on_piece);
  // The form and the draft model that a request asks for.
  absl::Status FillDecoding(Call& call, const v1::GenerateRequest& request, GenerateParams* params);
  // Whether two models' tokens are the same. Reads both vocabularies the first time.
  bool HasSameVocabulary(const ServedModel& a, const ServedModel& b) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits for what `start` asks of the engine; gives up when the caller has gone.
  template <typename Result>
  static absl::StatusOr<Result> Await(Call& call,
                                      const std::function<void(std::function<void(absl::StatusOr<Result>)>)>& start);
  absl::StatusOr<std::vector<float>> EmbedOne(Call& call, std::shared_ptr<const ServedModel> model,
                                              std::vector<int32_t> tokens);
  // PromptTokens, with examples retrieved where the model's prompt has them.
  absl::StatusOr<std::vector<int32_t>> Tokens(Call& call, const v1::Prompt& prompt,
                                              const std::shared_ptr<const ServedModel>& model, int64_t answer_tokens);
  absl::StatusOr<ScoreResult> ScoreFor(Call& call, ScoreParams params);

  absl::Status DoClassify(Call& call, const v1::ClassifyRequest& request, v1::ClassifyResponse* response);
  absl::Status DoEmbed(Call& call, const v1::EmbedRequest& request, v1::EmbedResponse* response);
  absl::Status DoScore(Call& call, const v1::ScoreRequest& request, v1::ScoreResponse* response);

  const Deps deps_;
  GrammarCompilers grammars_;
  absl::Mutex mutex_;
  std::map<std::pair<uint64_t, uint64_t>, bool> same_vocabulary_ ABSL_GUARDED_BY(mutex_);  // by uids
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_GENERATION_SERVICE_H_
