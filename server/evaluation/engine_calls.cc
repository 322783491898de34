#include "server/evaluation/engine_calls.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"

namespace attune {
namespace {

constexpr size_t kWindow = 64;  // requests under way at once
constexpr int64_t kEmbeddedAtOnce = 16;
constexpr absl::Duration kPoll = absl::Milliseconds(100), kRetry = absl::Milliseconds(50);

absl::Status Stopped() { return absl::CancelledError("The work was stopped."); }

// Where the engine leaves what it was asked for. Shared with its callback, which may come after the work was given up.
template <typename Result>
struct Pending {
  absl::Notification done;
  absl::StatusOr<Result> result = absl::UnknownError("not yet");
};

template <typename Result>
std::function<void(absl::StatusOr<Result>)> LeaveIn(std::shared_ptr<Pending<Result>> pending) {
  return [pending = std::move(pending)](absl::StatusOr<Result> result) {
    pending->result = std::move(result);
    pending->done.Notify();
  };
}

std::shared_ptr<Pending<ScoreResult>> Submit(Engine* engine, const ScoreParams& params) {
  auto pending = std::make_shared<Pending<ScoreResult>>();
  engine->ScoreAsync(params, LeaveIn(pending));
  return pending;
}

std::shared_ptr<Pending<EmbedResult>> Submit(Engine* engine, const EmbedParams& params) {
  auto pending = std::make_shared<Pending<EmbedResult>>();
  engine->EmbedAsync(params, LeaveIn(pending));
  return pending;
}

template <typename Result, typename Params>
absl::StatusOr<Result> Await(Engine* engine, const Params& params, std::shared_ptr<Pending<Result>> pending,
                             const std::function<bool()>& go_on) {
  while (true) {
    while (!pending->done.WaitForNotificationWithTimeout(kPoll)) {
      if (!go_on()) return Stopped();
    }
    if (pending->result.ok() || !IsQueueFull(pending->result.status())) return std::move(pending->result);
    absl::SleepFor(kRetry);
    if (!go_on()) return Stopped();
    pending = Submit(engine, params);
  }
}

absl::StatusOr<std::unique_ptr<Generation>> Begin(Engine* engine, const GenerateParams& params,
                                                  const std::function<bool()>& go_on) {
  while (true) {
    absl::StatusOr<std::unique_ptr<Generation>> generation = engine->Generate(params);
    if (generation.ok() || !IsQueueFull(generation.status())) return generation;
    absl::SleepFor(kRetry);
    if (!go_on()) return Stopped();
  }
}

absl::StatusOr<std::vector<int32_t>> Written(Generation* generation, const std::function<bool()>& go_on) {
  std::vector<int32_t> tokens;
  GenerationUpdate update;
  while (generation->Next(&update)) {
    if (update.has_token) tokens.push_back(update.token.id);
    if (!go_on()) return Stopped();
  }
  if (!generation->status().ok()) return generation->status();
  if (update.finish == FinishReason::kCancelled) return absl::CancelledError("The server stopped the generation.");
  return tokens;
}

}  // namespace

absl::Status ScoreAll(Engine* engine, const std::vector<ScoreParams>& all, const GoOn& go_on,
                      const std::function<void(size_t i, const ScoreResult& result)>& on_result) {
  std::vector<std::shared_ptr<Pending<ScoreResult>>> pending(all.size());
  const int64_t total = static_cast<int64_t>(all.size());
  size_t submitted = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    for (; submitted < all.size() && submitted < i + kWindow; ++submitted) {
      pending[submitted] = Submit(engine, all[submitted]);
    }
    const auto still = [&, done = static_cast<int64_t>(i)] { return go_on(done, total); };
    ATTUNE_ASSIGN_OR_RETURN(const ScoreResult result, Await(engine, all[i], std::move(pending[i]), still));
    on_result(i, result);
  }
  return absl::OkStatus();
}

absl::Status GenerateAll(Engine* engine, const std::vector<GenerateParams>& all, const GoOn& go_on,
                         const std::function<void(size_t i, const std::vector<int32_t>& tokens)>& on_result) {
  std::vector<std::unique_ptr<Generation>> running(all.size());
  const int64_t total = static_cast<int64_t>(all.size());
  size_t begun = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const auto still = [&, done = static_cast<int64_t>(i)] { return go_on(done, total); };
    for (; begun < all.size() && begun < i + kWindow; ++begun) {
      ATTUNE_ASSIGN_OR_RETURN(running[begun], Begin(engine, all[begun], still));
    }
    ATTUNE_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, Written(running[i].get(), still));
    running[i].reset();
    on_result(i, tokens);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<float>>> EmbedAll(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                         const std::vector<std::vector<int32_t>>& inputs,
                                                         const GoOn& go_on) {
  std::vector<std::vector<float>> embeddings;
  const int64_t total = static_cast<int64_t>(inputs.size());
  EmbedParams params;
  params.model = std::move(model);
  for (int64_t i = 0; i < total; i += kEmbeddedAtOnce) {
    params.inputs.assign(inputs.begin() + i, inputs.begin() + std::min(total, i + kEmbeddedAtOnce));
    ATTUNE_ASSIGN_OR_RETURN(EmbedResult result,
                            Await(engine, params, Submit(engine, params), [&] { return go_on(i, total); }));
    for (std::vector<float>& embedding : result.embeddings) embeddings.push_back(std::move(embedding));
  }
  return embeddings;
}

}  // namespace attune
