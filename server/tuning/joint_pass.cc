#include "server/tuning/joint_pass.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "server/model/kernels/cuda/launch.h"
#include "server/model/torch_target.h"
#include "server/tuning/pass_graphs.h"

namespace attune {
namespace {

// A round takes several times as long.
constexpr absl::Duration kLinger = absl::Milliseconds(2);

// Jobs whose layers keep everything may share, so a joint pass keeps no more than they would.
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

bool IsAlike(const LoraModule& a, const LoraModule& b) {
  return a.defined() == b.defined() && (!a.defined() || (a.scale == b.scale && a.a_RI.size(0) == b.a_RI.size(0)));
}

// The same without memory: the job that it is of may end first.
LoraAdapter SizesOf(const LoraAdapter& lora) {
  LoraAdapter sizes = lora;
  for (auto& layer : sizes.layers) {
    for (LoraModule& module : layer) {
      if (!module.defined()) continue;
      module.a_RI = at::empty(module.a_RI.sizes(), at::TensorOptions(at::kFloat).device(at::kMeta));
      module.b_OR = at::empty(module.b_OR.sizes(), module.a_RI.options());
    }
  }
  return sizes;
}

void Append(const MicroBatch& part, MicroBatch* batch) {
  const int64_t first = static_cast<int64_t>(batch->tokens.size());
  batch->tokens.insert(batch->tokens.end(), part.tokens.begin(), part.tokens.end());
  batch->targets.insert(batch->targets.end(), part.targets.begin(), part.targets.end());
  for (int64_t row : part.loss_rows) batch->loss_rows.push_back(first + row);
  if (batch->starts.empty()) batch->starts.push_back(0);
  for (size_t i = 1; i < part.starts.size(); ++i) batch->starts.push_back(first + part.starts[i]);
}

}  // namespace

JointPass::JointPass(const BaseModel* base, const LoraAdapter& like, at::ScalarType type, Arbiter* arbiter)
    : base_(base),
      like_(SizesOf(like)),
      type_(type),
      arbiter_(arbiter),
      stream_(base->target),
      meter_(base->target),
      rendezvous_([this](const std::vector<Request*>& requests) { Round(requests); }, kLinger),
      is_taken_(kPlaces, false) {}

JointPass::~JointPass() = default;

bool JointPass::Takes(const BaseModel* base, const LoraAdapter& lora, at::ScalarType type) const {
  if (base != base_ || type != type_ || lora.dropout != like_.dropout) return false;
  for (size_t i = 0; i < lora.layers.size(); ++i) {
    for (int p = 0; p < kProjections; ++p) {
      if (!IsAlike(lora.layers[i][p], like_.layers[i][p])) return false;
    }
  }
  return true;
}

std::unique_ptr<JointPass::Member> JointPass::Join(const FlatParameters* own) {
  absl::MutexLock lock(&mutex_);
  const auto free = std::find(is_taken_.begin(), is_taken_.end(), false);
  if (free == is_taken_.end()) return nullptr;
  *free = true;
  if (++members_ > 1 && !has_memory_) ReserveMemory();
  return std::make_unique<Member>(shared_from_this(), own, free - is_taken_.begin());
}

int64_t JointPass::Bytes() const {
  int64_t values = 0;
  for (const auto& layer : like_.layers) {
    for (const LoraModule& module : layer) {
      if (module.defined()) values += module.a_RI.numel() + module.b_OR.numel();
    }
  }
  const int64_t element = static_cast<int64_t>(at::elementSize(type_));
  const int64_t padding = BucketTokens(1) * 4 * base_->config.layers *
                          KeptBytesPerToken(base_->config, Keep::kAll, element);
  return kPlaces * values * (element + static_cast<int64_t>(sizeof(float))) + padding;
}

// Without, jobs train side by side.
void JointPass::ReserveMemory() {
  if (arbiter_ && arbiter_->memory().total() > 0) {
    absl::StatusOr<MemoryBudget::Reservation> memory = arbiter_->memory().Reserve(Bytes(), "joint training passes");
    if (!memory.ok()) return;
    memory_ = *std::move(memory);
  }
  has_memory_ = true;
}

void JointPass::Leave(int64_t place) {
  absl::MutexLock lock(&mutex_);
  is_taken_[place] = false;
  --members_;
}

double JointPass::Member::Run(const MicroBatch& batch, int64_t step_seed, int64_t loss_tokens, bool is_first) {
  Request request{own_,
                  {place_, static_cast<int64_t>(batch.tokens.size()), static_cast<int64_t>(batch.targets.size()),
                   step_seed, loss_tokens},
                  &batch,
                  is_first};
  joint_->rendezvous_.Run(&request);
  bytes_ = request.bytes;
  if (request.error) std::rethrow_exception(request.error);
  return request.loss;
}

Arbiter::Turn JointPass::TakeTurn(Sharing sharing) const {
  return arbiter_ ? arbiter_->Acquire(WorkClass::kTraining, sharing) : Arbiter::Turn();
}

void JointPass::Round(const std::vector<Request*>& requests) {
  std::vector<Request*> part;
  int64_t tokens = 0;
  for (Request* request : requests) {
    if (!part.empty() && tokens + request->part.tokens > kMostTokens) {
      RunTogether(std::exchange(part, {}));
      tokens = 0;
    }
    part.push_back(request);
    tokens += request->part.tokens;
  }
  RunTogether(part);
}

void JointPass::RunTogether(const std::vector<Request*>& requests) {
  const OwnStream::Scope scope(stream_);
  const MemoryMeter::Scope metered(meter_);
  std::exception_ptr error;
  try {
    RunWithRoom(requests);
  } catch (...) {
    error = std::current_exception();
  }
  most_jobs_ = std::max(most_jobs_, static_cast<int64_t>(requests.size()));
  for (Request* request : requests) {
    request->error = error;
    request->bytes = meter_.peak_bytes() / most_jobs_;
  }
}

void JointPass::RunWithRoom(const std::vector<Request*>& requests) {
  std::exception_ptr failure;
  try {
    return RunOnce(requests);
  } catch (const c10::OutOfMemoryError&) {
    failure = std::current_exception();
  }
  bool made_room = false;
  if (graphs_) {
    const Arbiter::Turn turn = TakeTurn(Sharing::kAlone);
    made_room = graphs_->DropAll();
  }
  if (!made_room) std::rethrow_exception(failure);
  RunOnce(requests);  // in the graphs' place
}

PackedMicroBatch JointPass::Pack(const std::vector<Request*>& requests) const {
  MicroBatch batch;
  std::vector<BatchPart> parts;
  for (const Request* request : requests) {
    Append(*request->batch, &batch);
    parts.push_back(request->part);
  }
  if (graphs_) return graphs_->PackJoint(batch, parts, kPlaces);
  PassShape shape = ExactShape(batch);
  shape.places = kPlaces;
  return {shape, PackJointBatch(batch, parts, shape, /*pinned=*/false), shape.tokens};
}

DirectPass::Result JointPass::RunPass(const PackedMicroBatch& batch) {
  if (graphs_) return graphs_->Run(batch, /*is_first=*/true);
  return pass_->Run(ViewBatch(batch.packed.to(DeviceOf(base_->target)), batch.shape, batch.packed),
                    std::vector<Keep>(base_->config.layers, Keep::kAll), /*is_first=*/true);
}

void JointPass::RunOnce(const std::vector<Request*>& requests) {
  if (!pass_) {
    const Arbiter::Turn turn = TakeTurn(Sharing::kAlone);
    parameters_ = std::make_unique<JointParameters>(base_, like_, kPlaces, type_);
    pass_ = std::make_unique<DirectPass>(base_, parameters_->method(), parameters_->flat(), type_, like_.dropout);
    if (base_->target.device == ComputeTarget::Device::kCuda && cuda::Available()) {
      graphs_ = std::make_unique<PassGraphs>(pass_.get(), base_, type_, kNoLimit);
    }
  }
  const PackedMicroBatch packed = Pack(requests);
  std::vector<Request*> sound;
  {
    const Arbiter::Turn turn =
        TakeTurn(graphs_ && graphs_->IsReplay(packed, true) ? Sharing::kShared : Sharing::kAlone);
    for (const Request* request : requests) parameters_->Take(*request->own, request->part.place);
    const at::Tensor losses_P = RunPass(packed).loss_sum.cpu();  // waits for the pass
    for (Request* request : requests) {
      request->loss = losses_P.const_data_ptr<double>()[request->part.place];
      if (std::isfinite(request->loss)) sound.push_back(request);
    }
    if (sound.size() == requests.size()) {
      for (const Request* request : sound) parameters_->Give(*request->own, request->part.place, !request->is_first);
      return Synchronize(base_->target);
    }
  }
  // What is no number in one job's rows is none in the sums of the others' gradients.
  if (!sound.empty()) RunOnce(sound);
}

std::unique_ptr<JointPass::Member> JointPasses::Join(const BaseModel* base, const LoraAdapter& lora,
                                                     at::ScalarType type, const FlatParameters* own,
                                                     Arbiter* arbiter) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(passes_, [](const std::weak_ptr<JointPass>& pass) { return pass.expired(); });
  for (const std::weak_ptr<JointPass>& weak : passes_) {
    const std::shared_ptr<JointPass> pass = weak.lock();
    if (!pass || !pass->Takes(base, lora, type)) continue;
    if (auto member = pass->Join(own)) return member;
  }
  auto pass = std::make_shared<JointPass>(base, lora, type, arbiter);
  passes_.push_back(pass);
  return pass->Join(own);
}

}  // namespace attune
