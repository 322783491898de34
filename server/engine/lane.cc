#include "server/engine/lane.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <iterator>
#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/log.h"
#include "server/engine/token_choice.h"
#include "server/model/decoder.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

// Where a task's next logits are wanted: after its last token, or after each token of
// a continuation.
int64_t FirstWantedPosition(const Task& task) {
  const int64_t last = task.known() - 1;
  if (task.kind != Task::Kind::kScoreContinuation) return last;
  // A row was scored for every token that is there already, beyond the first.
  const auto& scored = task.score->result.continuations[task.index].tokens;
  return task.prompt_tokens - 1 + static_cast<int64_t>(scored.size());
}

// Whether a step over so many tokens more reads the rest of an answer's prompt.
bool EndsPrompt(const Task& task, int64_t tokens) {
  const Sequence& s = task.sequence;
  return task.kind == Task::Kind::kAnswer && task.generated() == 0 && s.in_flight == 0 && tokens == s.remaining();
}

// Swap space grows by so much, many pages of any model; or by less, if there is not as much left.
constexpr int64_t kSwapPieceBytes = int64_t{64} << 20;

}  // namespace

Lane::Lane(const BaseModel& base, const EngineOptions& options, Arbiter* arbiter, MemoryBudget* swap_memory,
           PromptLogits* prompt_logits, const Clock* clock)
    : config_(base.config),
      target_(base.target),
      arbiter_(arbiter),
      clock_(clock),
      pages_(options.kv_tokens / kPageTokens, kPageTokens),
      swap_memory_(swap_memory),
      swap_([this] { return GrowSwap(); }),
      prompt_logits_(prompt_logits),
      // A GPU's sums are not the host's, bit for bit.
      knows_prompts_(prompt_logits->keeps_any() && !(base.target.batch_invariant && base.target.device == ComputeTarget::Device::kCuda)),
      scheduler_(&pages_, options.max_sequences, options.max_batch_tokens, options.prefix_cache, &swap_,
                 [this](const Sequence& sequence) { return KnowsEnd(sequence); }),
      target_interval_(options.inter_token_target),
      max_sequences_(options.max_sequences) {}

absl::StatusOr<std::unique_ptr<Lane>> Lane::Make(const BaseModel& base, const EngineOptions& options, Arbiter* arbiter,
                                                 MemoryBudget* swap_memory, PromptLogits* prompt_logits,
                                                 const Clock* clock) {
  const bool is_gpu = base.target.device == ComputeTarget::Device::kCuda;
  if (is_gpu && base.target.batch_invariant && !GpuRunner::Serves(base)) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_ON_THIS_DEVICE",
                     "--batch-invariant serves, on a GPU, models whose matrices go into tiles of 16 x 64 and whose attention has "
                     "a kernel; this one's do not.");
  }
  auto lane = std::unique_ptr<Lane>(new Lane(base, options, arbiter, swap_memory, prompt_logits, clock));
  const at::ScalarType type = ServingTypeOf(base.target);
  const int64_t element = static_cast<int64_t>(at::elementSize(type));
  int64_t bytes = lane->pages_.total() * kPageTokens * base.config.layers * 2 * base.config.kv_size() * element;
  if (GpuRunner::Serves(base)) bytes += GpuRunner::Bytes(base, options.max_sequences, options.max_batch_tokens);
  ATTUNE_ASSIGN_OR_RETURN(lane->memory_, arbiter->memory().Reserve(bytes, "the KV cache"));
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&] { return lane->MakeTensors(base, options); }));
  return lane;
}

absl::Status Lane::MakeTensors(const BaseModel& base, const EngineOptions& options) {
  cache_ = MakeKvCache(base.config.layers, pages_.total(), kPageTokens, AttentionShapeOf(base.config),
                       at::TensorOptions(ServingTypeOf(base.target)).device(DeviceOf(base.target)));
  std::optional<OwnStream::Scope> scope;
  if (base.target.device == ComputeTarget::Device::kCuda) {
    stream_ = std::make_unique<OwnStream>(base.target, OwnStream::Priority::kHigh);
    scope.emplace(*stream_);
  }
  if (PageCopies::Serves(cache_)) page_copies_ = std::make_unique<PageCopies>(&cache_);
  if (GpuRunner::Serves(base)) {
    gpu_ = std::make_unique<GpuRunner>(base, &cache_, options.max_sequences, options.max_batch_tokens);
  }
  return absl::OkStatus();
}

