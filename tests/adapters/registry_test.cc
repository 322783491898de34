#include "server/adapters/registry.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "common/file.h"
#include "tests/testing/manual_clock.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

namespace fs = std::filesystem;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

std::string Reason(const absl::Status& status) { return GetErrorDetails(status).reason; }

std::vector<std::string> Names(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

class RegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(temp_.File("roots/hf"));
    fs::create_directories(temp_.File("outside"));
    temp_.Write("roots/Tiny Model.Q4.gguf", "GGUF bytes");
    temp_.Write("outside/secret.gguf", "secret");
    for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json",
                             "pytorch_model.bin", "train.py", "README.md"}) {
      temp_.Write(std::string("roots/hf/") + name, name);
    }
    database_ = Database::Open(temp_.File("attune.db")).value();
    Reopen();
  }

  void Reopen() {
    registry_.reset();
    ModelRegistry::Options options;
    options.import_roots = {temp_.File("roots")};
    options.inspect = [this](const std::string& directory) -> absl::StatusOr<Architecture> {
      ++inspections_;
      if (!inspection_.ok()) return inspection_;
      Architecture architecture;
      architecture.family = "llama";
      architecture.parameters = 42;
      return architecture;
    };
    registry_ = ModelRegistry::Open(temp_.File("models"), database_.get(), &clock_, options).value();
  }

  absl::StatusOr<ModelInfo> Import(const std::string& path, const std::string& id = "",
                                   const std::string& request_id = "") {
    ModelRegistry::ImportOptions options;
    options.source_path = path;
    options.id = id;
    options.labels = {{"team", "a"}};
    options.request_id = request_id;
    return registry_->Import(options);
  }

  absl::StatusOr<ModelInfo> PublishLora(const std::string& id, const std::string& base, const std::string& job) {
    std::string staging = registry_->NewStagingDirectory().value();
    std::ofstream(staging + "/adapter_config.json") << "{}";
    ModelInfo info;
    info.id = id;
    info.kind = ModelKind::kLora;
    info.base_model = base;
    info.tuning_job = job;
    info.prompt_template = "Q: {{q}}";
    info.dataset_kind = DatasetKind::kPromptCompletion;
    info.metrics = {{"validation_loss", 0.25}};
    return registry_->Publish(info, staging);
  }

  TempFolder temp_;
  ManualClock clock_;
  int inspections_ = 0;
  absl::Status inspection_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<ModelRegistry> registry_;
};

TEST_F(RegistryTest, ImportsAGgufFile) {
  absl::StatusOr<ModelInfo> info = Import(temp_.File("roots/Tiny Model.Q4.gguf"));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->id, "tiny-model-q4");
  EXPECT_EQ(info->kind, ModelKind::kBase);
  EXPECT_EQ(info->architecture.parameters, 42);
  EXPECT_EQ(info->size_bytes, 10);
  EXPECT_EQ(info->create_time, clock_.Now());
  EXPECT_EQ(ReadFile(registry_->Directory(info->id) + "/model.gguf").value(), "GGUF bytes");
  Reopen();
  absl::StatusOr<ModelInfo> again = registry_->Get("tiny-model-q4");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->labels.at("team"), "a");
  EXPECT_EQ(again->etag, info->etag);
}

TEST_F(RegistryTest, TakesOnlyTheModelsFilesOfAFolder) {
  absl::StatusOr<ModelInfo> info = Import(temp_.File("roots/hf/"), "hf");
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_THAT(Names(registry_->Directory("hf")),
              UnorderedElementsAre("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"));
}

