#include "server/tuning/teacher.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "server/adapters/packed_ops.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/random_model.h"

namespace attune {
namespace {

// What a teacher says is what its own logits say, under their soft cap if it has one.
class TeacherTest : public ::testing::TestWithParam<double> {};

TEST_P(TeacherTest, SaysWhatItsLogitsSay) {
  at::manual_seed(3);
  ModelConfig c;
  c.family = "llama";
  c.layers = 2;
  c.hidden = 32;
  c.intermediate = 48;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.vocab = FakeTokenizer::kSize;
  c.context = 64;
  c.tied_head = false;
  c.logit_softcap = GetParam();
  const auto base = std::const_pointer_cast<BaseModel>(MakeRandomModel(c, ComputeTarget{}));
  base->tokenizer = std::make_unique<FakeTokenizer>();
  base->weights.head_VD.mul_(40);  // logits that a cap of 2 bends
  ServedModel teacher;
  teacher.base = base;
  teacher.tokenizer_view = base->tokenizer.get();
  teacher.context = c.context;
  Example example;
  example.tokens = {10, 20, 30, 40, 50};
  example.has_loss = {0, 0, 0, 1, 1};
  DistillationSpec spec;
  spec.top_k = 5;
  spec.temperature = 2;
  std::vector<Example> examples = {example};
  ASSERT_TRUE(ScoreTeacher(teacher, spec, nullptr, nullptr, &examples).ok());
  const at::Tensor logits = AllLogits(*base, nullptr, example.tokens).narrow(0, 2, 2).to(at::kFloat) / 2;
  EXPECT_GT(logits.abs().max().item<float>(), 0.9);
  const auto [values, ids] = at::topk(at::log_softmax(logits, 1), 5, 1);
  ASSERT_EQ(examples[0].teacher.ids.size(), 10u);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(examples[0].teacher.ids[i], ids[i / 5][i % 5].item<int32_t>()) << i;
    EXPECT_NEAR(examples[0].teacher.log_probabilities[i], values[i / 5][i % 5].item<float>(), 1e-5) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Caps, TeacherTest, ::testing::Values(0, 2));

}  // namespace
}  // namespace attune