Lane::~Lane() {
  if (!stream_ || !page_copies_) return;
  // No copy under way may touch memory that is given back.
  const OwnStream::Scope scope(*stream_);
  CatchTorch([&] {
    Synchronize(target_);
    return absl::OkStatus();
  }).IgnoreError();
}

int64_t Lane::GrowSwap() {
  if (!page_copies_ || swap_refused_) return 0;
  // Powers of two, to which torch rounds pinned memory up: so what is reserved is what is taken.
  const int64_t most = std::min(swap_memory_->available(), kSwapPieceBytes);
  const int64_t piece = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(most)));
  const int64_t slots = piece / page_copies_->slot_bytes();
  if (slots == 0) return 0;
  std::vector<MemoryBudget*> budgets = {swap_memory_};
  if (target_.device == ComputeTarget::Device::kCpu) budgets.push_back(&arbiter_->memory());
  std::vector<MemoryBudget::Reservation> reserved;
  for (MemoryBudget* budget : budgets) {
    absl::StatusOr<MemoryBudget::Reservation> bytes = budget->Reserve(piece, "the swap space");
    if (!bytes.ok()) return 0;
    reserved.push_back(*std::move(bytes));
  }
  const absl::Status status = CatchTorch([&] {
    page_copies_->Grow(slots);
    return absl::OkStatus();
  });
  if (!status.ok()) {
    // What is pushed out is computed anew from here on.
    LogWarning("swap.no_memory", {{"bytes", absl::StrCat(piece)}, {"why", std::string(status.message())}});
    swap_refused_ = true;
    return 0;
  }
  std::move(reserved.begin(), reserved.end(), std::back_inserter(swap_reserved_));
  return slots;
}

bool Lane::Fits(const BaseModel& base) const {
  const ModelConfig& c = base.config;
  return c.layers == config_.layers && c.heads == config_.heads && c.kv_heads == config_.kv_heads &&
         c.head_dim == config_.head_dim && c.hidden == config_.hidden && c.intermediate == config_.intermediate &&
         c.vocab == config_.vocab && c.windows.empty() == config_.windows.empty() && base.target.type == target_.type &&
         GpuRunner::Serves(base) == (gpu_ != nullptr);
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
  if (!forked) return scheduler_.AddPushedOut(sequence);  // computes the beginning anew
  std::optional<OwnStream::Scope> scope;
  if (stream_) scope.emplace(*stream_);
  page_copies_ ? page_copies_->CopyWithin(copies) : CopyPages(&cache_, copies);
  scheduler_.AddRunning(sequence);
}

void Lane::Remove(Task* task) {
  // Its pages may go to another at once: what is on its way is done before what that asks for.
  if (in_flight_) Forget(task, in_flight_.get());
  scheduler_.Remove(&task->sequence);
  task->is_removed = true;
  const auto found = tasks_.find(&task->sequence);
  removed_.push_back(std::move(found->second));
  tasks_.erase(found);
}

void Lane::Forget(const Task* task, Passes* passes) {
  for (Pass& pass : *passes) {
    for (Output& output : pass.outputs) {
      if (output.task == task) output.task = nullptr;
    }
  }
}

std::vector<Task*> Lane::tasks() const {
  std::vector<Task*> out;
  for (const auto& [sequence, task] : tasks_) out.push_back(task.get());
  return out;
}

// By weights; those with an embedding or a head of their own apart on a GPU; then, for the grouped kernels, single tokens first,
// and of these the ones under LoRAs; then by adapter, whose rows stand side by side.
Lane::Passes Lane::Divide(const BatchScheduler::Plan& plan) const {
  std::vector<BatchScheduler::Item> items = plan.items;
  auto key = [&](const BatchScheduler::Item& item) {
    const ServedModel& model = *tasks_.at(item.sequence)->model;
    const bool has_lora = model.adapter && model.adapter->lora;
    return std::make_tuple(model.base.get(), IsPlain(model), gpu_ && item.tokens > 1, !has_lora, model.adapter.get());
  };
  std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) { return key(a) < key(b); });
  Passes passes;
  for (const BatchScheduler::Item& item : items) {
    Task* task = tasks_.at(item.sequence).get();
    const bool is_plain = IsPlain(*task->model);
    if (passes.empty() || passes.back().base != task->model->base || passes.back().is_plain != is_plain) {
      passes.push_back({task->model->base, {}, {}, nullptr, is_plain});
    }
    const Sequence& s = task->sequence;
    const ForwardItem forward = ItemFor(*task, item.tokens);
    passes.back().items.push_back(forward);
    passes.back().outputs.push_back({task, item.tokens, s.computed + forward.first_logits,
                                     item.tokens - forward.first_logits, nullptr, task->model->base->config.vocab,
                                     item.tokens == s.remaining(), EndsPrompt(*task, item.tokens)});
  }
  return passes;
}