TEST_F(RegistryTest, TakesTheShardsThatTheIndexNames) {
  fs::remove(temp_.File("roots/hf/model.safetensors"));
  temp_.Write("roots/hf/model-00001-of-00001.safetensors", "shard");
  temp_.Write("roots/hf/consolidated.safetensors", "the same again");
  temp_.Write("roots/hf/model.safetensors.index.json", R"({"weight_map": {"a": "model-00001-of-00001.safetensors"}})");
  ASSERT_TRUE(Import(temp_.File("roots/hf"), "hf").ok());
  EXPECT_THAT(Names(registry_->Directory("hf")), ::testing::Contains("model-00001-of-00001.safetensors"));
  EXPECT_THAT(Names(registry_->Directory("hf")), ::testing::Not(::testing::Contains("consolidated.safetensors")));
  temp_.Write("roots/hf/model.safetensors.index.json", R"({"weight_map": {"a": "../../outside/x.safetensors"}})");
  EXPECT_EQ(Reason(Import(temp_.File("roots/hf"), "other").status()), "NO_MODEL");
}

TEST_F(RegistryTest, RefusesWhatIsOutsideTheRoots) {
  fs::create_symlink(temp_.File("outside/secret.gguf"), temp_.File("roots/link.gguf"));
  for (const char* path : {"outside/secret.gguf", "roots/../outside/secret.gguf", "roots/link.gguf", "outside/none"}) {
    absl::Status status = Import(temp_.File(path)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << path;
    EXPECT_EQ(Reason(status), "OUTSIDE_IMPORT_ROOT") << path;
  }
  fs::remove(temp_.File("roots/hf/tokenizer.json"));
  fs::create_symlink(temp_.File("outside/secret.gguf"), temp_.File("roots/hf/tokenizer.json"));
  EXPECT_EQ(Reason(Import(temp_.File("roots/hf")).status()), "OUTSIDE_IMPORT_ROOT");
  EXPECT_EQ(Import(temp_.File("roots/none.gguf")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Import("hf").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Names(temp_.File("models")), IsEmpty());
}

TEST_F(RegistryTest, LinksInsideTheRootsAreFollowed) {
  fs::remove(temp_.File("roots/hf/model.safetensors"));
  temp_.Write("roots/blob", "weights");
  fs::create_symlink("../blob", temp_.File("roots/hf/model.safetensors"));
  ASSERT_TRUE(Import(temp_.File("roots/hf"), "hf").ok());
  const std::string copy = registry_->Directory("hf") + "/model.safetensors";
  EXPECT_FALSE(fs::is_symlink(copy));
  EXPECT_EQ(ReadFile(copy).value(), "weights");
}

TEST_F(RegistryTest, RefusesPickle) {
  temp_.Write("roots/model.bin", "pickle");
  EXPECT_EQ(Reason(Import(temp_.File("roots/model.bin")).status()), "PICKLE_REFUSED");
  fs::remove(temp_.File("roots/hf/model.safetensors"));
  EXPECT_EQ(Reason(Import(temp_.File("roots/hf")).status()), "PICKLE_REFUSED");
}

TEST_F(RegistryTest, ABadModelLeavesNothing) {
  inspection_ = MakeError(absl::StatusCode::kInvalidArgument, "BAD_MODEL", "bad");
  EXPECT_EQ(Reason(Import(temp_.File("roots/hf")).status()), "BAD_MODEL");
  EXPECT_THAT(Names(temp_.File("models")), IsEmpty());
  EXPECT_TRUE(registry_->List(10, INT64_MAX).value().empty());
}

TEST_F(RegistryTest, ImportsAreIdempotentByRequestId) {
  ModelInfo first = Import(temp_.File("roots/hf"), "hf", "request-1").value();
  absl::StatusOr<ModelInfo> again = Import(temp_.File("roots/hf"), "hf", "request-1");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->etag, first.etag);
  EXPECT_EQ(inspections_, 1);
  EXPECT_EQ(Reason(Import(temp_.File("roots/hf"), "hf", "request-2").status()), "MODEL_EXISTS");
  EXPECT_EQ(Reason(Import(temp_.File("roots/hf"), "Bad Id").status()), "INVALID_ID");
}

TEST_F(RegistryTest, OpenRemovesWhatIsHalfThere) {
  ASSERT_TRUE(Import(temp_.File("roots/hf"), "whole").ok());
  ASSERT_TRUE(Import(temp_.File("roots/hf"), "no-files").ok());
  ASSERT_TRUE(registry_->NewStagingDirectory().ok());
  fs::create_directories(temp_.File("models/no-row"));
  fs::remove_all(temp_.File("models/no-files"));
  Reopen();
  EXPECT_THAT(Names(temp_.File("models")), UnorderedElementsAre("whole"));
  std::vector<ModelInfo> models = registry_->List(10, INT64_MAX).value();
  ASSERT_EQ(models.size(), 1u);
  EXPECT_EQ(models[0].id, "whole");
}

TEST_F(RegistryTest, PublishingAgainForTheSameJobGivesTheFirst) {
  ASSERT_TRUE(Import(temp_.File("roots/hf"), "base").ok());
  absl::StatusOr<ModelInfo> first = PublishLora("tuned", "base", "job-1");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->prompt_template, "Q: {{q}}");
  EXPECT_EQ(first->dataset_kind, DatasetKind::kPromptCompletion);
  EXPECT_DOUBLE_EQ(first->metrics.at("validation_loss"), 0.25);
  absl::StatusOr<ModelInfo> again = PublishLora("tuned", "base", "job-1");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->etag, first->etag);
  EXPECT_EQ(Reason(PublishLora("tuned", "base", "job-2").status()), "MODEL_EXISTS");
  EXPECT_EQ(Reason(PublishLora("other", "none", "job-3").status()), "MODEL_NOT_FOUND");
}

