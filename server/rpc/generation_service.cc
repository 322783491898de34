#include "server/rpc/generation_service.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "common/utf8.h"
#include "server/data/template.h"
#include "server/data/text_encoder.h"
#include "server/evaluation/calibration.h"
#include "server/evaluation/evaluator.h"
#include "server/rpc/check.h"
#include "server/rpc/convert_generation.h"
#include "server/rpc/prompt.h"
#include "server/rpc/route_key.h"

namespace attune {
namespace {

constexpr absl::string_view kService = "GenerationService";
constexpr int kMostContinuations = 1000, kMostInputs = 256;
constexpr absl::Duration kPoll = absl::Milliseconds(50);
constexpr size_t kMostPairs = 1000;
constexpr char kDefaultChoiceTemplate[] = " {{label}}";

// Room that a template's prompt leaves when it has to be cut: what was asked for, but
// at most a quarter of the length, since the answer's true length is not known.
int64_t ReservedAnswerTokens(const v1::GenerateRequest& request, const ServedModel& model) {
  int64_t limit = model.context_tokens();
  if (model.info.max_sequence_tokens > 0) limit = std::min(limit, model.info.max_sequence_tokens);
  const int64_t most = std::max<int64_t>(1, limit / 4);
  return request.max_tokens() > 0 ? std::min<int64_t>(request.max_tokens(), most) : most;
}

absl::Status CheckChoices(const v1::ClassifyRequest& request) {
  if (request.choices_size() < 2 || request.choices_size() > kMostContinuations) {
    return InvalidField("choices", absl::StrCat("must be 2 to ", kMostContinuations));
  }
  std::set<std::string> seen;
  for (int i = 0; i < request.choices_size(); ++i) {
    if (request.choices(i).empty()) return InvalidField(absl::StrCat("choices[", i, "]"), "must not be empty");
    if (!seen.insert(request.choices(i)).second) {
      return InvalidField(absl::StrCat("choices[", i, "]"), "must be distinct from the others");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> RenderChoices(const v1::ClassifyRequest& request, const ServedModel& model) {
  PromptTemplate choice = *PromptTemplate::Parse(kDefaultChoiceTemplate);
  if (!request.choice_template().empty()) {
    absl::StatusOr<PromptTemplate> given = PromptTemplate::Parse(request.choice_template());
    if (!given.ok()) return InvalidField("choice_template", given.status().message(), "BAD_TEMPLATE");
    if (given->variables().size() != 1) return InvalidField("choice_template", "must have exactly one variable");
    choice = *std::move(given);
  } else {
    absl::StatusOr<PromptTemplate> tuned = PromptTemplate::Parse(model.info.completion_template);
    if (tuned.ok() && tuned->variables().size() == 1) choice = *std::move(tuned);
  }
  std::vector<std::string> out;
  for (const std::string& label : request.choices()) {
    ATTUNE_ASSIGN_OR_RETURN(std::string text, choice.Render({{choice.variables()[0], label}}));
    out.push_back(std::move(text));
  }
  return out;
}

// What the answer was chosen by, if it was.
double ScoreOf(const v1::GenerateRequest& request, const AnswerBuilder& answer) {
  return request.best_of() > 0 ? answer.mean_logprob() : answer.score();
}

// An error about a prompt, said of the input that it is.
absl::Status AtInput(int index, const absl::Status& status) {
  const std::string name = absl::StrCat("inputs[", index, "]");
  const auto renamed = [&](absl::string_view text) {
    return absl::ConsumePrefix(&text, "prompt") ? absl::StrCat(name, text) : std::string(text);
  };
  ErrorDetails details = GetErrorDetails(status);
  if (details.reason.empty()) return status;
  for (FieldViolation& violation : details.violations) violation.field = renamed(violation.field);
  return MakeError(status.code(), details.reason, renamed(status.message()), details.metadata, details.violations);
}

int64_t Longest(const std::vector<std::vector<int32_t>>& sequences) {
  size_t most = 0;
  for (const auto& tokens : sequences) most = std::max(most, tokens.size());
  return static_cast<int64_t>(most);
}

// A text prompt's offsets are its own template's: they say nothing of another prompt or another way to write
// labels.
std::vector<double> CalibrationOf(const v1::ClassifyRequest& request, const ServedModel& model) {
  if (!request.prompt().has_template_input() || !request.choice_template().empty()) return {};
  return OffsetsFor(model.label_offsets, {request.choices().begin(), request.choices().end()});
}

void FillChoices(const v1::ClassifyRequest& request, const ScoreResult& result, const std::vector<double>& offsets,
                 v1::ClassifyResponse* response) {
  const std::vector<double> scores = LabelScores(result.continuations, offsets);
  const double most = scores[Likeliest(scores)];
  double sum = 0;
  for (double score : scores) sum += std::exp(score - most);
  std::vector<size_t> order(scores.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  for (size_t i : order) {
    auto* choice = response->add_choices();
    choice->set_label(request.choices(static_cast<int>(i)));
    choice->set_logprob(result.continuations[i].logprob);
    choice->set_probability(std::exp(scores[i] - most) / sum);
  }
  response->set_label(response->choices(0).label());
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ServedModel>> GenerationService::Acquire(Call& call, const std::string& name,
                                                                              const std::string& key) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ParseName(kModels, name, "model"));
  call.Note("model", name);
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, deps_.models(id, key));
  if (model->info.id != id) call.Note("answered_by", ModelName(*model));
  return model;
}

bool GenerationService::HasSameVocabulary(const ServedModel& a, const ServedModel& b) {
  if (a.tokenizer_view == b.tokenizer_view) return true;
  const std::pair<uint64_t, uint64_t> key(a.uid, b.uid);
  {
    absl::MutexLock lock(&mutex_);
    const auto known = same_vocabulary_.find(key);
    if (known != same_vocabulary_.end()) return known->second;
  }
  bool same = a.tokenizer().vocab_size() == b.tokenizer().vocab_size();
  for (int32_t id = 0; same && id < a.tokenizer().vocab_size(); ++id) {
    same = a.tokenizer().TokenBytes(id) == b.tokenizer().TokenBytes(id);
  }
  absl::MutexLock lock(&mutex_);
  if (same_vocabulary_.size() >= kMostPairs) same_vocabulary_.clear();
  return same_vocabulary_[key] = same;
}

absl::Status GenerationService::FillDecoding(Call& call, const v1::GenerateRequest& request, GenerateParams* params) {
  const ServedModel& model = *params->model;
  ATTUNE_ASSIGN_OR_RETURN(const std::optional<AnswerForm> form, ToAnswerForm(request));
  if (form) {
    absl::StatusOr<std::shared_ptr<const Grammar>> grammar = grammars_.For(model.base, model.tokenizer())->Compile(*form);
    if (!grammar.ok()) return InvalidField("structured_output", grammar.status().message(), "BAD_ANSWER_FORM");
    params->grammar = *std::move(grammar);
  }
  const std::string& draft = request.speculative().draft_model();
  if (draft.empty()) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ParseName(kModels, draft, "speculative.draft_model"));
  ATTUNE_ASSIGN_OR_RETURN(params->draft_model, deps_.models(id, RouteKey(request)));
  call.Note("draft_model", draft);
  if (HasSameVocabulary(model, *params->draft_model)) return absl::OkStatus();
  return InvalidField("speculative.draft_model", "must have the same vocabulary as the model");
}

absl::Status GenerationService::RunGeneration(Call& call, const v1::GenerateRequest& request,
                                              std::shared_ptr<const ServedModel> pinned,
                                              const PieceFunction& on_piece) {
  const ServedModel& model = *pinned;
  ATTUNE_ASSIGN_OR_RETURN(GenerateParams params, ToGenerateParams(request, model.generation, model.tokenizer_view->vocab_size()));
  params.model = pinned;
  ATTUNE_RETURN_IF_ERROR(FillDecoding(call, request, &params));
  ATTUNE_ASSIGN_OR_RETURN(params.prompt, Tokens(call, request.prompt(), pinned, ReservedAnswerTokens(request, model)));
  const int64_t prompt_tokens = static_cast<int64_t>(params.prompt.size());
  ATTUNE_RETURN_IF_ERROR(CheckFits(prompt_tokens, 1, model));
  ATTUNE_ASSIGN_OR_RETURN(params.max_tokens, MaxTokens(request, prompt_tokens, model.context_tokens()));
  params.deadline = call.deadline();

  std::vector<AnswerBuilder> answers;
  for (int i = 0; i < params.n; ++i) {
    answers.emplace_back(pinned->tokenizer_view, std::vector<std::string>(request.stop().begin(), request.stop().end()),
                         request.logprobs() || request.top_logprobs() > 0);
  }
  BestAnswers best(request.best_of() > 0 ? std::max(1, request.n()) : 0, params.n);
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Generation> generation, deps_.engine->Generate(std::move(params)));
  CancelWatcher::Watch watch(
      deps_.cancel_watcher, [&call] { return call.cancelled(); }, [&generation] { generation->Cancel(); });

  // The request's last piece waits for the timings.
  size_t unfinished = answers.size();
  int last_index = 0;
  std::string last_text;
  GenerationUpdate update;
  while (generation->Next(&update)) {
    AnswerBuilder& answer = answers[update.index];
    if (answer.finished()) continue;
    std::string text = answer.Add(update);
    if (answer.stop_found()) generation->StopAnswer(update.index);
    if (best.chooses()) {
      best.Add(update.index, std::move(text));
      unfinished -= answer.finished();
    } else if (answer.finished() && --unfinished == 0) {
      last_index = update.index;
      last_text = std::move(text);
    } else if (!on_piece(update.index, std::move(text), answer, nullptr)) {
      return call.CancelledStatus();
    }
    update = GenerationUpdate();
  }
  ATTUNE_RETURN_IF_ERROR(generation->status());
  if (call.cancelled()) return call.CancelledStatus();
  if (unfinished > 0) return absl::InternalError("The engine ended a request before its answers.");
  int64_t made = 0;
  for (const AnswerBuilder& answer : answers) made += static_cast<int64_t>(answer.token_ids().size());
  const v1::Usage usage = ToUsage(CountedPromptTokens(prompt_tokens, *pinned), made, generation->timings());
  if (best.chooses()) return best.HandOut(&answers, usage, on_piece) ? absl::OkStatus() : call.CancelledStatus();
  if (!on_piece(last_index, std::move(last_text), answers[last_index], &usage)) return call.CancelledStatus();
  return absl::OkStatus();
}

grpc::Status GenerationService::Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                                         v1::GenerateResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "Generate", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model,
                            Acquire(call, request->model(), RouteKey(*request)));
    for (int i = 0; i < std::clamp(request->n(), 1, 16); ++i) response->add_completions()->set_index(i);
    response->set_model(ModelName(*model));
    return RunGeneration(
        call, *request, model, [&](int index, std::string text, AnswerBuilder& answer, const auto* usage) {
          v1::Completion* completion = response->mutable_completions(index);
          completion->mutable_text()->append(text);
          for (v1::TokenLogprob& logprob : answer.TakeLogprobs()) *completion->add_logprobs() = std::move(logprob);
          if (answer.finished()) {
            completion->set_finish_reason(ToProto(answer.finish()));
            completion->set_score(ScoreOf(*request, answer));
            completion->mutable_token_ids()->Assign(answer.token_ids().begin(), answer.token_ids().end());
          }
          if (usage != nullptr) *response->mutable_usage() = *usage;
          return true;
        });
  });
}

