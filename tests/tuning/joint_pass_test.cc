#include "server/tuning/joint_pass.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/error.h"
#include "server/device/arbiter.h"
#include "server/tuning/defaults.h"
#include "server/tuning/trainer.h"
#include "tests/testing/gpu.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace attune {
namespace {

constexpr int kSteps = 6;

class JointPassTest : public ::testing::Test {
 protected:
  // Everything that a job would hold.
  struct Run {
    std::vector<Example> examples;
    std::unique_ptr<Method> method;
    std::unique_ptr<Batcher> batcher;
    std::unique_ptr<Trainer> trainer;
    std::vector<double> losses;
    absl::Status status;
  };

  void SetUp() override {
    TinyModel::WriteGguf(temp_.File("model.gguf"));
    Load(ComputeTarget{});
  }

  void Load(const ComputeTarget& target) {
    auto base = LoadBaseModel(temp_.path(), temp_.path(), target);
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }

  static LoraSpec Spec() {
    LoraSpec spec;
    spec.rank = 4;
    spec.dropout = 0.1;
    return spec;
  }

  // Each job has its own data, batch size and learning rate.
  std::unique_ptr<Run> Make(int job, JointPasses* joint, const LoraSpec& spec = Spec()) {
    auto made = std::make_unique<Run>();
    std::mt19937 random(job + 1);
    for (int i = 0; i < 12; ++i) {
      Example example;
      const int length = 4 + static_cast<int>(random() % 12);
      for (int t = 0; t < length; ++t) {
        example.tokens.push_back(3 + static_cast<int32_t>(random() % 250));
        example.has_loss.push_back(t >= length - 1 - i % 3);
      }
      made->examples.push_back(example);
    }
    Hyperparameters given;
    given.max_steps = kSteps;
    given.batch_size = 3 + job;
    given.micro_batch_tokens = 30;  // several micro-batches a step
    given.learning_rate = 1e-3 * (job + 1);
    given.seed = job;
    const Hyperparameters h =
        ResolveHyperparameters(spec, given, {base_->config.Parameters(), 12, 100, 0, base_->target});
    auto method = MakeMethod(spec, base_, job);
    EXPECT_TRUE(method.ok()) << method.status();
    made->method = std::move(*method);
    made->batcher = std::make_unique<Batcher>(&made->examples, h.batch_size, h.micro_batch_tokens, 0, job);
    made->trainer = std::make_unique<Trainer>(base_.get(), made->method.get(), made->batcher.get(), h, nullptr,
                                              int64_t{1} << 30, joint);
    return made;
  }

  static void Train(Run* run) {
    for (int64_t step = 0; step < kSteps && run->status.ok(); ++step) {
      const auto result = run->trainer->Step(step);
      run->status = result.status();
      if (result.ok()) run->losses.push_back(result->loss);
    }
  }
  static void TrainTogether(const std::vector<std::unique_ptr<Run>>& runs) {
    std::vector<std::thread> threads;
    for (const auto& run : runs) threads.emplace_back([&run] { Train(run.get()); });
    for (std::thread& thread : threads) thread.join();
  }

  // How far two runs' changes of the parameters differ, against how large they are.
  double Difference(const Run& a, const Run& b, int job) {
    auto start = MakeMethod(Spec(), base_, job);
    double apart = 0, moved = 0;
    for (size_t i = 0; i < a.method->parameters().size(); ++i) {
      const at::Tensor x = a.method->parameters()[i].leaf.detach(), y = b.method->parameters()[i].leaf.detach();
      apart += (x - y).square().sum().item<double>();
      moved += (x - (*start)->parameters()[i].leaf.detach()).square().sum().item<double>();
    }
    return std::sqrt(apart / moved);
  }

  void ExpectAsAlone(double loss_tolerance, double tolerance) {
    constexpr int kJobs = 4;
    JointPasses joint;
    std::vector<std::unique_ptr<Run>> together, alone;
    for (int job = 0; job < kJobs; ++job) {
      together.push_back(Make(job, &joint));
      alone.push_back(Make(job, nullptr));
      Train(alone.back().get());
    }
    TrainTogether(together);
    for (int job = 0; job < kJobs; ++job) {
      ASSERT_TRUE(together[job]->status.ok()) << together[job]->status;
      ASSERT_EQ(together[job]->losses.size(), alone[job]->losses.size());
      for (size_t step = 0; step < alone[job]->losses.size(); ++step) {
        EXPECT_NEAR(together[job]->losses[step], alone[job]->losses[step], loss_tolerance) << "job " << job;
      }
      EXPECT_LT(Difference(*alone[job], *together[job], job), tolerance) << "job " << job;
      EXPECT_GT(together[job]->trainer->joint_bytes(), 0);
      EXPECT_EQ(alone[job]->trainer->joint_bytes(), 0);
    }
  }

