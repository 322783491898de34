// The `attune` command against a fake server: requests, output, exit codes.
#include <gmock/gmock.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <thread>

#include "absl/strings/str_split.h"
#include "common/file.h"
#include "tests/testing/fake_services.h"
#include "tests/testing/run_cli.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using testing::CliResult;
using ::testing::ElementsAre;
using testing::FakeServer;
using testing::FakeState;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::JobLife;
using ::testing::Not;
using ::testing::Pair;
using testing::RunAttune;
using ::testing::StartsWith;
using testing::Unavailable;
using ::testing::UnorderedElementsAre;

class CliTest : public ::testing::Test {
 protected:
  CliResult Run(std::vector<std::string> args, const std::string& input = "") {
    args.insert(args.end(), {"--server", server_.target()});
    return RunAttune(std::move(args), input);
  }
  FakeState& state() { return server_.state(); }

  void AddModel(const std::string& id) {
    v1::Model& model = state().models["models/" + id];
    model.set_name("models/" + id);
    model.set_kind(v1::Model::BASE);
    model.set_size_bytes(2048);
  }

  void AddEndedJob(v1::TuningJob::State end) {
    v1::TuningJob& job = state().jobs["tuningJobs/j"];
    job.set_name("tuningJobs/j");
    job.set_state(end);
    job.set_tuned_model("models/tuned");
    state().events = JobLife(5, end);
  }

  // Fails the test unless `text` is JSON.
  static google::protobuf::Struct Json(const std::string& text) {
    google::protobuf::Struct json;
    auto status = google::protobuf::util::JsonStringToMessage(text, &json);
    EXPECT_TRUE(status.ok()) << status.ToString() << "\n" << text;
    return json;
  }
  static std::vector<google::protobuf::Struct> JsonLines(const std::string& text) {
    std::vector<google::protobuf::Struct> lines;
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty()))
      lines.push_back(Json(std::string(line)));
    return lines;
  }

  FakeServer server_;
};

// ---- errors and exit codes

TEST_F(CliTest, NotFoundIsThree) {
  CliResult r = Run({"models", "get", "none"});
  EXPECT_EQ(r.code, 3);
  EXPECT_EQ(r.out, "");
  EXPECT_EQ(r.err,
            "error: There is no 'models/none'. (MODEL_NOT_FOUND)\nSee which models there are: attune models list\n");
}

TEST_F(CliTest, ExitCodesByKindOfError) {
  const std::vector<std::pair<grpc::StatusCode, int>> expected = {
      {grpc::StatusCode::INVALID_ARGUMENT, 2},  {grpc::StatusCode::NOT_FOUND, 3},
      {grpc::StatusCode::ALREADY_EXISTS, 4},    {grpc::StatusCode::FAILED_PRECONDITION, 4},
      {grpc::StatusCode::ABORTED, 4},           {grpc::StatusCode::DEADLINE_EXCEEDED, 5},
      {grpc::StatusCode::PERMISSION_DENIED, 6}, {grpc::StatusCode::RESOURCE_EXHAUSTED, 6},
      {grpc::StatusCode::INTERNAL, 6},          {grpc::StatusCode::UNIMPLEMENTED, 6},
  };
  for (const auto& [code, exit] : expected) {
    state().FailNext("GetModel", 1, grpc::Status(code, "no"));
    CliResult r = Run({"models", "get", "m"});
    EXPECT_EQ(r.code, exit) << code;
    EXPECT_THAT(r.err, StartsWith("error: no ("));
  }
}

TEST_F(CliTest, UnreachableServerIsFiveAndSaysWhatToDo) {
  server_.Stop();
  CliResult r = Run({"models", "list"});
  EXPECT_EQ(r.code, 5);
  EXPECT_THAT(r.err, HasSubstr("cannot reach the server at " + server_.target()));
  EXPECT_THAT(r.err, HasSubstr("attuned --data-dir DIR"));
}

TEST_F(CliTest, TimeoutEndsACall) {
  state().endless = true;
  CliResult r = Run({"generate", "m", "x", "--timeout", "0.2"});
  EXPECT_EQ(r.code, 5);
  EXPECT_THAT(r.err, HasSubstr("--timeout"));
  EXPECT_EQ(Run({"models", "list", "--timeout", "soon"}).code, 2);
}

TEST_F(CliTest, BadRowsAreListed) {
  state().FailNext("UploadDataset", 1,
                   ToGrpcStatus(MakeError(absl::StatusCode::kInvalidArgument, "BAD_ROWS", "2 rows cannot be used", {},
                                          {{"line 3", "no label"}, {"line 7", "no text"}})));
  CliResult r = Run({"datasets", "upload", "-"}, "{}");
  EXPECT_EQ(r.code, 2);
  EXPECT_EQ(r.err,
            "error: 2 rows cannot be used (BAD_ROWS)\n  line 3: no label\n  line 7: no text\n"
            "Correct these rows, or leave them out with --skip-bad-rows.\n");
}

