// Times generation by the engine with random weights: what tests/bench/run_serve compares with
// transformers and PEFT.
//
//   serve_bench WORK.json
//
// WORK.json: {"device": "cuda", "precision": "bfloat16", "layers", "hidden", "intermediate",
// "heads", "kv_heads", "vocab", "tied_head", "batch" (requests at once), "prompt", "new" (tokens),
// "models" (a list of kinds that requests take in turn: "base", "text_prompt", "lora", "soft_prompt", "prefix", "ia3"; each
// request has an adapter of its own, or with "shared_adapter" all have one; a text prompt is the base model's weights after
// "text_prompt_tokens", 200, the same for all), "same_prompts" (in each round),
// "form" ("regex" or "grammar": every answer's, of made-up words; how it is checked is part of the time),
// "own_tokens" (with "same_prompts": of each prompt's end, that are not), "decode_weights", "decode_loras", "batch_invariant", "temperature", "top_p", "rank", "virtual_tokens", "kv_tokens", "swap_bytes", "rounds", "trace" (a file: a Chrome
// trace of the last round's kernels)}. Prints one line of JSON: {"decode_seconds": [a round's steps that add a token to
// every request and read no prompt], "decode_tokens": [...], "first_token_seconds": [of the first request], "seconds":
// [a whole round], "preempted": [requests that made way for others], "swapped_bytes": [that were copied to the host],
// "peak_bytes"}.
#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/adapters/adapter.h"
#include "server/adapters/lora_codes.h"
#include "server/device/arbiter.h"
#include "server/engine/engine.h"
#include "server/grammar/grammar.h"
#include "tests/bench/work_model.h"
#include "tests/testing/random_adapter.h"
#include "tests/testing/word_tokenizer.h"

namespace attune {
namespace {

using Json = nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

std::shared_ptr<const Adapter> RandomAdapter(const BaseModel& base, const std::string& kind, const Json& work) {
  if (kind == "base") return nullptr;
  auto adapter = std::make_shared<Adapter>();
  const at::TensorOptions options = base.weights.embedding_VD.options();
  if (kind == "soft_prompt") {
    adapter->soft_prompt = std::make_unique<SoftPrompt>();
    adapter->soft_prompt->embeddings_ND =
        at::randn({work.value("virtual_tokens", int64_t{20}), base.config.hidden}, options) * 0.02;
    return adapter;
  }
  if (kind == "prefix") return RandomPrefix(base.config, work.value("virtual_tokens", int64_t{20}), options);
  if (kind == "ia3") return RandomIa3(base.config, options);
  const int64_t rank = work.value("rank", int64_t{16});
  adapter->lora = std::make_unique<LoraAdapter>();
  adapter->lora->rank = rank;
  adapter->lora->layers.resize(base.config.layers);
  for (auto& layer : adapter->lora->layers) {
    for (int p = 0; p < kProjections; ++p) {
      const ProjectionSlice slice = SliceOf(base.config, static_cast<Projection>(p));
      layer[p] = {at::randn({rank, InputSize(base.config, slice.linear)}, options) * 0.02,
                  at::randn({slice.rows, rank}, options) * 0.02, 2.0};
    }
  }
  if (base.target.int8_loras) AddLoraCodes(adapter.get());
  return adapter;
}

// The beginning of a text prompt's requests: of the base model's weights, under an identity of its own.
std::vector<int32_t> TextPromptTokens(const Json& work) {
  std::mt19937 random(77);
  std::vector<int32_t> tokens(work.value("text_prompt_tokens", 200));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % work.at("vocab").get<int64_t>());
  return tokens;
}

// When each step ended, and what was in it.
class StepLog final : public EngineObserver {
 public:
  struct Entry {
    SteadyClock::time_point end;
    int sequences, prompt_tokens, generated;
  };
  void OnStep(int sequences, int prompt_tokens, int generated, double) override {
    entries.push_back({SteadyClock::now(), sequences, prompt_tokens, generated});
  }
  void OnPreempted() override { ++preempted; }
  void OnSwapped(int64_t, int64_t bytes_out, int64_t) override { swapped_bytes += bytes_out; }
  void Clear() {
    entries.clear();
    preempted = swapped_bytes = 0;
  }
  // To be read while nothing runs.
  std::vector<Entry> entries;
  int64_t preempted = 0, swapped_bytes = 0;
};

// A form in which an answer can always go on, of tokens that are made-up words; null if the work names none.
absl::StatusOr<std::shared_ptr<const Grammar>> FormOf(const Json& work) {
  if (!work.contains("form")) return nullptr;
  GrammarCompiler compiler(WordTokenizer(work.at("vocab")), /*cache_bytes=*/64 << 20);
  if (work.at("form") == "regex") return compiler.Compile({AnswerForm::Kind::kRegex, "([a-z]+( [a-z]+)*[.!?] )*", {}});
  constexpr char kRecords[] = R"(
root ::= record | record root
record ::= [a-z ]+ ": {\"name\": \"" [a-z ]+ "\", \"values\": [" number (", " number)* "]}\n"
number ::= "-"? [0-9]+ ("." [0-9]+)?
)";
  return compiler.Compile({AnswerForm::Kind::kGrammar, kRecords, {}});
}