bool Lane::IsPlain(const ServedModel& model) const {
  return gpu_ && model.adapter && model.adapter->changes_vocabulary();
}

ForwardItem Lane::ItemFor(const Task& task, int64_t tokens) const {
  const Sequence& s = task.sequence;
  ForwardItem item{s.tokens.data() + s.computed, tokens, s.computed, &s.pages, task.model->adapter.get()};
  item.first_logits = std::min(std::max<int64_t>(0, FirstWantedPosition(task) - s.computed), tokens);
  item.adapter_uid = task.model->uid;
  if (s.in_flight > 0 && s.computed == static_cast<int64_t>(s.tokens.size())) item.sampled_row = task.sampled_row;
  item.wants_logits = !ChoosesOnDevice(task);
  item.wants_last_logits = gpu_ && knows_prompts_ && EndsPrompt(task, tokens);
  if (gpu_ && task.kind == Task::Kind::kScoreContinuation) {
    const std::vector<int32_t>& continuation = task.score->params.continuations[task.index];
    item.wants_logits = false;
    // Not while the prompt is still read.
    if (item.first_logits < tokens) {
      item.scored = continuation.data() + (s.computed + item.first_logits + 1 - task.prompt_tokens);
    }
  }
  const bool is_scored = task.kind == Task::Kind::kScoreContinuation;
  if (gpu_ && !item.wants_logits && !is_scored && item.first_logits < tokens) {
    item.choice = MakeTokenChoice(task);
    item.waits_for_mask = task.grammar != nullptr;
  }
  return item;
}

// Not where the host has to choose first, nor beside training that waits for its turn.
bool Lane::MayRunAhead(const Passes& passes) const {
  // Now and then the turn ends, so that its seconds are counted.
  constexpr int64_t kMostAhead = 256;
  if (!gpu_ || passes.empty() || ahead_ >= kMostAhead || arbiter_->Waiting(WorkClass::kTraining) > 0) return false;
  for (const Pass& pass : passes) {
    for (const ForwardItem& item : pass.items) {
      if ((item.wants_logits || item.scored) && item.first_logits < item.count) return false;
    }
  }
  return true;
}

absl::Duration Lane::Patience() const {
  if (target_interval_ <= absl::ZeroDuration() || scheduler_.waiting() > 0) return absl::ZeroDuration();
  // What is put off until the last moment comes late as often as not.
  constexpr double kAimedAt = 0.9;
  const double room = 1 - static_cast<double>(scheduler_.running()) / static_cast<double>(max_sequences_);
  return std::max(target_interval_ * kAimedAt - step_, absl::ZeroDuration()) * std::max(room, 0.0);
}

void Lane::NoteStep(absl::Duration step) {
  constexpr double kKept = 0.98;
  step_ = std::max(step, step_ * kKept);
}

Lane::StepResult Lane::Step(bool may_run_ahead) {
  StepResult result;
  const int64_t queries = scheduler_.prefix_queries(), hits = scheduler_.prefix_hits();
  const BatchScheduler::Plan plan = scheduler_.Next();
  result.prefix_queries = scheduler_.prefix_queries() - queries;
  result.prefix_hits = scheduler_.prefix_hits() - hits;
  for (Sequence* sequence : plan.preempted) result.preempted.push_back(tasks_.at(sequence).get());
  Begin(plan.begun, &result);
  Passes passes = Divide(plan);
  if (passes.empty() && plan.swaps.empty() && !in_flight_) return result;  // all wait for another lane
  std::optional<OwnStream::Scope> scope;
  if (stream_) scope.emplace(*stream_);
  if (!in_flight_) {
    const absl::Duration patience = Patience();
    turn_ = arbiter_->Acquire(WorkClass::kGeneration, Sharing::kAlone, patience);
    if (patience > absl::ZeroDuration()) result.lateness = turn_.lateness();
    ahead_ = 0;
  }
  CopySwapped(plan, &passes, &result);
  if (in_flight_) ChooseInForms(in_flight_.get(), &result);
  if (!gpu_) {
    const absl::Time start = clock_->Now();
    for (Pass& pass : passes) Run(&pass, &result);
    NoteStep(clock_->Now() - start);
    turn_.Release();
    return result;
  }
  absl::Time start = clock_->Now();
  // The host chooses after these, so what they read is never on its way; their keys and values are, on the lane's stream.
  const bool has_plain = std::erase_if(passes, [&](Pass& pass) { return pass.is_plain && (Run(&pass, &result), true); }) > 0;
  std::erase_if(passes, [&](Pass& pass) { return !Launch(&pass, &result); });
  const bool runs_ahead = may_run_ahead && !has_plain && MayRunAhead(passes);
  if (!has_plain) start = clock_->Now();
  if (in_flight_) Collect(in_flight_.get(), &result);
  in_flight_ = nullptr;
  for (const Task* task : result.failed) Forget(task, &passes);  // whose step before this one failed
  if (runs_ahead) {
    in_flight_ = std::make_unique<Passes>(std::move(passes));
    ++ahead_;
    return result;
  }
  ChooseInForms(&passes, &result);
  Collect(&passes, &result);
  NoteStep(clock_->Now() - start);
  turn_.Release();
  return result;
}

