#include "server/adapters/residency.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "common/error.h"
#include "common/file.h"
#include "server/adapters/publish_text_prompt.h"
#include "server/model/base_model.h"
#include "server/model/compute_target.h"
#include "tests/adapters/adapters_fixture.h"
#include "tests/testing/random_adapter.h"

namespace attune {
namespace {

constexpr int64_t kPlenty = int64_t{1} << 40;

class ResidencyTest : public AdaptersFixture {
 protected:
  std::shared_ptr<const ServedModel> Acquire(Residency* residency, const std::string& id) {
    absl::StatusOr<std::shared_ptr<const ServedModel>> model = residency->Acquire(id);
    EXPECT_TRUE(model.ok()) << id << ": " << model.status();
    return model.ok() ? *model : nullptr;
  }
};

TEST_F(ResidencyTest, LoadsOnceAndKeeps) {
  Residency residency(registry_.get(), {}, kPlenty);
  for (const char* id : {"gguf", "hf"}) {
    auto model = Acquire(&residency, id);
    ASSERT_NE(model, nullptr);
    EXPECT_EQ(model->info.id, id);
    EXPECT_EQ(model->adapter, nullptr);
    EXPECT_EQ(model->context_tokens(), TinyModel::kContext);
    EXPECT_EQ(model->tokenizer().vocab_size(), TinyModel::Vocabulary());
    EXPECT_EQ(Acquire(&residency, id), model);
  }
  EXPECT_NE(Acquire(&residency, "gguf")->uid, Acquire(&residency, "hf")->uid);
  EXPECT_EQ(residency.resident_adapters(), 0);
  EXPECT_EQ(residency.resident_bytes(), 2 * Acquire(&residency, "hf")->base->bytes);
}

TEST_F(ResidencyTest, AdaptersShareTheirBase) {
  PublishAdapter("lora", "gguf", *RandomLora(config_));
  PublishAdapter("prompt", "gguf", *RandomSoftPrompt(config_));
  Residency residency(registry_.get(), {}, kPlenty);
  auto lora = Acquire(&residency, "lora"), prompt = Acquire(&residency, "prompt"), base = Acquire(&residency, "gguf");
  EXPECT_EQ(lora->base, base->base);
  EXPECT_EQ(prompt->base, base->base);
  EXPECT_TRUE(lora->adapter->lora);
  EXPECT_EQ(prompt->context_tokens(), TinyModel::kContext - 5);
  EXPECT_EQ(residency.resident_adapters(), 2);
  EXPECT_EQ(residency.resident_bytes(), base->base->bytes + lora->adapter->bytes + prompt->adapter->bytes);
}

// As a GPU is told to have; on a CPU nothing reads them.
TEST_F(ResidencyTest, LorasHaveCodesWhereTheyAreAskedFor) {
  PublishAdapter("lora", "gguf", *RandomLoraOfRank(config_, 8));
  PublishAdapter("prompt", "gguf", *RandomSoftPrompt(config_));
  ComputeTarget target;
  Residency without(registry_.get(), target, kPlenty);
  target.int8_loras = true;
  Residency with(registry_.get(), target, kPlenty);
  const auto plain = Acquire(&without, "lora"), coded = Acquire(&with, "lora");
  EXPECT_FALSE(plain->adapter->lora->layers[0][0].codes.defined());
  EXPECT_TRUE(coded->adapter->lora->layers[0][0].codes.defined());
  EXPECT_GT(coded->adapter->bytes, plain->adapter->bytes);
  EXPECT_EQ(Acquire(&with, "prompt")->adapter->bytes, Acquire(&without, "prompt")->adapter->bytes);
}

TEST_F(ResidencyTest, ATextPromptIsItsBaseWithAnotherTemplate) {
  TextPrompt prompt;
  prompt.instruction = "Do it.";
  prompt.label_offsets = {{"a", 0.5}};
  for (const char* id : {"first", "second"}) {
    ModelInfo info;
    info.id = id;
    info.base_model = "gguf";
    auto published = PublishTextPrompt(registry_.get(), info, prompt);
    ASSERT_TRUE(published.ok()) << published.status();
    EXPECT_EQ(published->kind, ModelKind::kTextPrompt);
    EXPECT_EQ(published->prompt_template, "Do it.\n\n{{prompt}}");
  }
  Residency residency(registry_.get(), {}, kPlenty);
  auto first = Acquire(&residency, "first"), second = Acquire(&residency, "second"), base = Acquire(&residency, "gguf");
  EXPECT_EQ(first->base, base->base);
  EXPECT_EQ(first->adapter, nullptr);
  // One beginning of the prefix cache serves all three.
  EXPECT_EQ(first->uid, base->uid);
  EXPECT_EQ(second->uid, base->uid);
  EXPECT_EQ(first->label_offsets, prompt.label_offsets);
  EXPECT_EQ(first->context_tokens(), TinyModel::kContext);
  EXPECT_EQ(residency.resident_adapters(), 0);
  EXPECT_EQ(residency.resident_bytes(), base->base->bytes);
  EXPECT_EQ(GetErrorDetails(registry_->Delete("gguf", "")).reason, "MODEL_IN_USE");
  ModelInfo nested;
  nested.id = "nested";
  nested.base_model = "first";
  EXPECT_EQ(GetErrorDetails(PublishTextPrompt(registry_.get(), nested, prompt).status()).reason, "BASE_IS_ADAPTER");
}

TEST_F(ResidencyTest, ATextPromptsPoolIsLoadedIfItIsOfTheModelsWidth) {
  TextPrompt prompt;
  auto pool = std::make_shared<ExamplePool>();
  pool->rows = {{{"prompt", "a"}, {"completion", "b"}}};
  pool->embeddings.emplace_back(config_.hidden, 0.f)[1] = 1;
  prompt.pool = pool;
  prompt.retrieved = 1;
  ModelInfo info;
  info.id = "near";
  info.base_model = "gguf";
  const auto published = PublishTextPrompt(registry_.get(), info, prompt);
  ASSERT_TRUE(published.ok()) << published.status();
  Residency residency(registry_.get(), {}, kPlenty);
  const auto model = Acquire(&residency, "near");
  ASSERT_NE(model->retrieving_prompt, nullptr);
  EXPECT_EQ(*model->retrieving_prompt, prompt);
  EXPECT_EQ(Acquire(&residency, "gguf")->retrieving_prompt, nullptr);
  // Of another model.
  auto narrow = std::make_shared<ExamplePool>(*pool);
  narrow->embeddings[0] = {1, 0};
  prompt.pool = narrow;
  info.id = "narrow";
  const auto refused = PublishTextPrompt(registry_.get(), info, prompt);
  EXPECT_EQ(GetErrorDetails(refused.status()).reason, "INVALID_FIELD");
  ASSERT_TRUE(WriteTextPrompt(registry_->Directory("near"), prompt).ok());
  Residency again(registry_.get(), {}, kPlenty);
  const absl::Status status = again.Acquire("near").status();
  EXPECT_EQ(GetErrorDetails(status).reason, "MODEL_DAMAGED");
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(TextPromptPath(registry_->Directory("near"))));
}

TEST_F(ResidencyTest, WeightsAreTakenFromTheBudgetUntilTheLastHolderLetsGo) {
  const int64_t bytes = config_.Parameters() * 4;
  MemoryBudget budget(2 * bytes - 1);
  Residency residency(registry_.get(), {}, kPlenty, &budget);
  auto model = Acquire(&residency, "gguf");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(budget.used(), bytes);
  const auto refused = residency.Acquire("hf");
  EXPECT_EQ(GetErrorDetails(refused.status()).reason, "OUT_OF_MEMORY_BUDGET");
  EXPECT_THAT(std::string(refused.status().message()), ::testing::HasSubstr("models/hf"));
  residency.Drop("gguf");
  EXPECT_EQ(budget.used(), bytes) << "a request still runs";
  model.reset();
  EXPECT_EQ(budget.used(), 0);
  EXPECT_NE(Acquire(&residency, "hf"), nullptr) << "a refusal is not remembered";
}

// For training: beside the dense model, shared by its holders, gone with the last of them.
TEST_F(ResidencyTest, QuantisedCopiesLiveWithTheirHolders) {
  MemoryBudget budget(kPlenty);
  Residency residency(registry_.get(), {}, kPlenty, &budget);
  auto dense = Acquire(&residency, "gguf");
  const int64_t before = budget.used();
  auto first = residency.AcquireQuantized("gguf", WeightFormat::kNf4),
       second = residency.AcquireQuantized("gguf", WeightFormat::kNf4),
       other = residency.AcquireQuantized("gguf", WeightFormat::kInt8);
  ASSERT_TRUE(first.ok() && second.ok() && other.ok()) << first.status() << other.status();
  EXPECT_EQ((*first)->base, (*second)->base);
  EXPECT_NE((*first)->base, (*other)->base);
  EXPECT_NE((*first)->base, dense->base);
  EXPECT_NE((*first)->uid, dense->uid);
  EXPECT_EQ((*first)->base->bytes, WeightBytes(config_, {}, WeightFormat::kNf4)) << "the estimate is what it takes";
  EXPECT_EQ((*other)->base->bytes, WeightBytes(config_, {}, WeightFormat::kInt8));
  EXPECT_LT((*first)->base->bytes, (*other)->base->bytes);
  EXPECT_LT((*other)->base->bytes, dense->base->bytes);
  EXPECT_EQ(budget.used(), before) << "the memory is the job's";
  const std::weak_ptr<const BaseModel> gone = (*first)->base;
  residency.Drop("gguf");
  EXPECT_NE((*residency.AcquireQuantized("gguf", WeightFormat::kNf4))->base, (*first)->base);
  first = second = other = absl::UnknownError("dropped");
  EXPECT_TRUE(gone.expired());
}

TEST_F(ResidencyTest, DescribedModelsHaveNoWeights) {
  Residency residency(registry_.get(), {}, kPlenty);
  auto model = residency.Describe("gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->tokenizer().vocab_size(), TinyModel::Vocabulary());
  EXPECT_EQ((*model)->base->config.layers, config_.layers);
  EXPECT_EQ((*model)->base->bytes, 0);
  EXPECT_EQ(residency.resident_bytes(), 0);
  EXPECT_TRUE(absl::IsNotFound(residency.Describe("nothing").status()));
}

TEST_F(ResidencyTest, FullWeightsTakeTheTokenizerOfTheImportedModel) {
  PublishFullWeights("full", "gguf", 7);
  PublishFullWeights("full-again", "full", 8);
  PublishAdapter("lora", "full-again", *RandomLora(config_));
  Residency residency(registry_.get(), {}, kPlenty);
  auto full = Acquire(&residency, "full-again");
  ASSERT_NE(full, nullptr);
  EXPECT_EQ(full->tokenizer().Encode("hello", false), Acquire(&residency, "gguf")->tokenizer().Encode("hello", false));
  EXPECT_EQ(Acquire(&residency, "lora")->base, full->base);
}

TEST_F(ResidencyTest, EvictsTheLeastRecentlyUsedIdleAdapter) {
  const auto adapter = RandomLora(config_);
  for (const char* id : {"a", "b", "c", "d"}) PublishAdapter(id, "gguf", *adapter);
  Residency probe(registry_.get(), {}, kPlenty);
  const int64_t bytes = Acquire(&probe, "a")->adapter->bytes;

  Residency residency(registry_.get(), {}, 2 * bytes);
  const uint64_t a = Acquire(&residency, "a")->uid, b = Acquire(&residency, "b")->uid;
  EXPECT_EQ(Acquire(&residency, "a")->uid, a);
  auto c = Acquire(&residency, "c");  // b leaves
  EXPECT_EQ(residency.resident_adapters(), 2);
  EXPECT_EQ(Acquire(&residency, "a")->uid, a);
  EXPECT_NE(Acquire(&residency, "b")->uid, b);  // a leaves: c is held
  EXPECT_EQ(Acquire(&residency, "c"), c);
  auto b_held = Acquire(&residency, "b");
  Acquire(&residency, "d");  // both others are held
  EXPECT_EQ(residency.resident_adapters(), 3);
}

TEST_F(ResidencyTest, DroppedModelsLiveWithTheirHolders) {
  PublishAdapter("lora", "gguf", *RandomLora(config_));
  Residency residency(registry_.get(), {}, kPlenty);
  auto held = Acquire(&residency, "lora");
  ASSERT_TRUE(registry_->Delete("lora", "").ok());
  residency.Drop("lora");
  EXPECT_EQ(residency.resident_adapters(), 0);
  EXPECT_TRUE(held->adapter->lora->layers[0][0].defined());
  absl::Status gone = residency.Acquire("lora").status();
  EXPECT_EQ(GetErrorDetails(gone).reason, "MODEL_NOT_FOUND");
  // The same id again is another model.
  PublishAdapter("lora", "gguf", *RandomSoftPrompt(config_));
  auto again = Acquire(&residency, "lora");
  EXPECT_TRUE(again->adapter->soft_prompt);
  EXPECT_NE(again->uid, held->uid);
}

TEST_F(ResidencyTest, AFailedLoadIsTriedAgain) {
  PublishAdapter("lora", "gguf", *RandomLora(config_));
  const std::string file = registry_->Directory("lora") + "/adapter_config.json";
  const std::string good = ReadFile(file).value();
  ASSERT_TRUE(WriteFileDurably(file, "{}").ok());
  Residency residency(registry_.get(), {}, kPlenty);
  EXPECT_EQ(GetErrorDetails(residency.Acquire("lora").status()).reason, "BAD_ADAPTER");
  ASSERT_TRUE(WriteFileDurably(file, good).ok());
  EXPECT_TRUE(residency.Acquire("lora").ok());
}

TEST_F(ResidencyTest, ConcurrentCallersGetOneModel) {
  PublishAdapter("lora", "gguf", *RandomLora(config_));
  Residency residency(registry_.get(), {}, kPlenty);
  std::vector<std::shared_ptr<const ServedModel>> models(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < models.size(); ++i) {
    threads.emplace_back([&, i] { models[i] = Acquire(&residency, i % 2 ? "lora" : "gguf"); });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 2; i < models.size(); ++i) EXPECT_EQ(models[i], models[i % 2]);
  EXPECT_EQ(models[0]->base, models[1]->base);
}

}  // namespace
}  // namespace attune
