// Times what tests/bench/run_cpu compares with transformers and PEFT: optimizer steps
// of LoRA, and greedy generation.
//
//   cpu_bench MODEL.gguf WORK.json
//
// WORK.json: {"steps": [[[ids...], prompt tokens] examples...] batches, "rank": R, "alpha": A,
// "prompt": [ids...], "new_tokens": N, "streams": [1, 8], "precision": "float32"}, the last as attuned's
// --precision. Prints one line of JSON:
// {"lora": {"seconds": [per step], "losses": [...]}, "decode": {"1": {"seconds": s, "answers": [[ids]]}}}.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/engine/engine.h"
#include "server/model/compute_target.h"
#include "server/tuning/defaults.h"
#include "server/tuning/trainer.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using Json = nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

absl::StatusOr<std::shared_ptr<const BaseModel>> Load(const std::string& file, const TempFolder& temp,
                                                      const std::string& precision) {
  std::filesystem::create_symlink(std::filesystem::absolute(file), temp.File("model.gguf"));
  ATTUNE_ASSIGN_OR_RETURN(const ComputeTarget target, ChooseComputeTarget("cpu", precision));
  return LoadBaseModel(temp.path(), temp.path(), target);
}

std::vector<Example> Examples(const Json& batch) {
  std::vector<Example> examples;
  for (const Json& given : batch) {
    Example example;
    example.tokens = given.at(0).get<std::vector<int32_t>>();
    example.prompt_tokens = given.at(1).get<int64_t>();
    example.has_loss.assign(example.tokens.size(), 1);
    std::fill_n(example.has_loss.begin(), example.prompt_tokens, 0);
    examples.push_back(std::move(example));
  }
  return examples;
}

// Every batch is an epoch of a Batcher of its own, so that the peer sees the same ones.
absl::StatusOr<Json> TimeLora(std::shared_ptr<const BaseModel> base, const Json& work) {
  LoraSpec spec;
  spec.rank = work.at("rank").get<int32_t>();
  spec.alpha = work.at("alpha").get<double>();
  spec.dropout = 0.05;
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Method> method, MakeMethod(spec, base, 1));
  Hyperparameters given;
  given.max_steps = work.at("steps").size();
  const Hyperparameters h = ResolveHyperparameters(spec, given, {base->config.Parameters(), 1000, 1, 0, base->target});
  Json seconds = Json::array(), losses = Json::array();
  for (const Json& batch : work.at("steps")) {
    const std::vector<Example> examples = Examples(batch);
    Batcher batcher(&examples, examples.size(), h.micro_batch_tokens, 0, 1);
    Trainer trainer(base.get(), method.get(), &batcher, h, nullptr);
    const auto start = SteadyClock::now();
    ATTUNE_ASSIGN_OR_RETURN(StepResult result, trainer.Step(0));
    seconds.push_back(SecondsSince(start));
    losses.push_back(result.loss);
  }
  return Json{{"seconds", seconds}, {"losses", losses}};
}

absl::StatusOr<Json> TimeDecode(std::shared_ptr<const BaseModel> base, const Json& work, int streams) {
  Arbiter::Options options;
  options.memory_bytes = int64_t{8} << 30;
  Arbiter arbiter(&Clock::Real(), options);
  EngineOptions engine_options;
  engine_options.kv_tokens = 8192;
  auto engine = MakeEngine(engine_options, ComputeTarget{}, &arbiter, &Clock::Real(), nullptr);
  auto model = std::make_shared<ServedModel>();
  model->base = std::move(base);
  std::vector<std::unique_ptr<Generation>> running;
  const auto start = SteadyClock::now();
  for (int i = 0; i < streams; ++i) {
    GenerateParams params;
    params.model = model;
    params.prompt = work.at("prompt").get<std::vector<int32_t>>();
    params.max_tokens = work.at("new_tokens").get<int>();
    params.ignore_eos = true;
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Generation> generation, engine->Generate(std::move(params)));
    running.push_back(std::move(generation));
  }
  Json answers = Json::array();
  for (const auto& generation : running) {
    Json answer = Json::array();
    GenerationUpdate update;
    while (generation->Next(&update)) {
      if (update.has_token) answer.push_back(update.token.id);
    }
    ATTUNE_RETURN_IF_ERROR(generation->status());
    answers.push_back(answer);
  }
  return Json{{"seconds", SecondsSince(start)}, {"answers", answers}};
}

absl::StatusOr<Json> Run(const std::string& model, const std::string& file) {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(file));
  const Json work = Json::parse(text);
  TempFolder temp;
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const BaseModel> base, Load(model, temp, work.value("precision", "float32")));
  Json result;
  if (!work.at("steps").empty()) {
    ATTUNE_ASSIGN_OR_RETURN(result["lora"], TimeLora(base, work));
  }
  ReleaseThreads();  // as jobs' threads do when they end
  for (const Json& streams : work.at("streams")) {
    ATTUNE_ASSIGN_OR_RETURN(result["decode"][absl::StrCat(streams.get<int>())],
                            TimeDecode(base, work, streams.get<int>()));
  }
  return result;
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: cpu_bench MODEL.gguf WORK.json\n";
    return 2;
  }
  const absl::StatusOr<nlohmann::json> result = attune::Run(argv[1], argv[2]);
  if (!result.ok()) {
    std::cerr << result.status() << "\n";
    return 1;
  }
  std::cout << result->dump() << std::endl;
  return 0;
}