  TempFolder temp_;
  std::shared_ptr<const BaseModel> base_;
};

TEST_F(JointPassTest, GivesEachJobWhatItGetsAlone) { ExpectAsAlone(1e-5, 1e-3); }

TEST_F(JointPassTest, GpuGivesEachJobWhatItGetsAlone) {
  const std::optional<ComputeTarget> gpu = FindGpu(ComputeTarget::Type::kFloat32);
  if (!gpu) GTEST_SKIP() << "no GPU";
  Load(*gpu);
  ExpectAsAlone(1e-4, 1e-2);
}

TEST_F(JointPassTest, GpuInBfloat16GivesAboutWhatItGivesAlone) {
  const std::optional<ComputeTarget> gpu = FindGpu(ComputeTarget::Type::kBfloat16);
  if (!gpu) GTEST_SKIP() << "no GPU";
  Load(*gpu);
  ExpectAsAlone(2e-2, 0.3);
}

// Its neighbours go on as if it had not been there.
TEST_F(JointPassTest, AJobWithoutNumbersHarmsNobody) {
  JointPasses joint;
  std::vector<std::unique_ptr<Run>> runs;
  for (int job = 0; job < 3; ++job) runs.push_back(Make(job, &joint));
  runs[1]->method->parameters()[0].leaf.detach().fill_(std::numeric_limits<float>::quiet_NaN());
  TrainTogether(runs);
  EXPECT_EQ(GetErrorDetails(runs[1]->status).reason, "NAN_LOSS");
  for (int job : {0, 2}) {
    const auto alone = Make(job, nullptr);
    Train(alone.get());
    ASSERT_TRUE(runs[job]->status.ok()) << runs[job]->status;
    EXPECT_LT(Difference(*alone, *runs[job], job), 1e-3) << "job " << job;
  }
}

TEST_F(JointPassTest, OnlyJobsOfOneKindShare) {
  JointPasses joint;
  LoraSpec narrow = Spec(), fewer = Spec(), scaled = Spec(), without = Spec();
  narrow.rank = 2;
  fewer.target_modules = {TargetModule::kQProj};
  scaled.alpha = 1;
  without.dropout = 0;
  auto member = [&](const LoraSpec& spec) {
    auto method = MakeMethod(spec, base_, 1);
    return joint.Join(base_.get(), *(*method)->lora(), at::kFloat, nullptr, nullptr);
  };
  const auto first = member(Spec());
  for (const LoraSpec& other : {narrow, fewer, scaled, without}) {
    const auto odd = member(other);
    EXPECT_FALSE(odd->HasCompany());
    EXPECT_FALSE(first->HasCompany());
  }
  {
    const auto second = member(Spec());
    EXPECT_TRUE(first->HasCompany());
    EXPECT_TRUE(second->HasCompany());
  }
  EXPECT_FALSE(first->HasCompany());
}

TEST_F(JointPassTest, JobsWithEmbeddingsOrHeadsOfTheirOwnTrainApart) {
  LoraSpec saved = Spec(), adapted = Spec();
  saved.modules_to_save = {TargetModule::kEmbedTokens};
  adapted.target_modules = {TargetModule::kQProj, TargetModule::kLmHead};
  for (const LoraSpec& spec : {saved, adapted}) {
    JointPasses joint;
    std::vector<std::unique_ptr<Run>> together;
    for (int job = 0; job < 2; ++job) together.push_back(Make(job, &joint, spec));
    TrainTogether(together);
    for (int job = 0; job < 2; ++job) {
      const auto alone = Make(job, nullptr, spec);
      Train(alone.get());
      ASSERT_TRUE(together[job]->status.ok()) << together[job]->status;
      EXPECT_EQ(together[job]->losses, alone->losses);
      EXPECT_EQ(together[job]->trainer->joint_bytes(), 0);
    }
  }
}

TEST_F(JointPassTest, WithoutMemoryForItJobsTrainApart) {
  for (const auto& [bytes, shares] : {std::pair<int64_t, bool>{1000, false}, {int64_t{1} << 30, true}}) {
    Arbiter::Options options;
    options.memory_bytes = bytes;
    Arbiter arbiter(&Clock::Real(), options);
    JointPasses joint;
    auto method = MakeMethod(Spec(), base_, 1);
    auto join = [&] { return joint.Join(base_.get(), *(*method)->lora(), at::kFloat, nullptr, &arbiter); };
    {
      const auto first = join();
      EXPECT_EQ(arbiter.memory().used(), 0);  // one alone takes nothing
      const auto second = join();
      EXPECT_EQ(first->HasCompany(), shares);
      EXPECT_EQ(arbiter.memory().used() > 0, shares);
    }
    EXPECT_EQ(arbiter.memory().used(), 0);
  }
}

TEST_F(JointPassTest, MoreJobsThanPlacesFormAnotherGroup) {
  JointPasses joint;
  auto method = MakeMethod(Spec(), base_, 1);
  std::vector<std::unique_ptr<JointPass::Member>> members;
  for (int64_t i = 0; i <= JointPass::kPlaces; ++i) {
    members.push_back(joint.Join(base_.get(), *(*method)->lora(), at::kFloat, nullptr, nullptr));
  }
  EXPECT_TRUE(members.front()->HasCompany());
  EXPECT_FALSE(members.back()->HasCompany());
}

}  // namespace
}  // namespace attune
