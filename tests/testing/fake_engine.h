#ifndef ATTUNE_TESTS_TESTING_FAKE_ENGINE_H_
#define ATTUNE_TESTS_TESTING_FAKE_ENGINE_H_

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "server/engine/engine.h"

namespace attune {

// An engine that answers what a test scripted. Thread-safe; scripts are set before use.
class FakeEngine final : public Engine {
 public:
  struct Answer {
    std::vector<int32_t> tokens;
    FinishReason finish = FinishReason::kStop;
    bool hangs = false;  // after its tokens, until it is stopped or cancelled
    float logprob = -0.5f;  // of each token
  };
  using Generator = std::function<absl::StatusOr<Answer>(const GenerateParams& params, int index)>;
  using Scorer = std::function<ScoredContinuation(const ScoreParams& params, const std::vector<int32_t>& tokens)>;

  // The bytes of a text are FakeTokenizer's tokens.
  static Answer Say(const std::string& text) {
    Answer answer;
    for (unsigned char c : text) answer.tokens.push_back(c);
    return answer;
  }
  // Each token with the same log-probability.
  static ScoredContinuation Uniform(const std::vector<int32_t>& tokens, double logprob, bool greedy) {
    ScoredContinuation out;
    out.logprob = logprob * tokens.size();
    out.is_greedy = greedy;
    for (int32_t id : tokens) out.tokens.push_back({id, static_cast<float>(logprob), {}});
    out.greedy.assign(tokens.size(), greedy);
    return out;
  }

  void SetGenerator(Generator generator) { generator_ = std::move(generator); }
  void SetScorer(Scorer scorer) { scorer_ = std::move(scorer); }
  // Scores are never answered.
  void HoldScores() { hold_scores_ = true; }
  // Nor are embeddings.
  void HoldEmbeddings() { hold_embeddings_ = true; }
  // Blocks until a request is held so; false if none was within a minute.
  bool WaitForHeld() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(this, &FakeEngine::HasHeld), absl::Minutes(1));
  }
  // Embeddings are refused with this.
  void FailEmbeddings(absl::Status status) { embed_status_ = std::move(status); }
  // The next `count` requests of either kind are refused with QUEUE_FULL.
  void RefuseNext(int count) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    refusals_ = count;
  }

  absl::StatusOr<std::unique_ptr<Generation>> Generate(GenerateParams params) override;
  void ScoreAsync(ScoreParams params, std::function<void(absl::StatusOr<ScoreResult>)> done) override;
  // Each input's length, and a one.
  void EmbedAsync(EmbedParams params, std::function<void(absl::StatusOr<EmbedResult>)> done) override;
  EngineStats stats() const override { return {}; }
  void Shutdown(absl::Duration) override {}

  GenerateParams last_generate() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return last_generate_;
  }
  ScoreParams last_score() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return last_score_;
  }
  EmbedParams last_embed() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return last_embed_;
  }
  // All inputs so far, in order.
  std::vector<std::vector<int32_t>> embedded() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return embedded_;
  }
  int cancelled() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return cancelled_;
  }
  std::vector<int> stopped_answers() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return stopped_answers_;
  }

 private:
  class FakeGeneration;
  // OK, or one of the refusals that a test asked for.
  absl::Status Admit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasHeld() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !held_.empty() || !held_embeddings_.empty(); }

  Generator generator_ = [](const GenerateParams&, int) { return Say("ok"); };
  Scorer scorer_ = [](const ScoreParams&, const std::vector<int32_t>& tokens) { return Uniform(tokens, -1, true); };
  bool hold_scores_ = false, hold_embeddings_ = false;
  absl::Status embed_status_;
  mutable absl::Mutex mutex_;
  GenerateParams last_generate_ ABSL_GUARDED_BY(mutex_);
  ScoreParams last_score_ ABSL_GUARDED_BY(mutex_);
  EmbedParams last_embed_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::vector<int32_t>> embedded_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void(absl::StatusOr<EmbedResult>)>> held_embeddings_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void(absl::StatusOr<ScoreResult>)>> held_ ABSL_GUARDED_BY(mutex_);
  int refusals_ ABSL_GUARDED_BY(mutex_) = 0;
  int cancelled_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<int> stopped_answers_ ABSL_GUARDED_BY(mutex_);
};