grpc::Status GenerationService::StreamGenerate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                                               grpc::ServerWriter<v1::StreamGenerateResponse>* writer) {
  return ServeCall(context, deps_.metrics, kService, "StreamGenerate", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model,
                            Acquire(call, request->model(), RouteKey(*request)));
    bool is_first = true;
    return RunGeneration(call, *request, model,
                         [&](int index, std::string text, AnswerBuilder& answer, const auto* usage) {
                           if (text.empty() && !answer.finished()) return true;
                           v1::StreamGenerateResponse piece;
                           if (std::exchange(is_first, false)) piece.set_model(ModelName(*model));
                           piece.set_index(index);
                           piece.set_text(std::move(text));
                           if (answer.finished()) {
                             piece.set_finish_reason(ToProto(answer.finish()));
                             piece.set_score(ScoreOf(*request, answer));
                           }
                           for (v1::TokenLogprob& logprob : answer.TakeLogprobs())
                             *piece.add_logprobs() = std::move(logprob);
                           if (usage != nullptr) *piece.mutable_usage() = *usage;
                           return writer->Write(piece);
                         });
  });
}

template <typename Result>
absl::StatusOr<Result> GenerationService::Await(
    Call& call, const std::function<void(std::function<void(absl::StatusOr<Result>)>)>& start) {
  struct Pending {
    absl::Notification done;
    absl::StatusOr<Result> result = absl::UnknownError("not yet");
  };
  auto pending = std::make_shared<Pending>();
  start([pending](absl::StatusOr<Result> result) {
    pending->result = std::move(result);
    pending->done.Notify();
  });
  while (!pending->done.WaitForNotificationWithTimeout(kPoll)) {
    if (call.cancelled()) return call.CancelledStatus();
  }
  return std::move(pending->result);
}

