#ifndef ATTUNE_SERVER_TUNING_JOINT_PASS_H_
#define ATTUNE_SERVER_TUNING_JOINT_PASS_H_

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/rendezvous.h"
#include "server/data/batcher.h"
#include "server/device/arbiter.h"
#include "server/model/memory_meter.h"
#include "server/model/own_stream.h"
#include "server/tuning/direct_pass.h"
#include "server/tuning/joint_parameters.h"

namespace attune {

class PassGraphs;

// Small passes of several LoRA jobs over one base model as one batch: the base model's
// products, and the jobs' own, are one each, so that eight jobs launch as many kernels as one.
// Each job has a place, and keeps its parameters, gradients, data, schedule and optimizer to
// itself; what a job gets is what it would alone, to rounding. Thread-safe.
class JointPass : public std::enable_shared_from_this<JointPass> {
 public:
  static constexpr int64_t kPlaces = 8;
  static constexpr int64_t kMostTokens = 8192;  // of a round; more are taken in several

  // All arguments but `like` must outlive this; `arbiter` may be null. `like`: the LoRA of any of the jobs, which are
  // equal in rank, projections, scale and dropout. `type` is what passes compute in.
  JointPass(const BaseModel* base, const LoraAdapter& like, at::ScalarType type, Arbiter* arbiter);
  ~JointPass();

  // A job's place, until destroyed. For one thread at a time.
  class Member {
   public:
    Member(std::shared_ptr<JointPass> joint, const FlatParameters* own, int64_t place)
        : joint_(std::move(joint)), own_(own), place_(place) {}
    ~Member() { joint_->Leave(place_); }

    // Whether there is anybody to share with, and memory for it.
    bool HasCompany() const { return joint_->members_ > 1 && joint_->has_memory_; }
    // As DirectPass::Run with the job's parameters, in a turn on the device of its own, waited
    // for; returns the sum of the losses. The caller's stream must have nothing to do.
    double Run(const MicroBatch& batch, int64_t step_seed, int64_t loss_tokens, bool is_first);
    // Of the most that the passes have taken of the device so far, beside what jobs have to themselves: an equal part for
    // each job of the largest round so far, as of the last round that this one was in.
    int64_t bytes() const { return bytes_; }

   private:
    const std::shared_ptr<JointPass> joint_;
    const FlatParameters* const own_;
    const int64_t place_;
    int64_t bytes_ = 0;
  };
  // Null if no place is free. `own` must outlive the member.
  std::unique_ptr<Member> Join(const FlatParameters* own) ABSL_LOCKS_EXCLUDED(mutex_);

  bool Takes(const BaseModel* base, const LoraAdapter& lora, at::ScalarType type) const;

 private:
  // One job's micro-batch, and what came of it.
  struct Request {
    const FlatParameters* own;
    BatchPart part;
    const MicroBatch* batch;
    bool is_first;
    double loss = 0;
    int64_t bytes = 0;  // its part of what was taken
    std::exception_ptr error;
  };

  void Leave(int64_t place) ABSL_LOCKS_EXCLUDED(mutex_);
  // What it takes beyond the jobs' own: parameters and gradients of all places, and padding.
  int64_t Bytes() const;
  void ReserveMemory() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Round(const std::vector<Request*>& requests);
  void RunTogether(const std::vector<Request*>& requests);
  void RunWithRoom(const std::vector<Request*>& requests);
  void RunOnce(const std::vector<Request*>& requests);
  DirectPass::Result RunPass(const PackedMicroBatch& batch);
  PackedMicroBatch Pack(const std::vector<Request*>& requests) const;
  Arbiter::Turn TakeTurn(Sharing sharing) const;

  const BaseModel* const base_;
  const LoraAdapter like_;  // sizes; its tensors are not read
  const at::ScalarType type_;
  Arbiter* const arbiter_;
  const OwnStream stream_;
  const MemoryMeter meter_;
  Rendezvous<Request> rendezvous_;
  std::atomic<int> members_{0};
  std::atomic<bool> has_memory_{false};
  absl::Mutex mutex_;
  std::vector<bool> is_taken_ ABSL_GUARDED_BY(mutex_);
  MemoryBudget::Reservation memory_ ABSL_GUARDED_BY(mutex_);
  // Of the thread that leads a round; made by the first.
  int64_t most_jobs_ = 1;  // that were in one round
  std::unique_ptr<JointParameters> parameters_;
  std::unique_ptr<DirectPass> pass_;
  std::unique_ptr<PassGraphs> graphs_;
};

// Which jobs may share. Thread-safe; must outlive the members.
class JointPasses {
 public:
  // A place among jobs of the same kind; see JointPass for what the arguments are.
  std::unique_ptr<JointPass::Member> Join(const BaseModel* base, const LoraAdapter& lora, at::ScalarType type,
                                          const FlatParameters* own, Arbiter* arbiter) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::Mutex mutex_;
  std::vector<std::weak_ptr<JointPass>> passes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_JOINT_PASS_H_