absl::Status RunRound(const Json& work, int round, const std::vector<std::shared_ptr<const ServedModel>>& models,
                      const std::shared_ptr<const Grammar>& form, Engine* engine, StepLog* log, Json* out) {
  const int batch = work.at("batch"), prompt = work.at("prompt"), most = work.at("new");
  std::mt19937 random(work.value("same_prompts", false) ? 0 : round + 1), own(round + 1);
  log->Clear();
  const auto start = SteadyClock::now();
  std::vector<std::unique_ptr<Generation>> running;
  for (int i = 0; i < batch; ++i) {
    GenerateParams params;
    params.model = models[i];
    if (models[i]->info.kind == ModelKind::kTextPrompt) params.prompt = TextPromptTokens(work);
    for (int t = 0; t < prompt; ++t) {
      std::mt19937& source = t < prompt - work.value("own_tokens", 0) ? random : own;
      params.prompt.push_back(static_cast<int32_t>(source() % work.at("vocab").get<int64_t>()));
    }
    params.max_tokens = most;
    params.ignore_eos = true;
    if (form) {
      params.grammar = form;
      params.stop_tokens = {0};  // a form has to be able to end; this is one of thousands of tokens where it may
    }
    params.sampling.temperature = work.value("temperature", 0.0);
    params.sampling.top_p = work.value("top_p", 1.0);
    ATTUNE_ASSIGN_OR_RETURN(auto generation, engine->Generate(std::move(params)));
    running.push_back(std::move(generation));
  }
  GenerationUpdate update;
  for (auto& generation : running) {
    while (generation->Next(&update)) {
    }
    ATTUNE_RETURN_IF_ERROR(generation->status());
  }
  (*out)["first_token_seconds"].push_back(running[0]->timings().first_token_seconds);
  const std::chrono::duration<double> whole = SteadyClock::now() - start;
  (*out)["seconds"].push_back(whole.count());
  while (engine->stats().running > 0) {
  }
  double seconds = 0;
  int64_t tokens = 0;
  for (size_t i = 1; i < log->entries.size(); ++i) {
    const StepLog::Entry &before = log->entries[i - 1], &entry = log->entries[i];
    const bool whole_batch = entry.generated == batch && entry.prompt_tokens == 0 && before.prompt_tokens == 0 &&
                             before.generated == batch;
    if (!whole_batch) continue;
    seconds += std::chrono::duration<double>(entry.end - before.end).count();
    tokens += entry.generated;
  }
  (*out)["decode_seconds"].push_back(seconds);
  (*out)["decode_tokens"].push_back(tokens);
  (*out)["preempted"].push_back(log->preempted);
  (*out)["swapped_bytes"].push_back(log->swapped_bytes);
  return absl::OkStatus();
}