absl::StatusOr<std::vector<float>> GenerationService::EmbedOne(Call& call, std::shared_ptr<const ServedModel> model,
                                                               std::vector<int32_t> tokens) {
  EmbedParams params;
  params.model = std::move(model);
  params.inputs.push_back(std::move(tokens));
  params.deadline = call.deadline();
  ATTUNE_ASSIGN_OR_RETURN(EmbedResult result, Await<EmbedResult>(call, [&](auto done) {
                            deps_.engine->EmbedAsync(std::move(params), std::move(done));
                          }));
  return std::move(result.embeddings.at(0));
}

absl::StatusOr<std::vector<int32_t>> GenerationService::Tokens(Call& call, const v1::Prompt& prompt,
                                                               const std::shared_ptr<const ServedModel>& model,
                                                               int64_t answer_tokens) {
  return PromptTokens(prompt, *model, answer_tokens,
                      [&](std::vector<int32_t> tokens) { return EmbedOne(call, model, std::move(tokens)); });
}

absl::StatusOr<ScoreResult> GenerationService::ScoreFor(Call& call, ScoreParams params) {
  params.deadline = call.deadline();
  return Await<ScoreResult>(call, [&](auto done) { deps_.engine->ScoreAsync(std::move(params), std::move(done)); });
}