bool Lane::KnowsEnd(const Sequence& sequence) {
  const Task& task = *tasks_.at(&sequence);
  if (!knows_prompts_ || task.kind != Task::Kind::kAnswer) return false;
  // Each answer that is forked off would read what is left of the prompt.
  if (task.siblings > 0 && sequence.known() % kPageTokens != 0) return false;
  return prompt_logits_->Find(sequence.model, sequence.tokens) != nullptr;
}

void Lane::Begin(const std::vector<Sequence*>& begun, StepResult* result) {
  for (Sequence* sequence : begun) {
    Task* task = tasks_.at(sequence).get();
    const PromptLogits::Row row = prompt_logits_->Find(sequence->model, sequence->tokens);
    result->outputs.push_back({task, 0, task->prompt_tokens - 1, 1, row->data(), static_cast<int64_t>(row->size()),
                               /*ends_input=*/true});
    result->alive_rows.push_back(row);
    ++result->known_prompts;
  }
}

void Lane::KeepPromptLogits(const Output& output, std::vector<float> row) {
  prompt_logits_->Put(output.task->sequence.model, output.task->sequence.tokens, std::move(row));
}

void Lane::ChooseInForms(Passes* passes, StepResult* result) {
  for (Pass& pass : *passes) {
    std::vector<const std::vector<uint32_t>*> masks(pass.items.size(), nullptr);
    std::vector<std::pair<size_t, Task*>> unknown;
    bool waits = false;
    for (size_t i = 0; i < pass.items.size(); ++i) {
      if (!pass.items[i].waits_for_mask) continue;
      waits = true;
      Task* task = pass.outputs[i].task;
      if (!task) continue;
      if (task->mask_ready) task->mask_ready->WaitForNotification();
      task->mask_ready = nullptr;
      unknown.emplace_back(i, task);
    }
    if (!waits || !pass.step) continue;
    // Mostly another thread has made them.
    at::parallel_for(0, static_cast<int64_t>(unknown.size()), 16, [&](int64_t begin, int64_t end) {
      for (int64_t u = begin; u < end; ++u) masks[unknown[u].first] = &unknown[u].second->grammar->Allowed();
    });
    const absl::Status status = CatchTorch([&] {
      pass.step->ChooseLater(masks);
      return absl::OkStatus();
    });
    if (status.ok()) continue;
    Fail(pass, status, result);
    pass.step = nullptr;  // Collect has nothing to wait for
  }
}

void Lane::AcceptInForms(Pass* pass) {
  std::vector<size_t> items;
  std::vector<int32_t> tokens;
  const int32_t* token = pass->step->tokens();
  for (size_t i = 0; i < pass->outputs.size(); ++i) {
    token += pass->outputs[i].rows;
    if (!pass->items[i].waits_for_mask || !pass->outputs[i].task) continue;
    items.push_back(i);
    tokens.push_back(token[-1]);
  }
  at::parallel_for(0, static_cast<int64_t>(items.size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Output& output = pass->outputs[items[i]];
      GrammarState& grammar = *output.task->grammar;
      output.is_refused = !grammar.Accept(tokens[i]);
      output.is_over = !output.is_refused && grammar.IsOver();
    }
  });
}