TEST_F(RegistryTest, ListsNewestFirst) {
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(Import(temp_.File("roots/hf"), id).ok());
  std::vector<ModelInfo> page = registry_->List(2, INT64_MAX).value();
  ASSERT_EQ(page.size(), 2u);
  EXPECT_EQ(page[0].id, "c");
  EXPECT_EQ(page[1].id, "b");
  page = registry_->List(2, page[1].position).value();
  ASSERT_EQ(page.size(), 1u);
  EXPECT_EQ(page[0].id, "a");
}

TEST_F(RegistryTest, UpdatesUnderEtags) {
  ModelInfo info = Import(temp_.File("roots/hf"), "hf").value();
  const std::string name = "New name";
  ModelRegistry::Changes changes;
  changes.display_name = &name;
  absl::StatusOr<ModelInfo> updated = registry_->Update("hf", changes, info.etag);
  ASSERT_TRUE(updated.ok()) << updated.status();
  EXPECT_EQ(updated->display_name, "New name");
  EXPECT_EQ(updated->labels, info.labels);
  EXPECT_NE(updated->etag, info.etag);
  absl::Status stale = registry_->Update("hf", changes, info.etag).status();
  EXPECT_EQ(stale.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Reason(stale), "ETAG_MISMATCH");
  EXPECT_EQ(Reason(registry_->Delete("hf", info.etag)), "ETAG_MISMATCH");
  EXPECT_EQ(Reason(registry_->Update("none", changes, "").status()), "MODEL_NOT_FOUND");
  // A model made anew has another etag.
  ASSERT_TRUE(registry_->Delete("hf", updated->etag).ok());
  EXPECT_NE(Import(temp_.File("roots/hf"), "hf").value().etag, info.etag);
}

TEST_F(RegistryTest, ABaseInUseIsNotDeleted) {
  ASSERT_TRUE(Import(temp_.File("roots/hf"), "base").ok());
  ASSERT_TRUE(PublishLora("tuned", "base", "job-1").ok());
  absl::Status status = registry_->Delete("base", "");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Reason(status), "MODEL_IN_USE");
  ASSERT_TRUE(registry_->Delete("tuned", "").ok());
  ASSERT_TRUE(registry_->Delete("base", "").ok());
  EXPECT_THAT(Names(temp_.File("models")), IsEmpty());
  EXPECT_EQ(Reason(registry_->Delete("base", "")), "MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace attune