TEST(CliUsageTest, MistakesAreTwoAndSaySo) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"frobnicate"},
      {"models"},
      {"models", "get"},
      {"models", "list", "--no-such-option"},
      {"models", "update", "m"},
      {"models", "update", "m", "--label", "novalue"},
      {"models", "export", "m", "--format", "pickle"},
      {"tune", "--base", "m", "--data", "d"},
      {"tune", "--base", "m", "--data", "d", "--method", "magic"},
      {"tune", "--base", "m", "--data", "d", "--method", "full", "--rank", "8"},
      {"tune", "--base", "m", "--data", "d", "--method", "lora", "--targets", "q_proj,head"},
      {"tune", "--base", "m", "--data", "d", "--method", "lora", "--watch", "--estimate"},
      {"tune", "--base", "m", "--data", "d", "--method", "lora", "--dpo-beta", "0.1"},
      {"tune", "--base", "m", "--data", "d", "--method", "lora", "--teacher-top-k", "8"},
      {"tune", "--base", "m", "--data", "d", "--method", "lora", "--dpo", "--teacher", "t"},
      {"jobs", "list", "--state", "asleep"},
      {"generate", "m"},
      {"generate", "m", "text", "--var", "a=b"},
      {"generate", "m", "text", "--temperature", "warm"},
      {"classify", "m", "text"},
      {"evaluate", "m"},
  };
  for (const auto& args : wrong) {
    CliResult r = RunAttune(args);
    EXPECT_EQ(r.code, 2) << ::testing::PrintToString(args);
    EXPECT_THAT(r.err, StartsWith("error: ")) << ::testing::PrintToString(args);
    EXPECT_THAT(r.err, HasSubstr("(USAGE)"));
    EXPECT_EQ(r.out, "");
  }
}

TEST_F(CliTest, CallsAreRetried) {
  AddModel("m");
  state().FailNext("GetModel", 1, Unavailable());
  EXPECT_EQ(Run({"models", "get", "m"}).code, 0);
}

// ---- models

TEST_F(CliTest, ModelsListIsATable) {
  for (const char* id : {"a", "bb", "c"}) AddModel(id);
  CliResult r = Run({"models", "list"});
  EXPECT_EQ(r.code, 0);
  EXPECT_EQ(r.out,
            "ID  KIND  BASE     SIZE  CREATED  NAME\n"
            "a   BASE  -     2.0 KiB  -        -\n"
            "bb  BASE  -     2.0 KiB  -        -\n"
            "c   BASE  -     2.0 KiB  -        -\n");
}

TEST_F(CliTest, ListsAreJsonObjects) {
  EXPECT_EQ(Run({"models", "list", "--json"}).out, "{\"models\": []}\n");
  for (const char* id : {"a", "b", "c"}) AddModel(id);
  auto json = Json(Run({"--json", "models", "list"}).out);
  ASSERT_EQ(json.fields().at("models").list_value().values_size(), 3);
  EXPECT_EQ(json.fields().at("models").list_value().values(2).struct_value().fields().at("name").string_value(),
            "models/c");
}

