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
// data of its own; "seconds" are then of a step of all), "warmup", "steps",
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
#include "server/model/kernels/quantized_matrix.h"
#include "server/model/torch_target.h"
#include "server/tuning/defaults.h"
#include "server/tuning/trainer.h"

namespace attune {
namespace {

using Json = nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

void Quantize(const std::string& format, LayerWeights* layer) {
  if (format == "none") return;
  const cuda::Codes codes = format == "int8" ? cuda::Codes::kInt8 : cuda::Codes::kNf4;
  for (int i = 0; i < kLinears; ++i) {
    layer->quantized[i] = std::make_shared<QuantizedMatrix>(attune::Quantize(layer->linear[i], codes));
    layer->linear[i] = at::Tensor();
  }
}

std::shared_ptr<BaseModel> RandomModel(const Json& work, const ComputeTarget& target) {
  auto base = std::make_shared<BaseModel>();
  ModelConfig& c = base->config;
  c.family = "llama";
  c.layers = work.at("layers");
  c.hidden = work.at("hidden");
  c.intermediate = work.at("intermediate");
  c.heads = work.at("heads");
  c.kv_heads = work.at("kv_heads");
  c.head_dim = c.hidden / c.heads;
  c.vocab = work.at("vocab");
  c.context = 1 << 16;
  c.tied_head = work.value("tied_head", true);
  base->target = target;
  const at::TensorOptions options = at::TensorOptions(TypeOf(target)).device(DeviceOf(target));
  auto random = [&](at::IntArrayRef sizes) { return at::empty(sizes, options).normal_(0, 0.02); };
  DecoderWeights& w = base->weights;
  w.embedding_VD = random({c.vocab, c.hidden});
  w.final_norm_D = at::ones({c.hidden}, options);
  w.head_VD = c.tied_head ? w.embedding_VD : random({c.vocab, c.hidden});
  for (int64_t i = 0; i < c.layers; ++i) {
    LayerWeights layer;
    layer.attention_norm_D = at::ones({c.hidden}, options);
    layer.ffn_norm_D = at::ones({c.hidden}, options);
    layer.linear = {random({c.qkv_size(), c.hidden}), random({c.hidden, c.q_size()}),
                    random({2 * c.intermediate, c.hidden}), random({c.hidden, c.intermediate})};
    Quantize(work.value("quantization", "none"), &layer);
    w.layers.push_back(std::move(layer));
  }
  const at::Tensor angles = at::outer(at::arange(c.context, at::kFloat),
                                      at::pow(10000.0, -at::arange(c.head_dim / 2, at::kFloat) * 2 / c.head_dim));
  base->rope_cos_PH = angles.cos().to(options.device());
  base->rope_sin_PH = angles.sin().to(options.device());
  return base;
}

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

absl::StatusOr<std::unique_ptr<Job>> MakeJob(const Json& work, const std::shared_ptr<const BaseModel>& base, Arbiter* arbiter) {
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
                                          work.value("activation_bytes", int64_t{0}));
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

absl::StatusOr<Json> Run(const Json& work) {
  ATTUNE_ASSIGN_OR_RETURN(const ComputeTarget target,
                          ChooseComputeTarget(work.value("device", "cuda"), work.value("precision", "bfloat16")));
  PrepareDevice(target, /*deterministic=*/false);
  at::manual_seed(1);
  const std::shared_ptr<const BaseModel> base = RandomModel(work, target);
  Arbiter arbiter(&Clock::Real(), {});
  std::vector<std::unique_ptr<Job>> jobs;
  for (int64_t i = 0; i < work.value("jobs", int64_t{1}); ++i) {
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, MakeJob(work, base, &arbiter));
    jobs.push_back(std::move(job));
  }
  ATTUNE_ASSIGN_OR_RETURN(
      Json out, jobs.size() == 1 ? TimeSteps(work, target, jobs[0]->trainer.get()) : TimeJobs(work, &jobs));
  if (target.device == ComputeTarget::Device::kCuda) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
    out["peak_bytes"] = stats.allocated_bytes[0].peak;
    out["peak_reserved_bytes"] = stats.reserved_bytes[0].peak;
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
