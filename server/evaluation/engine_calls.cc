#include "server/evaluation/engine_calls.h"

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
constexpr absl::Duration kPoll = absl::Milliseconds(100), kRetry = absl::Milliseconds(50);

absl::Status Stopped() { return absl::CancelledError("The work was stopped."); }

// Where the engine leaves a score. Shared with its callback, which may come after the work was given up.
struct Pending {
  absl::Notification done;
  absl::StatusOr<ScoreResult> result = absl::UnknownError("not yet");
};

std::shared_ptr<Pending> Submit(Engine* engine, const ScoreParams& params) {
  auto pending = std::make_shared<Pending>();
  engine->ScoreAsync(params, [pending](absl::StatusOr<ScoreResult> result) {
    pending->result = std::move(result);
    pending->done.Notify();
  });
  return pending;
}

absl::StatusOr<ScoreResult> Await(Engine* engine, const ScoreParams& params, std::shared_ptr<Pending> pending,
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
  std::vector<std::shared_ptr<Pending>> pending(all.size());
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

}  // namespace attune