TEST_F(CliTest, ImportFillsTheRequest) {
  CliResult r = Run({"models", "import", "/m/x.gguf", "--id", "x", "--display-name", "X", "--label", "a=b"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("models/x"));
  auto request = state().RequestOf<v1::ImportModelRequest>("ImportModel");
  EXPECT_EQ(request.source_path(), "/m/x.gguf");
  EXPECT_THAT(request.model().labels(), UnorderedElementsAre(Pair("a", "b")));
  CliResult adapter = Run({"models", "import", "/m/lora", "--id", "lora", "--base", "x"});
  EXPECT_EQ(adapter.code, 0) << adapter.err;
  EXPECT_EQ(state().models["models/lora"].base_model(), "models/x");
  CliResult again = Run({"models", "import", "/m/x.gguf", "--id", "x"});
  EXPECT_EQ(again.code, 4);
  EXPECT_THAT(again.err, HasSubstr("(MODEL_EXISTS)"));
}

TEST_F(CliTest, UpdateNamesWhatChanges) {
  AddModel("m");
  EXPECT_EQ(Run({"models", "update", "m", "--description", "", "--no-labels"}).code, 0);
  auto request = state().RequestOf<v1::UpdateModelRequest>("UpdateModel");
  EXPECT_THAT(request.update_mask().paths(), ElementsAre("description", "labels"));
}

TEST_F(CliTest, DeleteAndExport) {
  AddModel("m");
  EXPECT_EQ(Run({"models", "export", "models/m", "--format", "peft"}).out,
            "wrote 1 files, 2.0 KiB, to /exports/m on the server\n  adapter_config.json\n");
  EXPECT_EQ(state().RequestOf<v1::ExportModelRequest>("ExportModel").format(), v1::ExportModelRequest::PEFT);
  EXPECT_EQ(Run({"models", "delete", "m"}).out, "deleted models/m\n");
  EXPECT_EQ(Run({"models", "delete", "m"}).code, 3);
}

// ---- datasets

TEST_F(CliTest, UploadFillsTheHeader) {
  const std::string path = ::testing::TempDir() + "attune_cli_test.csv";
  ASSERT_TRUE(WriteFileDurably(path, "text,category\na,b\n").ok());
  CliResult r = Run({"datasets", "upload", path, "--id", "d", "--template",
                     "Text: {{text}}\\nLabel:", "--completion-template", " {{label}}", "--map", "category=label",
                     "--format", "csv", "--kind", "prompt-completion", "--skip-bad-rows"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(state().uploaded, "text,category\na,b\n");
  auto header = state().RequestOf<v1::UploadDatasetRequest::Header>("UploadDataset");
  EXPECT_EQ(header.dataset_id(), "d");
  EXPECT_TRUE(header.skip_bad_rows());
  EXPECT_EQ(header.dataset().prompt_template(), "Text: {{text}}\nLabel:");
  EXPECT_EQ(header.dataset().completion_template(), " {{label}}");
  EXPECT_THAT(header.dataset().column_mapping(), UnorderedElementsAre(Pair("category", "label")));
  EXPECT_EQ(header.dataset().format(), v1::Dataset::CSV);
  EXPECT_EQ(header.dataset().kind(), v1::Dataset::PROMPT_COMPLETION);
  EXPECT_THAT(r.out, HasSubstr("\"Text: {{text}}\\nLabel:\""));
}

TEST_F(CliTest, PreviewMarksLoss) {
  CliResult r = Run({"datasets", "preview", "d", "--model", "m", "--count", "1"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("2 tokens, 1 with loss"));
  EXPECT_THAT(r.out, HasSubstr("Text|[ b]|"));
  EXPECT_EQ(state().RequestOf<v1::PreviewDatasetRequest>("PreviewDataset").model(), "models/m");
}

// ---- tune and jobs

TEST_F(CliTest, TuneLoraFillsTheJob) {
  CliResult r = Run({"tune",
                     "--base",
                     "m",
                     "--data",
                     "d",
                     "--method",
                     "lora",
                     "--rank",
                     "8",
                     "--dropout",
                     "0",
                     "--targets",
                     "q_proj,v_proj",
                     "--rslora",
                     "--epochs",
                     "1.5",
                     "--learning-rate",
                     "2e-4",
                     "--schedule",
                     "linear",
                     "--warmup-ratio",
                     "0",
                     "--eval-steps",
                     "-1",
                     "--no-keep-best",
                     "--seed",
                     "7",
                     "--precision",
                     "float32",
                     "--quantize",
                     "nf4",
                     "--optimizer-state",
                     "int8",
                     "--validation-fraction",
                     "-1",
                     "--name",
                     "j",
                     "--output",
                     "tuned",
                     "--priority",
                     "-3",
                     "--label",
                     "a=b"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, StartsWith("queued tuningJobs/j: LoRA, rank 8, rsLoRA of models/m on datasets/d\n"));
  auto request = state().RequestOf<v1::CreateTuningJobRequest>("CreateTuningJob");
  const v1::TuningJob& job = request.tuning_job();
  EXPECT_EQ(request.tuning_job_id(), "j");
  EXPECT_EQ(job.base_model(), "models/m");
  EXPECT_EQ(job.validation_dataset(), "");
  EXPECT_EQ(job.lora().rank(), 8);
  EXPECT_TRUE(job.lora().has_dropout());
  EXPECT_THAT(job.lora().target_modules(), ElementsAre(v1::Q_PROJ, v1::V_PROJ));
  const v1::Hyperparameters& h = job.hyperparameters();
  EXPECT_DOUBLE_EQ(h.epochs(), 1.5);
  EXPECT_EQ(h.schedule(), v1::LINEAR);
  EXPECT_TRUE(h.has_warmup_ratio());
  EXPECT_FALSE(h.has_weight_decay());
  EXPECT_EQ(h.evaluation_steps(), -1);
  EXPECT_TRUE(h.has_keep_best());
  EXPECT_FALSE(h.keep_best());
  EXPECT_EQ(h.seed(), 7);
  EXPECT_EQ(h.precision(), "float32");
  EXPECT_EQ(h.quantization(), "nf4");
  EXPECT_EQ(h.optimizer_state(), "int8");
  EXPECT_DOUBLE_EQ(job.data().validation_fraction(), -1);
  EXPECT_EQ(job.tuned_model_id(), "tuned");
  EXPECT_EQ(job.priority(), -3);
}

TEST_F(CliTest, TuneStartsAndObjectives) {
  auto job = [&](int i) {
    return state().RequestOf<v1::CreateTuningJobRequest>("CreateTuningJob", i).tuning_job();
  };
  const std::vector<std::string> tune = {"tune", "--base", "m", "--data", "d", "--method", "lora"};
  auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), tune.begin(), tune.end());
    const CliResult r = Run(more);
    EXPECT_EQ(r.code, 0) << r.err;
  };
  run({"--start-from", "earlier", "--dpo", "--dpo-beta", "0.2", "--dpo-label-smoothing", "0.1", "--neftune-alpha", "5"});
  EXPECT_EQ(job(0).start_from(), "models/earlier");
  EXPECT_DOUBLE_EQ(job(0).dpo().beta(), 0.2);
  EXPECT_DOUBLE_EQ(job(0).dpo().label_smoothing(), 0.1);
  EXPECT_DOUBLE_EQ(job(0).hyperparameters().neftune_noise_alpha(), 5);
  run({"--start-from", "tuningJobs/j/checkpoints/12", "--teacher", "big", "--teacher-top-k", "8",
       "--distillation-weight", "0", "--distillation-temperature", "2", "--split-long-texts"});
  EXPECT_EQ(job(1).start_from(), "tuningJobs/j/checkpoints/12");
  EXPECT_EQ(job(1).distillation().teacher(), "models/big");
  EXPECT_EQ(job(1).distillation().top_k(), 8);
  EXPECT_TRUE(job(1).distillation().has_weight());
  EXPECT_DOUBLE_EQ(job(1).distillation().temperature(), 2);
  EXPECT_TRUE(job(1).data().split_long_texts());
  run({});
  EXPECT_EQ(job(2).start_from(), "");
  EXPECT_EQ(job(2).objective_case(), v1::TuningJob::OBJECTIVE_NOT_SET);
}

TEST_F(CliTest, TuneOtherMethods) {
  auto job = [&](int i) { return state().RequestOf<v1::CreateTuningJobRequest>("CreateTuningJob", i).tuning_job(); };
  Run({"tune", "--base", "m", "--data", "d", "--method", "soft-prompt", "--virtual-tokens", "30", "--init", "vocab"});
  EXPECT_EQ(job(0).soft_prompt().num_virtual_tokens(), 30);
  EXPECT_EQ(job(0).soft_prompt().init(), v1::SoftPromptTuning::SAMPLE_VOCAB);
  Run({"tune", "--base", "m", "--data", "d", "--method", "partial", "--parameters", "a.*", "--parameters", "b{1,2}",
       "--biases-and-norms"});
  EXPECT_THAT(job(1).partial().parameter_patterns(), ElementsAre("a.*", "b{1,2}"));
  EXPECT_TRUE(job(1).partial().biases_and_norms());
  Run({"tune", "--base", "m", "--data", "d", "--method", "full"});
  EXPECT_TRUE(job(2).has_full());
  Run({"tune", "--base", "m", "--data", "d", "--method", "prefix", "--virtual-tokens", "7", "--init-text", "Sort:"});
  EXPECT_EQ(job(3).prefix().num_virtual_tokens(), 7);
  EXPECT_EQ(job(3).prefix().init_text(), "Sort:");
  Run({"tune", "--base", "m", "--data", "d", "--method", "ia3", "--targets", "v_proj,down_proj"});
  EXPECT_THAT(job(4).ia3().target_modules(), ElementsAre(v1::V_PROJ, v1::DOWN_PROJ));
  CliResult whole = Run({"tune", "--base", "m", "--data", "d", "--method", "lora", "--targets", "all-linear,lm_head",
                         "--modules-to-save", "embed_tokens"});
  EXPECT_THAT(whole.out, HasSubstr("LoRA, embed_tokens whole, lm_head adapted of models/m"));
  EXPECT_THAT(job(5).lora().target_modules(), ElementsAre(v1::Q_PROJ, v1::K_PROJ, v1::V_PROJ, v1::O_PROJ, v1::GATE_PROJ,
                                                         v1::UP_PROJ, v1::DOWN_PROJ, v1::LM_HEAD));
  EXPECT_THAT(job(5).lora().modules_to_save(), ElementsAre(v1::EMBED_TOKENS));
  EXPECT_THAT(Run({"tune", "--base", "m", "--data", "d", "--method", "lora", "--modules-to-save", "norm"}).err,
              HasSubstr("--modules-to-save: 'norm' is none of"));
  CliResult r = Run({"tune", "--base", "m", "--data", "d", "--method", "full", "--virtual-tokens", "7"});
  EXPECT_NE(r.code, 0);
  EXPECT_THAT(r.err, HasSubstr("--virtual-tokens goes with --method soft-prompt or prefix, not full"));
}

TEST_F(CliTest, TuneTextPromptFillsTheSearch) {
  CliResult r = Run({"tune",
                     "--base",
                     "m",
                     "--data",
                     "d",
                     "--method",
                     "text-prompt",
                     "--instruction",
                     "Classify.\\nNow.",
                     "--instruction",
                     "Say {{it}}.",
                     "--max-examples",
                     "0",
                     "--example-selection",
                     "diverse",
                     "--candidates",
                     "5",
                     "--rounds",
                     "2",
                     "--metric",
                     "exact-match",
                     "--calibrate",
                     "off",
                     "--max-calls",
                     "100",
                     "--max-model-tokens",
                     "1000",
                     "--max-minutes",
                     "1.5",
                     "--seed",
                     "3"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("text prompt, 2 rounds, 5 candidates, at most 0 examples, at most 100 calls"));
  const auto job = state().RequestOf<v1::CreateTuningJobRequest>("CreateTuningJob").tuning_job();
  const v1::TextPromptSearch& search = job.text_prompt();
  EXPECT_THAT(search.instructions(), ElementsAre("Classify.\nNow.", "Say {{it}}."));
  EXPECT_TRUE(search.has_max_examples());
  EXPECT_EQ(search.max_examples(), 0);
  EXPECT_EQ(search.example_selection(), v1::TextPromptSearch::DIVERSE);
  EXPECT_EQ(search.candidates(), 5);
  EXPECT_EQ(search.rounds(), 2);
  EXPECT_EQ(search.metric(), v1::TextPromptSearch::EXACT_MATCH);
  EXPECT_TRUE(search.has_calibrate());
  EXPECT_FALSE(search.calibrate());
  EXPECT_EQ(search.max_calls(), 100);
  EXPECT_EQ(search.max_tokens(), 1000);
  EXPECT_EQ(search.max_minutes(), 1.5);
  EXPECT_EQ(job.hyperparameters().seed(), 3);
  r = Run({"tune", "--base", "m", "--data", "d", "--method", "lora", "--rounds", "2"});
  EXPECT_EQ(r.code, 2);
  EXPECT_THAT(r.err, HasSubstr("--rounds goes with --method text-prompt"));
}

TEST_F(CliTest, TuneTakesExamplesBySimilarity) {
  EXPECT_EQ(
      Run({"tune", "--base", "m", "--data", "d", "--method", "text-prompt", "--example-selection", "similar"}).code, 0);
  EXPECT_EQ(
      state().RequestOf<v1::CreateTuningJobRequest>("CreateTuningJob").tuning_job().text_prompt().example_selection(),
      v1::TextPromptSearch::SIMILAR);
}

TEST_F(CliTest, EstimateQueuesNothing) {
  CliResult r = Run({"tune", "--base", "m", "--data", "d", "--method", "full", "--estimate"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("3.0 MiB"));
  EXPECT_THAT(r.out, HasSubstr("about 1m32s"));
  EXPECT_EQ(state().Calls("CreateTuningJob"), 0);
}

TEST_F(CliTest, WatchedJobThatSucceedsIsZero) {
  AddEndedJob(v1::TuningJob::SUCCEEDED);
  CliResult r = Run({"jobs", "watch", "j"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out,
            "j  QUEUED\n"
            "j  RUNNING\n"
            "j  RUNNING [####................] 1/5  loss 0.500\n"
            "j  SUCCEEDED\n"
            "tuned model: models/tuned (training took 0.0s)\n"
            "Try it: attune generate tuned \"...\"\n");
}

TEST_F(CliTest, AJobsEnergyIsShownWhereTheDeviceTells) {
  AddEndedJob(v1::TuningJob::SUCCEEDED);
  EXPECT_THAT(Run({"jobs", "get", "j"}).out, Not(HasSubstr("energy")));
  state().jobs["tuningJobs/j"].set_energy_joules(28'200);
  EXPECT_THAT(Run({"jobs", "get", "j"}).out, HasSubstr("energy       28.2 kJ\n"));
}

TEST_F(CliTest, WatchedJobThatFailsOrIsCancelledIsOne) {
  AddEndedJob(v1::TuningJob::CANCELLED);
  CliResult cancelled = Run({"jobs", "watch", "j"});
  EXPECT_EQ(cancelled.code, 1);
  EXPECT_THAT(cancelled.err, HasSubstr("(JOB_CANCELLED)"));
  AddEndedJob(v1::TuningJob::FAILED);
  state().jobs["tuningJobs/j"].mutable_error()->set_reason("NAN_LOSS");
  CliResult failed = Run({"jobs", "watch", "j"});
  EXPECT_EQ(failed.code, 1);
  EXPECT_THAT(failed.err, HasSubstr("(NAN_LOSS)"));
}

TEST_F(CliTest, TuneWatchAsJsonLines) {
  AddEndedJob(v1::TuningJob::SUCCEEDED);
  CliResult r = Run({"tune", "--base", "m", "--data", "d", "--method", "full", "--name", "j", "--watch", "--json"});
  EXPECT_EQ(r.code, 0) << r.err;
  auto lines = JsonLines(r.out);
  ASSERT_EQ(lines.size(), 1 + state().events.size());
  EXPECT_EQ(lines[0].fields().at("name").string_value(), "tuningJobs/j");
  EXPECT_EQ(lines.back().fields().at("state").string_value(), "SUCCEEDED");
}

TEST_F(CliTest, CtrlCDetachesFromAWatch) {
  AddEndedJob(v1::TuningJob::RUNNING);
  state().legs = {2};
  state().hold_legs = true;
  std::thread user([this] {
    while (state().Calls("WatchTuningJob") == 0) absl::SleepFor(absl::Milliseconds(5));
    std::raise(SIGINT);
  });
  CliResult r = Run({"jobs", "watch", "j"});
  user.join();
  EXPECT_EQ(r.code, 6);
  EXPECT_EQ(r.err, "Detached; the job goes on. Watch it again with: attune jobs watch j\n");
  EXPECT_EQ(state().Calls("CancelTuningJob"), 0);
}

TEST_F(CliTest, JobsListFiltersAndLimits) {
  for (int i = 0; i < 5; ++i) state().jobs[absl::StrCat("tuningJobs/j", i)].set_name(absl::StrCat("tuningJobs/j", i));
  CliResult r = Run({"jobs", "list", "--state", "running,paused", "--tenant", "t", "--limit", "3", "--json"});
  EXPECT_EQ(Json(r.out).fields().at("tuning_jobs").list_value().values_size(), 3);
  auto request = state().RequestOf<v1::ListTuningJobsRequest>("ListTuningJobs");
  EXPECT_THAT(request.states(), ElementsAre(v1::TuningJob::RUNNING, v1::TuningJob::PAUSED));
  EXPECT_EQ(request.tenant(), "t");
}

TEST_F(CliTest, JobActionsNameTheJob) {
  AddEndedJob(v1::TuningJob::PAUSED);
  for (const char* action : {"get", "cancel", "pause", "resume"}) {
    CliResult r = Run({"jobs", action, "j"});
    EXPECT_EQ(r.code, 0) << action << r.err;
    EXPECT_THAT(r.out, HasSubstr("PAUSED")) << action;
  }
  EXPECT_EQ(state().Calls("CancelTuningJob"), 1);
  EXPECT_EQ(state().Calls("PauseTuningJob"), 1);
  EXPECT_EQ(state().Calls("ResumeTuningJob"), 1);
  EXPECT_THAT(Run({"jobs", "checkpoints", "j"}).out, HasSubstr("40  0.000       0.500     0.000  yes"));
  EXPECT_EQ(Run({"jobs", "delete", "j"}).out, "deleted tuningJobs/j\n");
  EXPECT_EQ(Run({"jobs", "get", "j"}).code, 3);
}

// ---- generate, chat, classify, score, tokenize

TEST_F(CliTest, GenerateWritesTheTextAndOneLineEnd) {
  CliResult r = Run({"generate", "m", "Say it\\n", "-e", "--max-tokens", "5", "--temperature", "0.7", "--stop", "\\n",
                     "--stop", "END", "--seed", "-1"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "Hello, world\n");
  auto request = state().RequestOf<v1::GenerateRequest>("StreamGenerate");
  EXPECT_EQ(request.model(), "models/m");
  EXPECT_EQ(request.prompt().text(), "Say it\n");
  EXPECT_DOUBLE_EQ(request.sampling().temperature(), 0.7);
  EXPECT_FALSE(request.sampling().has_top_p());
  EXPECT_EQ(request.sampling().seed(), -1);
  EXPECT_THAT(request.stop(), ElementsAre("\n", "END"));
}

TEST_F(CliTest, GenerateTakesFormsAndSearches) {
  TempFolder folder;
  std::ofstream(folder.File("schema.json")) << "{\"type\": \"object\"}";
  CliResult r = Run({"generate", "m", "x", "--json-schema", "@" + folder.File("schema.json"), "--best-of", "4",
                     "--draft-tokens", "8", "--draft-model", "small", "--priority", "-2", "--tenant", "t"});
  EXPECT_EQ(r.code, 0) << r.err;
  auto request = state().RequestOf<v1::GenerateRequest>("StreamGenerate");
  EXPECT_EQ(request.structured_output().json_schema(), "{\"type\": \"object\"}");
  EXPECT_EQ(request.best_of(), 4);
  EXPECT_EQ(request.speculative().draft_tokens(), 8);
  EXPECT_EQ(request.speculative().draft_model(), "models/small");
  EXPECT_EQ(request.priority(), -2);
  EXPECT_EQ(request.tenant(), "t");
  EXPECT_FALSE(request.has_beam_search());

  Run({"generate", "m", "x", "--choice", "yes", "--choice", "no", "--beams", "4", "--length-penalty", "0.5"});
  request = state().RequestOf<v1::GenerateRequest>("StreamGenerate", 1);
  EXPECT_THAT(request.structured_output().choice().choices(), ElementsAre("yes", "no"));
  EXPECT_EQ(request.beam_search().beams(), 4);
  EXPECT_EQ(request.beam_search().length_penalty(), 0.5);
  EXPECT_FALSE(request.has_speculative());

  Run({"generate", "m", "x"});
  EXPECT_FALSE(state().RequestOf<v1::GenerateRequest>("StreamGenerate", 2).has_structured_output());
  EXPECT_EQ(Run({"generate", "m", "x", "--regex", "a", "--json-object"}).code, 2);
  EXPECT_EQ(Run({"generate", "m", "x", "--early-stopping"}).code, 2);
  EXPECT_EQ(Run({"generate", "m", "x", "--grammar", "@" + folder.File("none")}).code, 3);
}

TEST_F(CliTest, GenerateTakesPromptsInEveryWay) {
  auto prompt = [&](int i) { return state().RequestOf<v1::GenerateRequest>("StreamGenerate", i).prompt(); };
  Run({"generate", "m", "-"}, "from input\n");
  EXPECT_EQ(prompt(0).text(), "from input");
  Run({"generate", "m", "--var", "text=a=b", "--var", "other=c"});
  EXPECT_THAT(prompt(1).template_input().variables(), UnorderedElementsAre(Pair("text", "a=b"), Pair("other", "c")));
  Run({"generate", "m", "hi", "--chat", "--system", "be kind"});
  ASSERT_EQ(prompt(2).chat().messages_size(), 2);
  EXPECT_EQ(prompt(2).chat().messages(0).role(), "system");
  EXPECT_EQ(prompt(2).chat().messages(1).content(), "hi");

  TempFolder folder;
  ASSERT_TRUE(
      WriteFileDurably(folder.File("chat.json"),
                       R"([{"role": "user", "content": "u"}, {"role": "assistant", "content": null, "tool_calls": [
                                  {"id": "1", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]},
                                  {"role": "tool", "content": "7", "tool_call_id": "1", "name": "f"}])")
          .ok());
  ASSERT_TRUE(
      WriteFileDurably(folder.File("tools.json"), R"([{"type": "function", "function": {"name": "f", "description": "d",
                                  "parameters": {"type": "object"}}}])")
          .ok());
  Run({"generate", "m", "--messages", folder.File("chat.json"), "--tools", folder.File("tools.json")});
  ASSERT_EQ(prompt(3).chat().messages_size(), 3);
  EXPECT_EQ(prompt(3).chat().messages(1).tool_calls(0).name(), "f");
  EXPECT_EQ(prompt(3).chat().messages(1).tool_calls(0).arguments(), R"({"b":1,"a":2})");
  EXPECT_EQ(prompt(3).chat().messages(2).tool_call_id(), "1");
  EXPECT_EQ(prompt(3).chat().tools(0).parameters(), R"({"type":"object"})");
  const CliResult unknown =
      Run({"generate", "m", "--messages", "-"}, R"([{"role": "user", "content": "u", "colour": "red"}])");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("'colour'"));
  EXPECT_EQ(Run({"generate", "m", "hi", "--tools", folder.File("tools.json")}).code, 2);
  EXPECT_EQ(Run({"generate", "m", "--messages", "-"}, "{}").code, 2);
}

TEST_F(CliTest, SeveralAnswersComeOneAfterTheOther) {
  EXPECT_EQ(Run({"generate", "m", "x", "--n", "2"}).out, "[0] Hello, world\n[1] Hello, world\n");
  EXPECT_EQ(Run({"generate", "m", "x", "--n", "2", "--no-stream"}).out, "[0] Hello, world\n[1] Hello, world\n");
}

TEST_F(CliTest, GenerateAsJson) {
  auto lines = JsonLines(Run({"generate", "m", "x", "--json"}).out);
  ASSERT_EQ(lines.size(), 4);
  EXPECT_EQ(lines[0].fields().at("text").string_value(), "Hello");
  EXPECT_TRUE(lines[3].fields().contains("usage"));
  auto whole = Json(Run({"generate", "m", "x", "--json", "--no-stream"}).out);
  EXPECT_TRUE(whole.fields().contains("completions"));
}

TEST_F(CliTest, ChatKeepsTheConversation) {
  CliResult r = Run({"chat", "m", "--system", "be kind"}, "first\n\nsecond\n/reset\nthird\n/exit\nnever\n");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "Hello, world\nHello, world\nHello, world\n");
  ASSERT_EQ(state().Calls("StreamGenerate"), 3);
  auto roles = [&](int i) {
    std::vector<std::string> roles;
    const auto request = state().RequestOf<v1::GenerateRequest>("StreamGenerate", i);
    for (const auto& m : request.prompt().chat().messages()) roles.push_back(m.role() + ":" + m.content());
    return roles;
  };
  EXPECT_THAT(roles(1), ElementsAre("system:be kind", "user:first", "assistant:Hello, world", "user:second"));
  EXPECT_THAT(roles(2), ElementsAre("system:be kind", "user:third"));
}

