#include "server/tuning/pass_loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace attune {
namespace {

constexpr int64_t kRows = 7, kWidth = 12, kVocab = 40, kKnown = 5, kRank = 3;
constexpr double kScale = 0.7;

// Losses of a head with a LoRA, with or without a soft cap, against the same written down plainly, under autograd in fp64.
class PassLossTest : public ::testing::TestWithParam<double> {
 protected:
  PassLossTest() {
    at::manual_seed(7);
    h_ = at::randn({kRows, kWidth});
    head_ = {.w_VD = at::randn({kVocab, kWidth}), .dw_VD = at::zeros({kVocab, kWidth}), .softcap = GetParam()};
    head_.u_NR = at::randn({kRows, kRank});
    head_.b_VR = at::randn({kVocab, kRank});
    head_.du_NR = at::full({kRows, kRank}, 1e9);
    head_.db_VR = at::zeros({kVocab, kRank});
    head_.scale = kScale;
    batch_.loss_tokens = at::full({}, kRows - 1, at::kLong);
    batch_.targets_N = at::randint(kVocab, {kRows}, at::kLong);
    batch_.targets_N[kRows - 1] = -1;  // padding
  }

  at::Tensor Capped(const at::Tensor& z) const {
    return GetParam() > 0 ? (z / GetParam()).tanh() * GetParam() : z;
  }
  // `loss` of all rows but padding, from fp64 logits.
  template <typename Loss>
  void ExpectLike(const Loss& loss) {
    const PassLoss found = ComputeLoss(h_, head_, batch_, options_, /*needs_gradient=*/true, nullptr);
    auto leaf = [](const at::Tensor& values) { return values.to(at::kDouble).set_requires_grad(true); };
    const at::Tensor h = leaf(h_), w = leaf(head_.w_VD), u = leaf(head_.u_NR), b = leaf(head_.b_VR);
    const at::Tensor z = at::matmul(h, w.t()) + kScale * at::matmul(u, b.t());
    const at::Tensor sum = loss(Capped(z).narrow(0, 0, kRows - 1));
    const at::Tensor mean = sum / Count();
    mean.backward();
    EXPECT_NEAR(found.result.loss_sum.item<double>(), sum.item<double>(), 1e-4);
    const std::pair<at::Tensor, at::Tensor> pairs[] = {{found.dh_ND, h}, {head_.dw_VD, w}, {head_.du_NR, u}, {head_.db_VR, b}};
    for (const std::pair<at::Tensor, at::Tensor>& pair : pairs) {
      EXPECT_LT((pair.first - pair.second.grad()).abs().max().item<double>(), 2e-5);
    }
    EXPECT_GT(h.grad().abs().max().item<double>(), 1e-2);
  }
  double Count() const { return static_cast<double>(batch_.loss_tokens.item<int64_t>()); }
  at::Tensor Targets() const { return batch_.targets_N.narrow(0, 0, kRows - 1).unsqueeze(1); }

  at::Tensor h_;
  HeadWeights head_;
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
