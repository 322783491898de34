#include "server/engine/lane.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <tuple>

#include "common/error.h"
#include "server/model/decoder.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

// Where a task's next logits are wanted: after its last token, or after each token of
// a continuation.
int64_t FirstWantedPosition(const Task& task) {
  const int64_t last = static_cast<int64_t>(task.sequence.tokens.size()) - 1;
  if (task.kind != Task::Kind::kScoreContinuation) return last;
  // A row was scored for every token that is there already, beyond the first.
  const auto& scored = task.score->result.continuations[task.index].tokens;
  return task.prompt_tokens - 1 + static_cast<int64_t>(scored.size());
}

}  // namespace

Lane::Lane(const BaseModel& base, const EngineOptions& options, Arbiter* arbiter)
    : config_(base.config),
      target_(base.target),
      arbiter_(arbiter),
      pages_(options.kv_tokens / kPageTokens, kPageTokens),
      scheduler_(&pages_, options.max_sequences, options.max_batch_tokens) {}

absl::StatusOr<std::unique_ptr<Lane>> Lane::Make(const BaseModel& base, const EngineOptions& options,
                                                 Arbiter* arbiter) {
  auto lane = std::unique_ptr<Lane>(new Lane(base, options, arbiter));
  const at::ScalarType type = ServingTypeOf(base.target);
  const int64_t element = static_cast<int64_t>(at::elementSize(type));
  const int64_t bytes = lane->pages_.total() * kPageTokens * base.config.layers * 2 * base.config.kv_size() * element;
  ATTUNE_ASSIGN_OR_RETURN(lane->memory_, arbiter->memory().Reserve(bytes, "the KV cache"));
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&] {
    lane->cache_ = MakeKvCache(base.config.layers, lane->pages_.total(), kPageTokens, AttentionShapeOf(base.config),
                               at::TensorOptions(type).device(DeviceOf(base.target)));
    return absl::OkStatus();
  }));
  return lane;
}

bool Lane::Fits(const BaseModel& base) const {
  const ModelConfig& c = base.config;
  return c.layers == config_.layers && c.kv_heads == config_.kv_heads && c.head_dim == config_.head_dim &&
         base.target.type == target_.type;
}

void Lane::Add(std::unique_ptr<Task> task) {
  Sequence* sequence = &task->sequence;
  tasks_[sequence] = std::move(task);
  scheduler_.Add(sequence);
}

void Lane::AddFork(const Task& parent, std::unique_ptr<Task> child) {
  Sequence* sequence = &child->sequence;
  std::vector<std::pair<int32_t, int32_t>> copies;
  const bool forked = scheduler_.Fork(parent.sequence, parent.sequence.computed, sequence, &copies);
  tasks_[sequence] = std::move(child);
  if (!forked) return scheduler_.Add(sequence);  // computes the beginning anew
  CopyPages(&cache_, copies);
  scheduler_.AddRunning(sequence);
}

void Lane::Remove(Task* task) {
  scheduler_.Remove(&task->sequence);
  tasks_.erase(&task->sequence);
}

std::vector<Task*> Lane::tasks() const {
  std::vector<Task*> out;
  for (const auto& [sequence, task] : tasks_) out.push_back(task.get());
  return out;
}

Lane::StepResult Lane::Step() {
  StepResult result;
  BatchScheduler::Plan plan = scheduler_.Next();
  result.preempted = static_cast<int>(plan.preempted.size());
  // By weights, then adapter: one forward pass each, and adapters' rows side by side.
  auto key = [&](const BatchScheduler::Item& item) {
    const ServedModel& model = *tasks_.at(item.sequence)->model;
    return std::make_tuple(model.base.get(), model.adapter.get());
  };
  std::stable_sort(plan.items.begin(), plan.items.end(), [&](const auto& a, const auto& b) { return key(a) < key(b); });
  Arbiter::Turn turn = arbiter_->Acquire(WorkClass::kGeneration);
  for (size_t begin = 0; begin < plan.items.size();) {
    const BaseModel* base = std::get<0>(key(plan.items[begin]));
    size_t end = begin;
    while (end < plan.items.size() && std::get<0>(key(plan.items[end])) == base) ++end;
    Forward(*base, absl::MakeConstSpan(plan.items).subspan(begin, end - begin), &result);
    begin = end;
  }
  return result;
}

void Lane::Forward(const BaseModel& base, absl::Span<const BatchScheduler::Item> items, StepResult* result) {
  std::vector<ForwardItem> batch;
  std::vector<Output> outputs;
  for (const BatchScheduler::Item& item : items) {
    Task* task = tasks_.at(item.sequence).get();
    const Sequence& s = task->sequence;
    const int64_t first = std::max<int64_t>(0, FirstWantedPosition(*task) - s.computed);
    ForwardItem forward{s.tokens.data() + s.computed, item.tokens, s.computed, &s.pages, task->model->adapter.get(),
                        std::min(first, item.tokens)};
    batch.push_back(forward);
    outputs.push_back({task, item.tokens, s.computed + forward.first_logits, item.tokens - forward.first_logits,
                       nullptr, base.config.vocab});
  }
  at::Tensor logits;
  absl::Status status = CatchTorch([&] {
    logits = ForwardBatch(base, batch, &cache_);
    return absl::OkStatus();
  });
  if (!status.ok()) {
    result->error = status;
    for (const Output& output : outputs) result->failed.push_back(output.task);
    return;
  }
  const float* row = logits.const_data_ptr<float>();
  for (Output& output : outputs) {
    output.task->sequence.computed += output.computed;
    output.logits = row;
    row += output.rows * output.vocab;
    result->outputs.push_back(output);
  }
  result->alive.push_back(std::move(logits));
}

}  // namespace attune
