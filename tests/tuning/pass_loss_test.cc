#include "server/tuning/pass_loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

namespace attune {
namespace {

constexpr int64_t kRows = 7, kWidth = 12, kVocab = 40, kKnown = 5;

// Losses of a head with or without a soft cap, against the same written down plainly, under autograd in fp64.
class PassLossTest : public ::testing::TestWithParam<double> {
 protected:
  PassLossTest() {
    at::manual_seed(7);
    h_ = at::randn({kRows, kWidth});
    head_ = {at::randn({kVocab, kWidth}), GetParam(), at::zeros({kVocab, kWidth})};
    batch_.loss_tokens = at::full({}, kRows - 1, at::kLong);
    batch_.targets_N = at::randint(kVocab, {kRows}, at::kLong);
    batch_.targets_N[kRows - 1] = -1;  // padding
  }

  at::Tensor Logits(const at::Tensor& h, const at::Tensor& w) const {
    const at::Tensor z = at::matmul(h, w.t());
    return GetParam() > 0 ? (z / GetParam()).tanh() * GetParam() : z;
  }
  // `loss` of all rows but padding, from fp64 logits.
  template <typename Loss>
  void ExpectLike(const Loss& loss) {
    const PassLoss found = ComputeLoss(h_, head_, batch_, options_, /*needs_gradient=*/true, nullptr);
    const at::Tensor h = h_.to(at::kDouble).set_requires_grad(true), w = head_.w_VD.to(at::kDouble).set_requires_grad(true);
    const at::Tensor sum = loss(Logits(h, w).narrow(0, 0, kRows - 1));
    const at::Tensor mean = sum / Count();
    mean.backward();
    EXPECT_NEAR(found.result.loss_sum.item<double>(), sum.item<double>(), 1e-4);
    EXPECT_LT((found.dh_ND - h.grad()).abs().max().item<double>(), 1e-5);
    EXPECT_LT((head_.gradient_VD - w.grad()).abs().max().item<double>(), 1e-5);
    EXPECT_GT(h.grad().abs().max().item<double>(), 1e-2);
  }
  double Count() const { return static_cast<double>(batch_.loss_tokens.item<int64_t>()); }
  at::Tensor Targets() const { return batch_.targets_N.narrow(0, 0, kRows - 1).unsqueeze(1); }

  at::Tensor h_;
  PassHead head_;
  PassBatch batch_;
  PassOptions options_;
};

TEST_P(PassLossTest, OfAnswers) {
  ExpectLike([&](const at::Tensor& z) { return -at::log_softmax(z, 1).gather(1, Targets()).sum(); });
}

TEST_P(PassLossTest, OfATeacher) {
  options_.temperature = 1.7;
  options_.teacher_weight = 0.6;
  const at::Tensor teacher = at::log_softmax(at::randn({kRows, kVocab}) * 2, 1);
  const auto [known, ids] = teacher.topk(kKnown, 1);
  batch_.teacher = {ids, known.contiguous()};
  ExpectLike([&, known = known, ids = ids](const at::Tensor& z) {
    const int64_t rows = kRows - 1;
    const at::Tensor log_p = known.narrow(0, 0, rows).to(at::kDouble), p = log_p.exp(), rest = 1 - p.sum(1);
    const at::Tensor log_q = at::log_softmax(z / options_.temperature, 1).gather(1, ids.narrow(0, 0, rows));
    const at::Tensor q_rest = 1 - log_q.exp().sum(1);
    const at::Tensor soft = (p * (log_p - log_q)).sum() + (rest * (rest.log() - q_rest.log())).sum();
    const at::Tensor hard = -at::log_softmax(z, 1).gather(1, Targets()).sum();
    return (1 - options_.teacher_weight) * hard + options_.teacher_weight * options_.temperature * options_.temperature * soft;
  });
}

INSTANTIATE_TEST_SUITE_P(Softcap, PassLossTest, ::testing::Values(0.0, 3.0),
                         [](const auto& info) { return std::string(info.param > 0 ? "Capped" : "Plain"); });

}  // namespace
}  // namespace attune
