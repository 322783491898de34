#include "server/tuning/checkpoint.h"

#include <ATen/ATen.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "server/jobs/job_fields.h"
#include "server/model/torch_target.h"
#include "server/model/weights/safetensors.h"

namespace attune {
namespace {

absl::Status BadCheckpoint(const std::string& directory, const std::string& why) {
  return MakeError(absl::StatusCode::kDataLoss, "BAD_CHECKPOINT", absl::StrCat("checkpoint ", directory, ": ", why));
}

// Name and tensor of everything that is saved.
std::vector<StateTensor> SavedTensors(const Method& method, const AdamW* optimizer) {
  std::vector<StateTensor> out;
  for (const Parameter& parameter : method.parameters()) out.push_back({parameter.name, parameter.leaf.detach()});
  if (!optimizer) return out;
  for (StateTensor& state : optimizer->State()) out.push_back(std::move(state));
  return out;
}

SafetensorsType SavedType(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kByte ? SafetensorsType::kU8 : SafetensorsType::kF32;
}

absl::Status LoadTensors(const std::string& directory, const std::vector<StateTensor>& targets) {
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                          SafetensorsFile::Open(directory + "/tensors.safetensors"));
  for (const StateTensor& target : targets) {
    const SafetensorsTensor* saved = file->Find(target.name);
    if (!saved) return BadCheckpoint(directory, absl::StrCat("'", target.name, "' is missing"));
    if (saved->type != SavedType(target.tensor) || saved->shape != target.tensor.sizes().vec()) {
      return BadCheckpoint(directory, absl::StrCat("'", target.name, "' has another shape"));
    }
  }
  at::NoGradGuard no_grad;
  for (const StateTensor& target : targets) {
    const SafetensorsTensor* saved = file->Find(target.name);
    at::Tensor values = at::empty(saved->shape, target.tensor.scalar_type());
    std::memcpy(values.mutable_data_ptr(), saved->bytes.data(), saved->bytes.size());
    at::Tensor(target.tensor).copy_(values);
  }
  return absl::OkStatus();
}

std::string StateToJson(const TrainingState& s, int64_t optimizer_steps) {
  nlohmann::json json{{"step", s.step},
                        {"optimizer_steps", optimizer_steps},  // fewer, if some steps had nothing to learn from
                        {"trained_tokens", s.trained_tokens},
                        {"validation_loss", s.validation_loss},
                        {"validation_token_accuracy", s.validation_token_accuracy},
                        {"best_validation_loss", s.best_validation_loss},
                        {"best_step", s.best_step},
                        {"evaluations_since_best", s.evaluations_since_best}};
  if (s.validation_preference_accuracy != 0 || s.validation_reward_margin != 0) {
    json["validation_reward_margin"] = s.validation_reward_margin;
    json["validation_preference_accuracy"] = s.validation_preference_accuracy;
  }
  if (!s.base_model.empty()) json["base_model"] = s.base_model;
  if (s.method) json["method"] = ToJson(*s.method);
  return json.dump();
}

}  // namespace

absl::Status SaveCheckpoint(const std::string& directory, const TrainingState& state, const Method& method,
                            AdamW* optimizer) {
  const std::string staging = directory + ".partial";
  ATTUNE_RETURN_IF_ERROR(RemoveAll(staging));
  ATTUNE_RETURN_IF_ERROR(RemoveAll(directory));  // an earlier run's, of the same step
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(staging));
  absl::Status status = CatchTorch([&]() -> absl::Status {
    std::vector<at::Tensor> alive;  // owns the bytes until they are written
    std::vector<SafetensorsTensor> tensors;
    for (const StateTensor& saved : SavedTensors(method, optimizer)) {
      alive.push_back(saved.tensor.cpu().contiguous());
      tensors.push_back({saved.name, alive.back().sizes().vec(), SavedType(alive.back()),
                         absl::string_view(static_cast<const char*>(alive.back().const_data_ptr()),
                                           alive.back().nbytes())});
    }
    return WriteSafetensors(staging + "/tensors.safetensors", tensors, {});
  });
  if (status.ok()) status = WriteFileDurably(staging + "/state.json", StateToJson(state, optimizer->steps()));
  if (status.ok()) status = PublishDirectory(staging, directory);
  if (!status.ok()) RemoveAll(staging).IgnoreError();
  return status;
}

namespace {

absl::StatusOr<TrainingState> ReadState(const std::string& directory, int64_t* optimizer_steps) {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(directory + "/state.json"));
  nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return BadCheckpoint(directory, "state.json is no JSON object");
  TrainingState state;
  try {
    state = TrainingState{json.at("step"), json.at("trained_tokens"), json.at("validation_loss"),
             json.at("validation_token_accuracy"), json.at("best_validation_loss"), json.at("best_step"),
             json.at("evaluations_since_best")};
    state.validation_reward_margin = json.value("validation_reward_margin", 0.0);
    state.validation_preference_accuracy = json.value("validation_preference_accuracy", 0.0);
    *optimizer_steps = json.value("optimizer_steps", state.step);
    state.base_model = json.value("base_model", "");
  } catch (const nlohmann::json::exception& error) {
    return BadCheckpoint(directory, error.what());
  }
  if (const auto spec = json.find("method"); spec != json.end()) {
    if (!FromJson(*spec, &state.method.emplace())) return BadCheckpoint(directory, "its method cannot be read");
  }
  return state;
}

}  // namespace

absl::StatusOr<TrainingState> ReadTrainingState(const std::string& directory) {
  int64_t optimizer_steps = 0;
  return ReadState(directory, &optimizer_steps);
}

absl::StatusOr<TrainingState> LoadCheckpoint(const std::string& directory, Method* method, AdamW* optimizer) {
  int64_t optimizer_steps = 0;
  ATTUNE_ASSIGN_OR_RETURN(TrainingState state, ReadState(directory, &optimizer_steps));
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&] { return LoadTensors(directory, SavedTensors(*method, optimizer)); }));
  optimizer->set_steps(optimizer_steps);
  return state;
}

absl::Status LoadParameters(const std::string& directory, Method* method) {
  return CatchTorch([&] { return LoadTensors(directory, SavedTensors(*method, nullptr)); });
}

}  // namespace attune
