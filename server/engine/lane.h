#ifndef ATTUNE_SERVER_ENGINE_LANE_H_
#define ATTUNE_SERVER_ENGINE_LANE_H_

#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/clock.h"
#include "server/device/arbiter.h"
#include "server/device/memory_budget.h"
#include "server/engine/batch_scheduler.h"
#include "server/engine/gpu_runner.h"
#include "server/engine/gpu_step.h"
#include "server/engine/kv_pages.h"
#include "server/engine/model_runner.h"
#include "server/engine/page_copies.h"
#include "server/engine/prompt_logits.h"
#include "server/engine/request.h"
#include "server/engine/swap_space.h"
#include "server/model/kernels/logit_rows.h"
#include "server/model/own_stream.h"

namespace attune {

// The models of one shape: they share a KV cache and its scheduler. Used on the
// engine's thread only.
class Lane {
 public:
  static constexpr int64_t kPageTokens = 16;

  // Takes the cache's memory from the arbiter's budget: RESOURCE_EXHAUSTED
  // (OUT_OF_MEMORY_BUDGET) if there is none. Host memory for pages that are given up it takes from `swap_memory`
  // as it is needed, on the CPU from the arbiter's budget besides, and goes without where there is none. All pointers
  // must outlive the lane.
  static absl::StatusOr<std::unique_ptr<Lane>> Make(const BaseModel& base, const EngineOptions& options,
                                                    Arbiter* arbiter, MemoryBudget* swap_memory,
                                                    PromptLogits* prompt_logits, const Clock* clock);
  ~Lane();
  // Whether a model's sequences belong here.
  bool Fits(const BaseModel& base) const;

  void Add(std::unique_ptr<Task> task);
  // Lets `child` go on from the beginning that `parent` has computed.
  void AddFork(const Task& parent, std::unique_ptr<Task> child);
  // Takes a task out. It stays in memory, marked as removed, until Bury: others may still look at it.
  void Remove(Task* task);
  void Bury() { removed_.clear(); }
  std::vector<Task*> tasks() const;
  bool empty() const { return tasks_.empty() && !in_flight_; }

  // A task with the logits of its last tokens, guessed ones included: rows of `vocab` floats, valid
  // until the next step. Row i is what follows the token at `first_position` + i.
  struct Output {
    Task* task;        // null once it has been removed
    int64_t computed;  // tokens, in this step
    int64_t first_position;
    int64_t rows;
    const float* logits;  // null if the device has chosen
    int64_t vocab;
    bool ends_input = false;  // nothing of the sequence was left to compute
    bool ends_prompt = false;  // of an answer, in which nothing is generated yet
    // Of a continuation that the device has scored: its tokens' log-probabilities, and whether each was the likeliest.
    std::vector<std::pair<float, bool>> scored;
    TokenInfo device_choice;  // the token after the last row, where the device has chosen it
    bool is_refused = false;  // that token, by the answer's form, in which nothing could go on
    bool is_over = false;     // the answer's form is complete after what was chosen
    // Set by ChooseTokens:
    std::vector<TokenInfo> chosen;                         // an answer's or a draft's next tokens
    std::vector<std::pair<int32_t, float>> likeliest;      // a beam's tokens with their log-probabilities
    std::vector<LogitRow> summaries;                       // of the rows, where a task is scored
  };
  struct StepResult {
    std::vector<Output> outputs;
    std::vector<at::Tensor> alive;  // own the logits, and so do these
    std::vector<PromptLogits::Row> alive_rows;
    std::vector<Task*> preempted;
    // How long after its time the step began, if training could put it off; else negative.
    absl::Duration lateness = -absl::InfiniteDuration();
    int64_t prefix_queries = 0, prefix_hits = 0;  // tokens let in; of those in the prefix cache
    int64_t known_prompts = 0;                    // outputs that needed no pass
    // Of the preempted ones, how many had their pages copied to the host; bytes that were, and that came back.
    int64_t swapped_out = 0, bytes_out = 0, bytes_in = 0;
    // Tasks whose forward pass failed, and why; none of them is among the outputs.
    std::vector<Task*> failed;
    absl::Status error;
  };
  // One step under one turn on the device: a forward pass for each base model that
  // has sequences in it. On a GPU the next step may be launched before the last one's results
  // are waited for, if `may_run_ahead`: then these are what is returned, and the turn is kept.
  StepResult Step(bool may_run_ahead);
  // Whether it kept the turn. No other lane may step before it has stepped without running ahead.
  bool has_turn() const { return in_flight_ != nullptr; }

