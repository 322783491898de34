#ifndef ATTUNE_SERVER_ENGINE_LANE_H_
#define ATTUNE_SERVER_ENGINE_LANE_H_

#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/device/arbiter.h"
#include "server/engine/batch_scheduler.h"
#include "server/engine/kv_pages.h"
#include "server/engine/model_runner.h"
#include "server/engine/request.h"

namespace attune {

// The models of one shape: they share a KV cache and its scheduler. Used on the
// engine's thread only.
class Lane {
 public:
  static constexpr int64_t kPageTokens = 16;

  // Takes the cache's memory from the arbiter's budget: RESOURCE_EXHAUSTED
  // (OUT_OF_MEMORY_BUDGET) if there is none.
  static absl::StatusOr<std::unique_ptr<Lane>> Make(const BaseModel& base, const EngineOptions& options,
                                                    Arbiter* arbiter);
  // Whether a model's sequences belong here.
  bool Fits(const BaseModel& base) const;

  void Add(std::unique_ptr<Task> task);
  // Lets `child` go on from the beginning that `parent` has computed.
  void AddFork(const Task& parent, std::unique_ptr<Task> child);
  void Remove(Task* task);
  std::vector<Task*> tasks() const;
  bool empty() const { return tasks_.empty(); }

  // A task with the logits of its last tokens: rows of `vocab` floats, valid until
  // the next step. Row i is what follows the token at `first_position` + i.
  struct Output {
    Task* task;
    int64_t computed;  // tokens, in this step
    int64_t first_position;
    int64_t rows;
    const float* logits;
    int64_t vocab;
  };
  struct StepResult {
    std::vector<Output> outputs;
    std::vector<at::Tensor> alive;  // own the logits
    int preempted = 0;
    // Tasks whose forward pass failed, and why.
    std::vector<Task*> failed;
    absl::Status error;
  };
  // One step under one turn on the device: a forward pass for each base model that
  // has sequences in it.
  StepResult Step();

  const KvPages& pages() const { return pages_; }
  int64_t running() const { return scheduler_.running(); }
  int64_t waiting() const { return scheduler_.waiting(); }

 private:
  Lane(const BaseModel& base, const EngineOptions& options, Arbiter* arbiter);
  void Forward(const BaseModel& base, absl::Span<const BatchScheduler::Item> items, StepResult* result);

  const ModelConfig config_;
  const ComputeTarget target_;
  Arbiter* const arbiter_;
  MemoryBudget::Reservation memory_;
  KvPages pages_;
  BatchScheduler scheduler_;
  KvCache cache_;
  std::unordered_map<const Sequence*, std::unique_ptr<Task>> tasks_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_LANE_H_