absl::Status GenerationService::DoClassify(Call& call, const v1::ClassifyRequest& request,
                                           v1::ClassifyResponse* response) {
  ATTUNE_RETURN_IF_ERROR(CheckChoices(request));
  ScoreParams params;
  ATTUNE_ASSIGN_OR_RETURN(params.model, Acquire(call, request.model(), RouteKey(request.prompt())));
  const std::shared_ptr<const ServedModel> model = params.model;
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> rendered, RenderChoices(request, *model));
  params.continuations = ChoiceContinuations(model->tokenizer(), rendered);
  const int64_t longest = Longest(params.continuations);
  ATTUNE_ASSIGN_OR_RETURN(params.prompt, Tokens(call, request.prompt(), model, longest));
  const int64_t prompt_tokens = static_cast<int64_t>(params.prompt.size());
  ATTUNE_RETURN_IF_ERROR(CheckFits(prompt_tokens, longest, *model));
  ATTUNE_ASSIGN_OR_RETURN(ScoreResult result, ScoreFor(call, std::move(params)));
  FillChoices(request, result, CalibrationOf(request, *model), response);
  response->set_model(ModelName(*model));
  *response->mutable_usage() = ToUsage(CountedPromptTokens(prompt_tokens, *model), 0, result.timings);
  return absl::OkStatus();
}

grpc::Status GenerationService::Classify(grpc::ServerContext* context, const v1::ClassifyRequest* request,
                                         v1::ClassifyResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "Classify",
                   [&](Call& call) { return DoClassify(call, *request, response); });
}

absl::Status GenerationService::DoScore(Call& call, const v1::ScoreRequest& request, v1::ScoreResponse* response) {
  if (request.continuations().empty() || request.continuations_size() > kMostContinuations) {
    return InvalidField("continuations", absl::StrCat("must be 1 to ", kMostContinuations));
  }
  ScoreParams params;
  ATTUNE_ASSIGN_OR_RETURN(params.model, Acquire(call, request.model(), RouteKey(request.prompt())));
  const std::shared_ptr<const ServedModel> model = params.model;
  TextEncoder encoder(model->tokenizer_view);
  for (int i = 0; i < request.continuations_size(); ++i) {
    params.continuations.push_back(encoder.Continue(request.continuations(i), /*parse_special=*/true));
    if (params.continuations.back().empty()) {
      return InvalidField(absl::StrCat("continuations[", i, "]"), "must not be empty");
    }
  }
  const int64_t longest = Longest(params.continuations);
  ATTUNE_ASSIGN_OR_RETURN(params.prompt, Tokens(call, request.prompt(), model, longest));
  const int64_t prompt_tokens = static_cast<int64_t>(params.prompt.size());
  ATTUNE_RETURN_IF_ERROR(CheckFits(prompt_tokens, longest, *model));
  ATTUNE_ASSIGN_OR_RETURN(ScoreResult result, ScoreFor(call, std::move(params)));
  response->set_model(ModelName(*model));
  for (const ScoredContinuation& scored : result.continuations) {
    auto* score = response->add_scores();
    score->set_logprob(scored.logprob);
    score->set_is_greedy(scored.is_greedy);
    for (const TokenInfo& token : scored.tokens) *score->add_tokens() = ToProto(token, model->tokenizer());
  }
  *response->mutable_usage() = ToUsage(CountedPromptTokens(prompt_tokens, *model), 0, result.timings);
  return absl::OkStatus();
}

