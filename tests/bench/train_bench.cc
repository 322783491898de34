// Times whole optimizer steps of a model with random weights: what tests/bench/run_train
// compares with transformers and PEFT.
//
//   train_bench WORK.json
//
// WORK.json: {"device": "cuda", "precision": "bfloat16", "layers", "hidden", "intermediate",
// "heads", "kv_heads", "vocab", "method": "lora"|"soft_prompt"|"full", "rank", "dropout",
// "virtual_tokens", "batch", "length", "loss_tokens" (of each example; 0: all), "vary" (lengths
// differ by up to this share), "activation_bytes" (0: what is free), "quantization" (of the
// base), "optimizer_state", "jobs" (side by side on one base model, each with an optimizer and
// data of its own; "seconds" are then of a step of all), "joint" (false: their small passes are
// not one batch), "warmup", "steps",
// "trace" (a file: a Chrome trace of the last step's kernels)}.
// Prints one line of JSON: {"seconds": [per step], "tokens": [per step], "losses": [...],
// "peak_bytes": highest that the tensors took}.
#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/model/torch_target.h"
#include "server/tuning/defaults.h"
#include "server/tuning/estimate.h"
#include "server/tuning/trainer.h"
#include "tests/bench/work_model.h"

namespace attune {
namespace {

using Json = nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

MethodSpec SpecOf(const Json& work) {
  const std::string method = work.at("method");
  if (method == "full") return FullSpec{};
  if (method == "soft_prompt") {
    SoftPromptSpec spec;
    spec.num_virtual_tokens = work.at("virtual_tokens");
    spec.init = SoftPromptSpec::Init::kRandom;
    return spec;
  }
  LoraSpec spec;
  spec.rank = work.at("rank");
  spec.dropout = work.value("dropout", 0.0);
  return spec;
}

// As many examples as all steps take, each once.
std::vector<Example> RandomExamples(const Json& work, int64_t count) {
  std::mt19937 random(1);
  const int64_t length = work.at("length"), loss_tokens = work.value("loss_tokens", 0), vocab = work.at("vocab");
  const double vary = work.value("vary", 0.0);
  std::vector<Example> examples(count);
  for (Example& example : examples) {
    const double share = 1 - vary + 2 * vary * (random() % 1000) / 999.0;
    const int64_t n = std::max<int64_t>(2, std::llround(length * share));
    for (int64_t t = 0; t < n; ++t) {
      example.tokens.push_back(static_cast<int32_t>(random() % vocab));
      example.has_loss.push_back(loss_tokens == 0 || t >= n - loss_tokens);
    }
  }
  return examples;
}

void StartTrace() {
  using namespace torch::autograd::profiler;  // NOLINT: a name of five parts
  const ProfilerConfig config(ProfilerState::KINETO);
  const std::set<ActivityType> activities = {ActivityType::CUDA};
  prepareProfiler(config, activities);
  enableProfiler(config, activities);
}

// One tuning job: everything that it does not share.
struct Job {
  std::vector<Example> examples;
  std::unique_ptr<Method> method;
  std::unique_ptr<Batcher> batcher;
  std::unique_ptr<Trainer> trainer;
};

absl::StatusOr<std::unique_ptr<Job>> MakeJob(const Json& work, const std::shared_ptr<const BaseModel>& base,
                                             Arbiter* arbiter, JointPasses* joint) {
  const int64_t steps = work.at("warmup").get<int64_t>() + work.at("steps").get<int64_t>(), batch = work.at("batch");
  auto made = std::make_unique<Job>();  // the batcher keeps the examples' address
  Job& job = *made;
  job.examples = RandomExamples(work, steps * batch);
  ATTUNE_ASSIGN_OR_RETURN(job.method, MakeMethod(SpecOf(work), base, 1));
  Hyperparameters given;
  given.max_steps = static_cast<int32_t>(steps);
  given.batch_size = static_cast<int32_t>(batch);
  given.micro_batch_tokens = work.value("micro_batch_tokens", int64_t{1} << 20);
  given.learning_rate = 1e-4;
  given.optimizer_state = work.value("optimizer_state", "");
  const Hyperparameters h = ResolveHyperparameters(
      SpecOf(work), given,
      {base->config.Parameters(), static_cast<int64_t>(job.examples.size()), 100, 0, base->target});
  job.batcher =
      std::make_unique<Batcher>(&job.examples, batch, h.micro_batch_tokens, job.method->virtual_tokens(), 1);
  job.trainer = std::make_unique<Trainer>(base.get(), job.method.get(), job.batcher.get(), h, arbiter,
                                          work.value("activation_bytes", int64_t{0}), joint);
  return made;
}

// Seconds, tokens and loss of each step after the warm-up.
absl::StatusOr<Json> TimeSteps(const Json& work, const ComputeTarget& target, Trainer* trainer) {
  const int64_t warmup = work.at("warmup"), steps = work.at("steps");
  Json seconds = Json::array(), tokens = Json::array(), losses = Json::array();
  for (int64_t step = 0; step < warmup + steps; ++step) {
    Synchronize(target);
    const bool traced = work.contains("trace") && step + 1 == warmup + steps;
    if (traced) StartTrace();
    const auto start = SteadyClock::now();
    ATTUNE_ASSIGN_OR_RETURN(const StepResult result, trainer->Step(step));
    Synchronize(target);
    const std::chrono::duration<double> taken = SteadyClock::now() - start;
    if (traced) torch::autograd::profiler::disableProfiler()->save(work.at("trace"));
    if (step < warmup || traced) continue;
    seconds.push_back(taken.count());
    tokens.push_back(result.tokens);
    losses.push_back(result.loss);
  }
  return Json{{"seconds", seconds}, {"tokens", tokens}, {"losses", losses}};
}

// All jobs at once, each on a thread; the time from the end of the last one's warm-up.
absl::StatusOr<Json> TimeJobs(const Json& work, std::vector<std::unique_ptr<Job>>* jobs) {
  const int64_t warmup = work.at("warmup"), steps = work.at("steps");
  std::barrier ready(static_cast<std::ptrdiff_t>(jobs->size()) + 1);
  std::vector<absl::StatusOr<StepResult>> last(jobs->size(), absl::UnknownError("not run"));
  std::atomic<int64_t> tokens = 0;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < jobs->size(); ++i) {
    threads.emplace_back([&, i] {
      for (int64_t step = 0; step < warmup + steps; ++step) {
        if (step == warmup) ready.arrive_and_wait();
        last[i] = (*jobs)[i]->trainer->Step(step);
        if (last[i].ok() && step >= warmup) tokens += last[i]->tokens;
      }
    });
  }
  ready.arrive_and_wait();
  const auto start = SteadyClock::now();
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> taken = SteadyClock::now() - start;
  for (const auto& result : last) ATTUNE_RETURN_IF_ERROR(result.status());
  return Json{{"seconds", {taken.count()}}, {"tokens", {tokens.load()}}, {"losses", {last[0]->loss}}};
}

// What admission would have said, weights and rotary tables included.
int64_t Estimated(const Json& work, const BaseModel& base, const Job& job) {
  MemoryInputs inputs;
  for (const Parameter& parameter : job.method->parameters()) inputs.trainable_parameters += parameter.leaf.numel();
  inputs.micro_batch_tokens = job.batcher->MaxTokens();
  const int64_t length = work.at("length"), loss_tokens = work.value("loss_tokens", 0);
  inputs.loss_tokens = loss_tokens ? inputs.micro_batch_tokens * loss_tokens / length : inputs.micro_batch_tokens;
  inputs.lora_rank = work.value("rank", 0);
  inputs.trains_weights = work.at("method") == "full";
  inputs.bfloat16 = work.value("precision", "bfloat16") == "bfloat16";
  inputs.quantized = work.value("quantization", "none") != "none";
  inputs.is_8bit_optimizer = work.value("optimizer_state", "") == "int8";
  inputs.on_gpu = base.target.device == ComputeTarget::Device::kCuda;
  inputs.activation_bytes = work.value("activation_bytes", int64_t{0});
  const WeightFormat format = ParseWeightFormat(work.value("quantization", "none"));
  return WeightBytes(base.config, base.target, format) +
         static_cast<int64_t>(base.rope_cos_PH.nbytes() + base.rope_sin_PH.nbytes()) +
         EstimateTrainingBytes(base.config, inputs);
}

absl::StatusOr<Json> Run(const Json& work) {
  ATTUNE_ASSIGN_OR_RETURN(const ComputeTarget target,
                          ChooseComputeTarget(work.value("device", "cuda"), work.value("precision", "bfloat16")));
  PrepareDevice(target, /*deterministic=*/false);
  at::manual_seed(1);
  const std::shared_ptr<const BaseModel> base = MakeWorkModel(work, target, std::max<int64_t>(1 << 16, 2 * work.at("length").get<int64_t>()));
  Arbiter arbiter(&Clock::Real(), {});
  JointPasses joint;
  std::vector<std::unique_ptr<Job>> jobs;
  for (int64_t i = 0; i < work.value("jobs", int64_t{1}); ++i) {
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, MakeJob(work, base, &arbiter, work.value("joint", true) ? &joint : nullptr));
    jobs.push_back(std::move(job));
  }
  ATTUNE_ASSIGN_OR_RETURN(
      Json out, jobs.size() == 1 ? TimeSteps(work, target, jobs[0]->trainer.get()) : TimeJobs(work, &jobs));
  if (target.device == ComputeTarget::Device::kCuda) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
    out["peak_bytes"] = stats.allocated_bytes[0].peak;
    out["peak_reserved_bytes"] = stats.reserved_bytes[0].peak;
    out["estimated_bytes"] = Estimated(work, *base, *jobs[0]);
  }
  return out;
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: train_bench WORK.json\n";
    return 2;
  }
  const absl::StatusOr<std::string> text = attune::ReadFile(argv[1]);
  if (!text.ok()) {
    std::cerr << text.status() << "\n";
    return 1;
  }
  absl::StatusOr<nlohmann::json> result = absl::UnknownError("not run");
  const absl::Status status = attune::CatchTorch([&] {
    result = attune::Run(nlohmann::json::parse(*text));
    return result.status();
  });
  if (!status.ok()) {
    std::cerr << status << "\n";
    return 1;
  }
  std::cout << result->dump() << std::endl;
  return 0;
}