TEST_F(CliTest, Classify) {
  CliResult r = Run({"classify", "m", "--choices", "earn,acq", "--choices", "trade", "--var", "text=x"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out,
            "LABEL  PROBABILITY  LOGPROB\nearn         0.500    0.000\nacq          0.500    0.000\n"
            "trade        0.500    0.000\n");
  EXPECT_EQ(Run({"classify", "m", "text", "--choices", "earn,acq", "--label-only"}).out, "earn\n");
  EXPECT_EQ(state().RequestOf<v1::ClassifyRequest>("Classify", 1).prompt().text(), "text");
}

TEST_F(CliTest, ScoreTokenizeDetokenize) {
  EXPECT_THAT(Run({"score", "m", "x", "--continuation", " yes", "--continuation", " no"}).out,
              HasSubstr("\" yes\"         -1.500       0  no"));
  EXPECT_EQ(Run({"tokenize", "m", "a b"}).out, "ID  TEXT\n 7  \"a b\"\n1 tokens\n");
  EXPECT_EQ(Run({"detokenize", "m", "1", "2", "3"}).out, "3 tokens\n");
}

TEST_F(CliTest, EmbedWritesALineForEachText) {
  EXPECT_EQ(Run({"embed", "m", "a", "b", "--pooling", "last", "--normalize"}).out, "0.5 0\n0.5 1\n");
  auto request = state().RequestOf<v1::EmbedRequest>("Embed");
  EXPECT_EQ(request.pooling(), v1::LAST);
  EXPECT_TRUE(request.normalize());
  EXPECT_EQ(Run({"embed", "m", "-"}, "one\ntwo\nthree\n").out, "0.5 0\n0.5 1\n0.5 2\n");
  EXPECT_EQ(state().RequestOf<v1::EmbedRequest>("Embed", 1).inputs(2).text(), "three");
  EXPECT_EQ(Run({"embed", "m", "a", "--pooling", "max"}).code, 2);
  EXPECT_EQ(Run({"embed", "m"}).code, 2);
}

// ---- evaluate

TEST_F(CliTest, EvaluateShowsIntervalAndLabels) {
  CliResult r = Run({"evaluate", "m", "--data", "d", "--max-examples", "500", "--choices", "a,b", "--exact-match"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("0.912 [0.884, 0.934]"));
  EXPECT_THAT(r.out, HasSubstr("earn      4        3   0.750          6      0.500"));
  EXPECT_THAT(r.err, HasSubstr("evaluating [##########..........] 250/500"));
  auto request = state().RequestOf<v1::EvaluateRequest>("Evaluate");
  EXPECT_EQ(request.max_examples(), 500);
  EXPECT_TRUE(request.exact_match());
  EXPECT_THAT(request.choices(), ElementsAre("a", "b"));
}

TEST_F(CliTest, EvaluateAsJsonLines) {
  auto lines = JsonLines(Run({"evaluate", "m", "--data", "d", "--json"}).out);
  ASSERT_EQ(lines.size(), 2);
  EXPECT_FALSE(lines[0].fields().contains("result"));
  EXPECT_TRUE(lines[1].fields().contains("result"));
}

// ---- advise

v1::Advice SampleAdvice() {
  v1::Advice advice;
  auto* finding = advice.add_findings();
  finding->set_name("leakage");
  finding->set_text("10 of 100 test rows stand in the training rows.");
  finding->set_severity(v1::Advice::Finding::PROBLEM);
  auto* lora = advice.add_recommendations();
  lora->set_kind(v1::Comparison::LORA);
  lora->set_quality(0.93);
  lora->set_lower(0.88);
  lora->set_upper(0.97);
  lora->set_device_seconds(90);
  lora->set_price(0.05);
  lora->set_meets_needs(true);
  lora->set_confidence(v1::Advice::Recommendation::MEDIUM);
  auto* reason = lora->add_reasons();
  reason->set_text("With 400 rows it wins 90% of what is left.");
  reason->add_evidence("rows");
  reason->add_evidence("labels");
  auto* zero = advice.add_recommendations();
  zero->set_kind(v1::Comparison::ZERO_SHOT);
  zero->set_quality(0.3);
  auto* against = zero->add_reasons();
  against->set_text("Too low.");
  against->add_evidence("needs.accuracy");
  against->set_against(true);
  advice.set_verdict(v1::Advice::TIED);
  advice.set_text("Take LoRA.");
  advice.mutable_settlement()->add_contenders(v1::Comparison::LORA);
  advice.mutable_settlement()->add_contenders(v1::Comparison::SOFT_PROMPT);
  advice.mutable_settlement()->set_rows(300);
  advice.mutable_retrospective()->set_text("It was right before.");
  advice.set_seconds(75);
  return advice;
}

TEST_F(CliTest, AdviseSendsNeedsAndPrintsWhatWasFoundAndWhy) {
  state().advice = SampleAdvice();
  CliResult r =
      Run({"advise",     "--base",     "m",         "--data",   "d",         "--test",  "t",         "--accuracy",
           "0.95",       "--deadline", "30m",       "--budget", "5",         "--price", "2",         "--keep-skills",
           "--lifetime", "14",         "--tenants", "3",        "--latency", "50",      "--no-curve"});
  EXPECT_EQ(r.code, 0) << r.err;
  const auto request = state().RequestOf<v1::AdviseRequest>("Advise");
  EXPECT_EQ(request.base_model(), "models/m");
  EXPECT_EQ(request.dataset(), "datasets/d");
  EXPECT_EQ(request.test_dataset(), "datasets/t");
  EXPECT_EQ(request.needs().accuracy(), 0.95);
  EXPECT_EQ(request.needs().deadline_seconds(), 1800);
  EXPECT_EQ(request.needs().budget(), 5);
  EXPECT_EQ(request.needs().price_per_device_hour(), 2);
  EXPECT_TRUE(request.needs().keep_skills());
  EXPECT_EQ(request.needs().lifetime_days(), 14);
  EXPECT_EQ(request.needs().tenants(), 3);
  EXPECT_EQ(request.needs().request_milliseconds(), 50);
  EXPECT_TRUE(request.skip_curve());
  EXPECT_THAT(r.err, HasSubstr("advise: asking the base model 120 rows"));
  EXPECT_THAT(r.out, HasSubstr("leakage               PROBLEM  10 of 100 test rows"));
  EXPECT_THAT(r.out, ::testing::ContainsRegex("lora +0.93 \\[0.88, 0.97\\] +1m30s +met +medium +0.05"));
  EXPECT_THAT(r.out, ::testing::ContainsRegex("zero-shot .* none +not met"));
  EXPECT_THAT(r.out, HasSubstr("  + With 400 rows it wins 90% of what is left. (rows, labels)"));
  EXPECT_THAT(r.out, HasSubstr("  - Too low. (needs.accuracy)"));
  EXPECT_THAT(r.out, HasSubstr("Take LoRA."));
  EXPECT_THAT(r.out, HasSubstr("It was right before."));
  EXPECT_THAT(r.out,
              HasSubstr("attune compare --base m --data d --methods lora,soft-prompt --train-examples 300 --test t "
                        "--price 2 --watch"));
}

TEST_F(CliTest, AdviseAsJsonIsTheAdviceAlone) {
  state().advice = SampleAdvice();
  CliResult r = Run({"advise", "--base", "m", "--data", "d", "--json"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(Json(r.out).fields().at("text").string_value(), "Take LoRA.");
  EXPECT_FALSE(state().RequestOf<v1::AdviseRequest>("Advise").skip_curve());
}

TEST_F(CliTest, AdviseLooksBack) {
  CliResult r = Run({"advise", "--retrospect", "moods"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "That was right.\n");
  EXPECT_EQ(state().RequestOf<v1::RetrospectRequest>("Retrospect").comparison(), "comparisons/moods");
}

TEST_F(CliTest, AdviseUsedWronglyIsTwo) {
  EXPECT_EQ(Run({"advise", "--base", "m"}).code, 2);
  EXPECT_EQ(Run({"advise", "--base", "m", "--data", "d", "--deadline", "soon"}).code, 2);
  state().FailNext("Advise", 1, ToGrpcStatus(NotFound("models/m")));
  EXPECT_EQ(Run({"advise", "--base", "m", "--data", "d"}).code, 3);
}

}  // namespace
}  // namespace attune