void Lane::CopySwapped(const BatchScheduler::Plan& plan, Passes* passes, StepResult* result) {
  const absl::Status status = CatchTorch([&] {
    for (const BatchScheduler::Swap& swap : plan.swaps) {
      const int64_t bytes = static_cast<int64_t>(swap.pages.size()) * page_copies_->slot_bytes();
      if (swap.is_out) {
        page_copies_->CopyOut(swap.pages, swap.slots);
        ++result->swapped_out;
        result->bytes_out += bytes;
      } else {
        page_copies_->CopyIn(swap.pages, swap.slots);
        result->bytes_in += bytes;
      }
    }
    return absl::OkStatus();
  });
  if (status.ok()) return;
  for (const BatchScheduler::Swap& swap : plan.swaps) Fail(tasks_.at(swap.sequence).get(), status, result);
  for (const Pass& pass : *passes) Fail(pass, status, result);
  passes->clear();
}

void Lane::Fail(Task* task, const absl::Status& status, StepResult* result) {
  result->error = status;
  if (std::find(result->failed.begin(), result->failed.end(), task) != result->failed.end()) return;
  task->sequence.is_sound = false;
  result->failed.push_back(task);
  if (in_flight_) Forget(task, in_flight_.get());
  std::erase_if(result->outputs, [&](const Output& filed) { return filed.task == task; });
}

void Lane::Fail(const Pass& pass, const absl::Status& status, StepResult* result) {
  for (const Output& output : pass.outputs) {
    if (output.task) Fail(output.task, status, result);
  }
}

void Lane::Run(Pass* pass, StepResult* result) {
  at::Tensor logits;
  const absl::Status status = CatchTorch([&] {
    logits = ForwardBatch(*pass->base, pass->items, &cache_);
    return absl::OkStatus();
  });
  if (!status.ok()) return Fail(*pass, status, result);
  const float* row = logits.const_data_ptr<float>();
  for (Output& output : pass->outputs) {
    output.task->sequence.computed += output.computed;
    output.logits = row;
    row += output.rows * output.vocab;
    if (output.ends_prompt && knows_prompts_) KeepPromptLogits(output, {row - output.vocab, row});
    result->outputs.push_back(output);
  }
  result->alive.push_back(std::move(logits));
}

bool Lane::Launch(Pass* pass, StepResult* result) {
  const absl::Status status = CatchTorch([&] {
    pass->step = gpu_->Launch(pass->base, pass->items);
    return absl::OkStatus();
  });
  if (!status.ok()) {
    Fail(*pass, status, result);
    return false;
  }
  int32_t row = 0;
  for (const Output& output : pass->outputs) {
    Task* task = output.task;
    task->sequence.computed += output.computed;
    row += static_cast<int32_t>(output.rows);
    if (task->kind != Task::Kind::kAnswer || !output.ends_input) continue;
    ++task->sequence.in_flight;
    task->sampled_row = row - 1;
  }
  return true;
}

void Lane::Collect(Passes* passes, StepResult* result) {
  for (Pass& pass : *passes) {
    if (!pass.step) continue;  // failed
    const absl::Status status = CatchTorch([&] {
      pass.step->Wait();
      return absl::OkStatus();
    });
    if (!status.ok()) {
      Fail(pass, status, result);
      continue;
    }
    AcceptInForms(&pass);
    const at::Tensor& logits = pass.step->logits();
    const float* row = logits.defined() ? logits.const_data_ptr<float>() : nullptr;
    const int32_t* token = pass.step->tokens();
    for (size_t i = 0; i < pass.outputs.size(); ++i) {
      Output& output = pass.outputs[i];
      if (pass.items[i].wants_logits) {
        output.logits = row;
        row += output.rows * output.vocab;
      } else if (pass.items[i].scored) {
        const float* scores = pass.step->scores(i);
        for (int64_t r = 0; r < output.rows; ++r) output.scored.emplace_back(scores[r], token[r] == pass.items[i].scored[r]);
      } else if (output.rows > 0) {
        output.device_choice = {token[output.rows - 1], 0, {}};
        pass.step->ReadLogprobs(i, &output.device_choice);
      }
      token += output.rows;
      if (!output.task) continue;
      if (pass.items[i].wants_last_logits) KeepPromptLogits(output, pass.step->last_logits(i));
      // A token that came with this step is known from now on.
      if (output.ends_input && output.task->kind == Task::Kind::kAnswer) --output.task->sequence.in_flight;
      result->outputs.push_back(output);
    }
    result->alive.push_back(logits);
  }
}

}  // namespace attune