// Hands out one token of each answer in turn, as a batch does.
class FakeEngine::FakeGeneration final : public Generation {
 public:
  FakeGeneration(FakeEngine* engine, std::vector<Answer> answers) : engine_(engine), answers_(std::move(answers)) {
    at_.assign(answers_.size(), 0);
    done_.assign(answers_.size(), false);
  }

  bool Next(GenerationUpdate* update) override ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    while (true) {
      if (cancelled_) return false;
      bool all_done = true;
      for (size_t tried = 0; tried < answers_.size(); ++tried) {
        const size_t i = turn_++ % answers_.size();
        if (done_[i]) continue;
        all_done = false;
        if (Advance(i, update)) return true;
      }
      if (all_done) return false;
      changed_.Wait(&mutex_);
    }
  }

  void StopAnswer(int index) override ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      absl::MutexLock lock(&mutex_);
      done_[index] = true;
      changed_.SignalAll();
    }
    absl::MutexLock lock(&engine_->mutex_);
    engine_->stopped_answers_.push_back(index);
  }

  void Cancel() override ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(cancelled_, true)) return;
      changed_.SignalAll();
    }
    absl::MutexLock lock(&engine_->mutex_);
    ++engine_->cancelled_;
  }

  absl::Status status() const override { return absl::OkStatus(); }
  RequestTimings timings() const override { return {0.25, 0.5, 1.5, 2, 20, 12}; }

 private:
  // False if the answer hangs.
  bool Advance(size_t i, GenerationUpdate* update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Answer& answer = answers_[i];
    *update = GenerationUpdate();
    update->index = static_cast<int>(i);
    if (at_[i] < answer.tokens.size()) {
      update->has_token = true;
      update->token = {answer.tokens[at_[i]++], answer.logprob, {{'x', -1.5f}}};
      return true;
    }
    if (answer.hangs) return false;
    update->finish = answer.finish;
    done_[i] = true;
    return true;
  }

  FakeEngine* const engine_;
  const std::vector<Answer> answers_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::vector<size_t> at_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> done_ ABSL_GUARDED_BY(mutex_);
  size_t turn_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

inline absl::Status FakeEngine::Admit() {
  if (refusals_ == 0) return absl::OkStatus();
  --refusals_;
  return MakeError(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "Too many wait.");
}

inline absl::StatusOr<std::unique_ptr<Generation>> FakeEngine::Generate(GenerateParams params) {
  absl::MutexLock lock(&mutex_);
  last_generate_ = params;
  if (absl::Status status = Admit(); !status.ok()) return status;
  std::vector<Answer> answers;
  for (int i = 0; i < params.n; ++i) {
    absl::StatusOr<Answer> answer = generator_(params, i);
    if (!answer.ok()) return answer.status();
    answers.push_back(*std::move(answer));
  }
  return std::unique_ptr<Generation>(std::make_unique<FakeGeneration>(this, std::move(answers)));
}

inline void FakeEngine::ScoreAsync(ScoreParams params, std::function<void(absl::StatusOr<ScoreResult>)> done) {
  ScoreResult result;
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    last_score_ = params;
    status = Admit();
    if (hold_scores_) {
      held_.push_back(std::move(done));
      return;
    }
  }
  if (!status.ok()) return done(status);
  for (const auto& tokens : params.continuations) result.continuations.push_back(scorer_(params, tokens));
  result.timings = {0.25, 0.5, 1.5};
  done(std::move(result));
}

inline void FakeEngine::EmbedAsync(EmbedParams params, std::function<void(absl::StatusOr<EmbedResult>)> done) {
  EmbedResult result;
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    last_embed_ = params;
    status = embed_status_.ok() ? Admit() : embed_status_;
    if (hold_embeddings_) {
      held_embeddings_.push_back(std::move(done));
      return;
    }
    if (status.ok()) embedded_.insert(embedded_.end(), params.inputs.begin(), params.inputs.end());
  }
  if (!status.ok()) return done(status);
  for (const auto& input : params.inputs) result.embeddings.push_back({static_cast<float>(input.size()), 1});
  result.timings = {0.25, 1.5, 1.5};
  done(std::move(result));
}

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_FAKE_ENGINE_H_
