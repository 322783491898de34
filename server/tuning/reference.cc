#include "server/tuning/reference.h"

#include <ATen/ATen.h>

#include <memory>
#include <string>

#include "common/error.h"
#include "server/model/torch_target.h"
#include "server/tuning/direct_pass.h"
#include "server/tuning/flat_parameters.h"

namespace attune {
namespace {

// Trains nothing and adds nothing.
class NoMethod final : public Method {
 public:
  explicit NoMethod(const BaseModel& base) : base_(base) {}
  const std::vector<Parameter>& parameters() const override { return none_; }
  DecoderWeights Weights() const override { return base_.weights; }
  ModelKind kind() const override { return ModelKind::kBase; }
  absl::Status Save(const std::string&, const std::string&) const override {
    return absl::InternalError("the base model is stored already");
  }

 private:
  const BaseModel& base_;
  const std::vector<Parameter> none_;
};

}  // namespace

absl::StatusOr<std::vector<double>> SumAnswers(const Batcher& batches, int64_t examples, const ComputeTarget& target,
                                               const std::function<at::Tensor(const PassBatch&)>& losses,
                                               const std::function<bool()>& stop) {
  std::vector<double> sums(examples, 0);
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    for (const MicroBatch& batch : batches.All()) {
      if (stop && stop()) return absl::CancelledError("stopped while scoring the reference's answers");
      if (batch.targets.empty()) continue;
      const PassShape shape = ExactShape(batch);
      const at::Tensor packed = PackBatch(batch, shape, 0, 1, /*pinned=*/false);
      const at::Tensor losses_N = losses(ViewBatch(packed.to(DeviceOf(target)), shape, packed));
      size_t sequence = 0;
      for (size_t i = 0; i < batch.loss_rows.size(); ++i) {
        while (batch.loss_rows[i] >= batch.starts[sequence + 1]) ++sequence;
        sums[batch.examples[sequence]] -= losses_N.const_data_ptr<float>()[i];
      }
    }
    return absl::OkStatus();
  }));
  return sums;
}

absl::StatusOr<std::vector<double>> ScoreAnswersOfBase(const BaseModel& base, at::ScalarType type,
                                                       const Batcher& batches, int64_t examples, Arbiter* arbiter,
                                                       const std::function<bool()>& stop) {
  const NoMethod none(base);
  std::unique_ptr<FlatParameters> nothing;
  std::unique_ptr<DirectPass> pass;
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&] {
    nothing = std::make_unique<FlatParameters>(FlatParameters::WithoutMasters({}, type, DeviceOf(base.target)));
    pass = std::make_unique<DirectPass>(&base, &none, nothing.get(), type, /*dropout=*/0);
    return absl::OkStatus();
  }));
  auto score = [&](const PassBatch& batch) {
    Arbiter::Turn turn = arbiter ? arbiter->Acquire(WorkClass::kTraining, Sharing::kAlone) : Arbiter::Turn();
    return pass->Losses(batch).cpu();
  };
  return SumAnswers(batches, examples, base.target, score, stop);
}

}  // namespace attune