grpc::Status GenerationService::Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                                      v1::ScoreResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "Score",
                   [&](Call& call) { return DoScore(call, *request, response); });
}

absl::Status GenerationService::DoEmbed(Call& call, const v1::EmbedRequest& request, v1::EmbedResponse* response) {
  if (request.inputs().empty() || request.inputs_size() > kMostInputs) {
    return InvalidField("inputs", absl::StrCat("must be 1 to ", kMostInputs));
  }
  if (!v1::Pooling_IsValid(request.pooling())) return InvalidField("pooling", "must be MEAN or LAST");
  EmbedParams params;
  ATTUNE_ASSIGN_OR_RETURN(params.model, Acquire(call, request.model(), RouteKey(request)));
  const std::shared_ptr<const ServedModel> model = params.model;
  int64_t tokens = 0;
  for (int i = 0; i < request.inputs_size(); ++i) {
    absl::StatusOr<std::vector<int32_t>> input = Tokens(call, request.inputs(i), model, 0);
    if (input.ok()) {
      const absl::Status fits = CheckFits(static_cast<int64_t>(input->size()), 0, *model);
      if (!fits.ok()) input = fits;
    }
    if (!input.ok()) return AtInput(i, input.status());
    tokens += CountedPromptTokens(static_cast<int64_t>(input->size()), *model);
    params.inputs.push_back(*std::move(input));
  }
  params.pooling = request.pooling() == v1::LAST ? EmbedParams::Pooling::kLast : EmbedParams::Pooling::kMean;
  params.normalize = request.normalize();
  params.deadline = call.deadline();
  ATTUNE_ASSIGN_OR_RETURN(EmbedResult result, Await<EmbedResult>(call, [&](auto done) {
                            deps_.engine->EmbedAsync(std::move(params), std::move(done));
                          }));
  for (const std::vector<float>& values : result.embeddings) {
    response->add_embeddings()->mutable_values()->Assign(values.begin(), values.end());
  }
  response->set_model(ModelName(*model));
  *response->mutable_usage() = ToUsage(tokens, 0, result.timings);
  return absl::OkStatus();
}

grpc::Status GenerationService::Embed(grpc::ServerContext* context, const v1::EmbedRequest* request,
                                      v1::EmbedResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "Embed",
                   [&](Call& call) { return DoEmbed(call, *request, response); });
}

grpc::Status GenerationService::Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                                         v1::TokenizeResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "Tokenize", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model,
                            Acquire(call, request->model(), RouteKey(request->prompt())));
    response->set_model(ModelName(*model));
    ATTUNE_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, Tokens(call, request->prompt(), model, 0));
    for (int32_t token : tokens) {
      response->add_token_ids(token);
      response->add_pieces(ReplaceBrokenUtf8(model->tokenizer().TokenBytes(token)));
    }
    return absl::OkStatus();
  });
}

grpc::Status GenerationService::Detokenize(grpc::ServerContext* context, const v1::DetokenizeRequest* request,
                                           v1::DetokenizeResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "Detokenize", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, Acquire(call, request->model(), ""));
    response->set_model(ModelName(*model));
    ATTUNE_RETURN_IF_ERROR(CheckTokenIds(request->token_ids(), model->tokenizer(), "token_ids"));
    const std::vector<int32_t> ids(request->token_ids().begin(), request->token_ids().end());
    response->set_text(model->tokenizer().Decode(ids, /*skip_special=*/false));
    return absl::OkStatus();
  });
}

}  // namespace attune
