#include "server/model/kernels/cross_entropy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;

Tensor Reference(const Tensor& h, const Tensor& w, const Tensor& targets, double softcap = 0) {
  Tensor logits = at::mm(h, w.t());
  if (softcap > 0) logits = at::tanh(logits / softcap) * softcap;
  return -at::log_softmax(logits, -1).gather(1, targets.unsqueeze(1)).sum();
}

class CrossEntropyTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(13); }
};

// 600 rows: more than are worked on at a time.
TEST_F(CrossEntropyTest, LossAndGradientsAgreeOverManyChunks) {
  const Tensor targets = at::randint(0, 37, {600}, at::kLong), h = at::randn({600, 16}), w = at::randn({37, 16});
  Tensor h1 = h.clone().set_requires_grad(true), w1 = w.clone().set_requires_grad(true);
  Tensor h2 = h.clone().set_requires_grad(true), w2 = w.clone().set_requires_grad(true);
  CrossEntropy result = LinearCrossEntropy(h1, w1, targets);
  const Tensor expected = Reference(h2, w2, targets);
  EXPECT_TRUE(Near(result.loss_sum, expected, 1e-5));
  (result.loss_sum / 3).backward();
  (expected / 3).backward();
  EXPECT_TRUE(Near(h1.grad(), h2.grad(), 1e-5));
  EXPECT_TRUE(Near(w1.grad(), w2.grad(), 1e-5));
  EXPECT_EQ(result.correct, at::mm(h, w.t()).argmax(1).eq(targets).sum().item<int64_t>());
}

// A cap that many logits reach; by autograd, and by the half for passes that are differentiated by hand.
TEST_F(CrossEntropyTest, SoftCapHasItsGradient) {
  const double cap = 3;
  const Tensor targets = at::randint(0, 37, {600}, at::kLong), h = at::randn({600, 16}), w = at::randn({37, 16});
  Tensor h1 = h.clone().set_requires_grad(true), w1 = w.clone().set_requires_grad(true);
  Tensor h2 = h.clone().set_requires_grad(true), w2 = w.clone().set_requires_grad(true);
  const CrossEntropy result = LinearCrossEntropy(h1, w1, targets, cap);
  const Tensor expected = Reference(h2, w2, targets, cap);
  EXPECT_TRUE(Near(result.loss_sum, expected, 1e-5));
  result.loss_sum.backward();
  expected.backward();
  EXPECT_TRUE(Near(h1.grad(), h2.grad(), 1e-5));
  EXPECT_TRUE(Near(w1.grad(), w2.grad(), 1e-5));
  const at::NoGradGuard no_grad;
  const Tensor dw = at::zeros({37, 16});
  const CrossEntropySums sums = LinearCrossEntropySums(h, {.w_VD = w, .dw_VD = dw, .softcap = cap}, targets, at::ones({}), true);
  EXPECT_TRUE(Near(sums.loss_sum, expected, 1e-5));
  EXPECT_TRUE(Near(sums.dh_ND, h2.grad(), 1e-5));
  EXPECT_TRUE(Near(dw, w2.grad(), 1e-5));
}

TEST_F(CrossEntropyTest, FrozenHeadGetsNoGradient) {
  Tensor h = at::randn({3, 8}).set_requires_grad(true);
  const Tensor w = at::randn({5, 8});
  LinearCrossEntropy(h, w, at::zeros({3}, at::kLong)).loss_sum.backward();
  EXPECT_TRUE(h.grad().defined());
  EXPECT_FALSE(w.grad().defined());
}

TEST_F(CrossEntropyTest, LargeLogitsStayFinite) {
  const Tensor h = at::full({1, 1}, 1.0), w = at::tensor({1000.0f, -1000.0f}).view({2, 1});
  EXPECT_EQ(LinearCrossEntropy(h, w, at::zeros({1}, at::kLong)).loss_sum.item<double>(), 0);
  EXPECT_NEAR(LinearCrossEntropy(h, w, at::ones({1}, at::kLong)).loss_sum.item<double>(), 2000, 1e-3);
}

TEST_F(CrossEntropyTest, WithoutGradientModeGivesTheSameLoss) {
  at::NoGradGuard no_grad;
  const Tensor targets = at::randint(0, 37, {20}, at::kLong), h = at::randn({20, 16}), w = at::randn({37, 16});
  EXPECT_TRUE(Near(LinearCrossEntropy(h, w, targets).loss_sum, Reference(h, w, targets), 1e-5));
}

}  // namespace
}  // namespace attune