  const KvPages& pages() const { return pages_; }
  int64_t running() const { return scheduler_.running(); }
  int64_t waiting() const { return scheduler_.waiting(); }
  // Host memory that holds pages of sequences which gave theirs up.
  int64_t swap_bytes() const { return page_copies_ ? swap_.used() * page_copies_->slot_bytes() : 0; }

 private:
  // A forward pass of one base model.
  struct Pass {
    std::shared_ptr<const BaseModel> base;
    std::vector<ForwardItem> items;
    std::vector<Output> outputs;
    std::unique_ptr<GpuStep> step;  // on a GpuRunner
    bool is_plain = false;                  // by ForwardBatch though there is a GpuRunner, which has one embedding and head
  };
  using Passes = std::vector<Pass>;

  Lane(const BaseModel& base, const EngineOptions& options, Arbiter* arbiter, MemoryBudget* swap_memory,
       PromptLogits* prompt_logits, const Clock* clock);
  absl::Status MakeTensors(const BaseModel& base, const EngineOptions& options);
  // Takes memory for a piece more of swap space, and says for how many slots; 0 if there is none.
  int64_t GrowSwap();
  // Does the plan's copies; if they fail, files its tasks as failed, and nothing is left to be done in `passes`.
  void CopySwapped(const BatchScheduler::Plan& plan, Passes* passes, StepResult* result);
  // Files the outputs of those whose next token is chosen from what is known.
  void Begin(const std::vector<Sequence*>& begun, StepResult* result);
  // Whether what follows an answer's prompt is known, and it is to begin with that.
  bool KnowsEnd(const Sequence& sequence);
  // Keeps the output's last row, which follows a prompt.
  void KeepPromptLogits(const Output& output, std::vector<float> row);
  Passes Divide(const BatchScheduler::Plan& plan) const;
  bool IsPlain(const ServedModel& model) const;
  ForwardItem ItemFor(const Task& task, int64_t tokens) const;
  // Computes a pass and files its outputs.
  void Run(Pass* pass, StepResult* result);
  // Sends a pass to the device; false if that failed, which is filed.
  bool Launch(Pass* pass, StepResult* result);
  // Has the tokens chosen that wait for it to be known what the answers' forms allow: after the tokens before them
  // are collected, and before the next pass is launched.
  void ChooseInForms(Passes* passes, StepResult* result);
  // Has forms take the tokens that the device chose for their answers.
  static void AcceptInForms(Pass* pass);
  // Waits for launched passes and files their outputs. Forms take the tokens that the device chose for their answers.
  void Collect(Passes* passes, StepResult* result);
  // Files a task, or the pass's tasks, as failed, and drops what else there is of them.
  void Fail(Task* task, const absl::Status& status, StepResult* result);
  void Fail(const Pass& pass, const absl::Status& status, StepResult* result);
  // What is on its way for the task is nobody's any more.
  static void Forget(const Task* task, Passes* passes);
  bool MayRunAhead(const Passes& passes) const;
  // How long after the last step this one may begin: the fuller the lane, the less, so that it keeps up
  // with what is asked. Prompts may wait, too: several that are read together cost little more than one.
  absl::Duration Patience() const;
  void NoteStep(absl::Duration step);

  const ModelConfig config_;
  const ComputeTarget target_;
  Arbiter* const arbiter_;
  const Clock* const clock_;
  MemoryBudget::Reservation memory_;
  KvPages pages_;
  MemoryBudget* const swap_memory_;
  std::vector<MemoryBudget::Reservation> swap_reserved_;
  bool swap_refused_ = false;  // there was no host memory for more
  SwapSpace swap_;
  PromptLogits* const prompt_logits_;
  const bool knows_prompts_;  // keeps what follows them
  BatchScheduler scheduler_;
  KvCache cache_;
  std::unique_ptr<PageCopies> page_copies_;  // null where there are no kernels for it: then pages are not swapped
  std::unique_ptr<OwnStream> stream_;  // on a GPU
  std::unique_ptr<GpuRunner> gpu_;     // null: ForwardBatch serves
  std::unique_ptr<Passes> in_flight_;  // launched by the last step, not collected
  Arbiter::Turn turn_;                 // held while something is in flight
  int64_t ahead_ = 0;                  // steps since the turn was taken
  const absl::Duration target_interval_;
  const int64_t max_sequences_;
  absl::Duration step_;                // about the longest that steps have taken lately, prompts included
  std::unordered_map<const Sequence*, std::unique_ptr<Task>> tasks_;
  std::vector<std::unique_ptr<Task>> removed_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_LANE_H_