absl::StatusOr<Json> Run(const Json& work) {
  ATTUNE_ASSIGN_OR_RETURN(ComputeTarget target,
                          ChooseComputeTarget(work.value("device", "cuda"), work.value("precision", "bfloat16")));
  target.decode_weights = ParseDecodeWeights(work.value("decode_weights", "as-loaded"));
  target.int8_loras = work.value("decode_loras", "as-loaded") == "int8";
  target.batch_invariant = work.value("batch_invariant", false);
  PrepareDevice(target, /*deterministic=*/false);
  at::manual_seed(1);
  const std::shared_ptr<const BaseModel> base = MakeWorkModel(work, target, /*context=*/8192);
  const std::vector<std::string> kinds = work.value("models", std::vector<std::string>{"base"});
  std::vector<std::shared_ptr<const ServedModel>> models;
  for (int i = 0; i < work.at("batch").get<int>(); ++i) {
    if (i > 0 && work.value("shared_adapter", false)) {
      models.push_back(models[0]);
      continue;
    }
    auto model = std::make_shared<ServedModel>();
    model->base = base;
    const std::string& kind = kinds[i % kinds.size()];
    const bool is_text_prompt = kind == "text_prompt";
    if (is_text_prompt) model->info.kind = ModelKind::kTextPrompt;
    if (!is_text_prompt) model->adapter = RandomAdapter(*base, kind, work);
    model->uid = is_text_prompt ? work.at("batch").get<int>() + 1 : i + 1;  // one for all of its requests
    models.push_back(std::move(model));
  }
  ATTUNE_ASSIGN_OR_RETURN(const std::shared_ptr<const Grammar> form, FormOf(work));
  Synchronize(target);
  Arbiter::Options arbiter_options;
  arbiter_options.memory_bytes = int64_t{60} << 30;
  Arbiter arbiter(&Clock::Real(), arbiter_options);
  EngineOptions options;
  options.max_sequences = std::max(64, work.at("batch").get<int>());
  options.max_batch_tokens = work.value("max_batch_tokens", 2048);
  options.kv_tokens = work.value("kv_tokens", int64_t{65536});
  options.swap_bytes = work.value("swap_bytes", int64_t{0});
  StepLog log;
  Json out = Json::object();
  {
    const std::unique_ptr<Engine> engine = MakeEngine(options, target, &arbiter, &Clock::Real(), &log);
    const int rounds = work.value("rounds", 3);
    for (int round = -1; round < rounds; ++round) {  // the first is for graphs to be made
      const bool traced = work.contains("trace") && round + 1 == rounds;
      Json found = Json::object();
      if (traced) {
        using namespace torch::autograd::profiler;  // NOLINT: a name of five parts
        const std::set<ActivityType> activities = {ActivityType::CUDA};
        prepareProfiler(ProfilerConfig(ProfilerState::KINETO), activities);
        enableProfiler(ProfilerConfig(ProfilerState::KINETO), activities);
      }
      ATTUNE_RETURN_IF_ERROR(RunRound(work, round, models, form, engine.get(), &log, &found));
      if (traced) torch::autograd::profiler::disableProfiler()->save(work.at("trace"));
      if (round < 0) continue;
      for (const auto& [key, value] : found.items()) out[key].push_back(value[0]);
    }
  }
  if (target.device == ComputeTarget::Device::kCuda) {
    out["peak_bytes"] = c10::cuda::CUDACachingAllocator::getDeviceStats(0).allocated_bytes[0].peak;
  }
  return out;
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: serve_bench WORK.json\n";
    return 2;
  }
  std::ifstream file(argv[1]);
  const auto work = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (work.is_discarded()) {
    std::cerr << argv[1] << " is no JSON\n";
    return 2;
  }
  const auto result = attune::Run(work);
  if (!result.ok()) {
    std::cerr << "serve_bench: " << result.status() << "\n";
    return 1;
  }
  std::cout << result->dump() << "\n";
  return 0;
}
