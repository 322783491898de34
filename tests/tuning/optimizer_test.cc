#include "server/tuning/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "server/tuning/defaults.h"
#include "tests/testing/gpu.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

Hyperparameters Resolved(Hyperparameters h) {
  return ResolveHyperparameters(LoraSpec{}, h, {135'000'000, 100, 1000, 0, {}});
}

TEST(LearningRateTest, RisesThenFollowsItsSchedule) {
  Hyperparameters h;
  h.learning_rate = 1;
  h.warmup_ratio = 0.1;
  h.max_steps = 100;
  h.schedule = LearningRateSchedule::kLinear;
  h = Resolved(h);
  EXPECT_NEAR(LearningRate(h, 0, 100), 1.0 / 11, 1e-9);
  EXPECT_NEAR(LearningRate(h, 9, 100), 10.0 / 11, 1e-9);
  EXPECT_NEAR(LearningRate(h, 10, 100), 1, 1e-9);
  EXPECT_NEAR(LearningRate(h, 55, 100), 0.5, 1e-9);
  EXPECT_GT(LearningRate(h, 99, 100), 0) << "no step is wasted at rate zero";
  h.schedule = LearningRateSchedule::kCosine;
  EXPECT_NEAR(LearningRate(h, 55, 100), 0.5, 1e-9);
  EXPECT_GT(LearningRate(h, 30, 100), 0.8);
  h.schedule = LearningRateSchedule::kConstant;
  EXPECT_EQ(LearningRate(h, 99, 100), 1);
}

class AdamWTest : public ::testing::Test {
 protected:
  void Make(const Hyperparameters& h) {
    leaf_ = at::tensor({1.0f, -2.0f}).set_requires_grad(true);
    parameters_ = {{"w", leaf_}};
    flat_ = std::make_unique<FlatParameters>(parameters_, at::kFloat);
    optimizer_ = std::make_unique<AdamW>(parameters_, Resolved(h), flat_.get());
  }
  double Step(double rate, float g0, float g1) {
    at::Tensor(flat_->gradients()).copy_(at::tensor({g0, g1}));
    return optimizer_->Step(rate);
  }
  at::Tensor leaf_;
  std::vector<Parameter> parameters_;
  std::unique_ptr<FlatParameters> flat_;
  at::Tensor State(int i) const { return optimizer_->State()[i].tensor; }
  std::unique_ptr<AdamW> optimizer_;
};

// The update written out by hand, in doubles.
TEST_F(AdamWTest, FollowsThePaper) {
  Hyperparameters h;
  h.weight_decay = 0.1;
  h.max_gradient_norm = 0;
  Make(h);
  double w[2] = {1, -2}, m[2] = {0, 0}, v[2] = {0, 0};
  const float gradients[3][2] = {{0.5f, -1}, {2, 0.25f}, {-1, 3}};
  for (int t = 1; t <= 3; ++t) {
    const float* g = gradients[t - 1];
    EXPECT_NEAR(Step(0.01, g[0], g[1]), std::hypot(g[0], g[1]), 1e-6);
    for (int i = 0; i < 2; ++i) {
      m[i] = 0.9 * m[i] + 0.1 * g[i];
      v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
      w[i] -= 0.01 * 0.1 * w[i];
      w[i] -= 0.01 * (m[i] / (1 - std::pow(0.9, t))) / (std::sqrt(v[i] / (1 - std::pow(0.999, t))) + 1e-8);
      EXPECT_NEAR(leaf_[i].item<float>(), w[i], 1e-6) << "step " << t;
    }
  }
  EXPECT_EQ(optimizer_->steps(), 3);
}

// LoRA+: parameters with rates of their own step as if an optimizer of that rate had them, but are clipped together.
TEST(AdamWRatesTest, EachParameterHasItsRate) {
  at::manual_seed(6);
  Hyperparameters h;
  h.weight_decay = 0.1;
  h.max_gradient_norm = 1;
  h = Resolved(h);
  const at::Tensor start = at::randn({3, 4});
  std::vector<at::Tensor> found;
  for (const double rate : {1.0, 16.0}) {
    const at::Tensor slow = start.clone().set_requires_grad(true), fast = start.clone().set_requires_grad(true);
    const std::vector<Parameter> parameters = {{"slow", slow}, {"fast", fast, rate}};
    FlatParameters flat(parameters, at::kFloat);
    AdamW optimizer(parameters, h, &flat);
    at::manual_seed(7);
    for (int step = 0; step < 3; ++step) {
      const at::Tensor gradient = at::randn({3, 4});
      flat.Gradient(slow).copy_(gradient);
      flat.Gradient(fast).copy_(gradient);
      EXPECT_NEAR(optimizer.Step(rate == 1 ? 0.016 : 0.001), std::sqrt(2.0) * gradient.norm().item<double>(), 1e-5);
    }
    found.push_back(fast.detach().clone());
    EXPECT_EQ(at::equal(slow, fast), rate == 1);
    EXPECT_EQ(optimizer.steps(), 3);
  }
  EXPECT_TRUE(Near(found[1], found[0], 1e-6));
}

TEST(DynamicMapTest, ResolvesSevenDecades) {
  for (bool both_signs : {true, false}) {
    const std::vector<float> map = DynamicMap(both_signs);
    ASSERT_EQ(map.size(), 256u);
    EXPECT_TRUE(std::is_sorted(map.begin(), map.end()));
    EXPECT_EQ(map.back(), 1);
    EXPECT_EQ(std::count(map.begin(), map.end(), 0.0f), 1);
    EXPECT_LT(both_signs ? map.front() : -1, -0.98);
    EXPECT_LT(*std::upper_bound(map.begin(), map.end(), 0.0f), 1e-6);
  }
}

// 8-bit state follows the fp32 step as far as its blocks resolve.
class Moments8BitTest : public ::testing::TestWithParam<bool> {};

TEST_P(Moments8BitTest, FollowsFloatState) {
  if (GetParam() && !FindGpu()) GTEST_SKIP() << "no GPU";
  const at::TensorOptions options(GetParam() ? at::kCUDA : at::kCPU);
  at::manual_seed(4);
  Hyperparameters h;
  h.weight_decay = 0.1;
  h.max_gradient_norm = 1;
  const at::Tensor start = at::randn({300, 7}, options);
  const std::vector<Parameter> exact = {{"a", start.clone().set_requires_grad(true)}},
                               coarse = {{"a", start.clone().set_requires_grad(true)}};
  const FlatParameters exact_flat(exact, at::kBFloat16), coarse_flat(coarse, at::kBFloat16);
  AdamW exact_adamw(exact, Resolved(h), &exact_flat);
  h.optimizer_state = "int8";
  AdamW coarse_adamw(coarse, Resolved(h), &coarse_flat);
  at::NoGradGuard no_grad;
  for (int t = 0; t < 20; ++t) {
    const at::Tensor gradients = at::randn({2100}, options) + 0.5;
    at::Tensor(exact_flat.gradients()).copy_(gradients);
    at::Tensor(coarse_flat.gradients()).copy_(gradients);
    EXPECT_EQ(exact_adamw.Step(0.01), coarse_adamw.Step(0.01));
    EXPECT_TRUE(at::equal(coarse_flat.copy(), coarse_flat.values().to(at::kBFloat16)));
  }
  EXPECT_TRUE(at::equal(exact_flat.copy(), exact_flat.values().to(at::kBFloat16)));
  const at::Tensor moved = exact_flat.values() - start.flatten();
  EXPECT_LT((coarse_flat.values() - exact_flat.values()).norm().item<float>(), 0.05 * moved.norm().item<float>());
  int64_t bytes = 0;
  for (const StateTensor& state : coarse_adamw.State()) bytes += static_cast<int64_t>(state.tensor.nbytes());
  EXPECT_LT(bytes, 2100 * 8 / 3);
  // A norm that is no number changes nothing.
  const at::Tensor values = coarse_flat.values().clone(), codes = coarse_adamw.State()[0].tensor.clone();
  at::Tensor(coarse_flat.gradients()).fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(std::isnan(coarse_adamw.Step(0.01)));
  EXPECT_TRUE(at::equal(coarse_flat.values(), values));
  EXPECT_TRUE(at::equal(coarse_adamw.State()[0].tensor, codes));
}

// Over all decades of the map, and what is left of a block at the end.
TEST(Moments8BitCodesTest, BothDevicesGiveTheSame) {
  if (!FindGpu()) GTEST_SKIP() << "no GPU";
  at::manual_seed(5);
  constexpr int64_t kCount = 256 * 400 + 77;
  at::NoGradGuard no_grad;
  const at::Tensor gradients = at::pow(10.0, at::rand({kCount}) * 10 - 9) * (at::randint(2, {kCount}) * 2 - 1);
  std::vector<std::vector<at::Tensor>> states;
  for (at::Device device : {at::Device(at::kCPU), at::Device(at::kCUDA)}) {
    Hyperparameters h;
    h.optimizer_state = "int8";
    const std::vector<Parameter> parameters = {{"a", at::zeros({kCount}, device)}};
    const FlatParameters flat(parameters, at::kBFloat16);
    AdamW adamw(parameters, Resolved(h), &flat);
    at::Tensor(flat.gradients()).copy_(gradients);
    adamw.Step(0.01);
    states.emplace_back();
    for (const StateTensor& state : adamw.State()) states.back().push_back(state.tensor.cpu().to(at::kDouble));
  }
  for (size_t i = 0; i < states[0].size(); ++i) {
    const at::Tensor difference = (states[0][i] - states[1][i]).abs();
    // One device rounds a product and a sum at once.
    EXPECT_LE(difference.max().item<double>(), states[0][i].numel() == kCount ? 1 : 1e-6) << i;
    if (states[0][i].numel() == kCount) {
      EXPECT_LT(difference.mean().item<double>(), 1e-4) << i;
    }
  }
  EXPECT_GT(std::get<0>(at::_unique(states[0][0])).numel(), 250);
}

INSTANTIATE_TEST_SUITE_P(Devices, Moments8BitTest, ::testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "Gpu" : "Cpu"); });

// The step by way of ATen, which other types and GPUs without kernels take, is the loops'.
TEST(AdamWStepTest, OfAnotherTypeIsTheSame) {
  at::manual_seed(6);
  const cuda::AdamWSettings settings = {0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 1.0f, 0.19f, 0.002f};
  const at::Tensor p = at::randn({50}), g = at::randn({50}), m = at::randn({50}), v = at::rand({50});
  const at::Tensor p64 = p.to(at::kDouble), m64 = m.to(at::kDouble), v64 = v.to(at::kDouble);
  AdamWStep(settings, g.norm(), {p64, {}, g.to(at::kDouble)}, m64, v64);
  AdamWStep(settings, g.norm(), {p, {}, g}, m, v);
  EXPECT_TRUE(Near(p, p64, 1e-6));
  EXPECT_TRUE(Near(m, m64, 1e-6));
  EXPECT_TRUE(Near(v, v64, 1e-6));
}

// The one-kernel step over flat parameters: clipping, decay and both moments, in doubles beside it.
TEST(GpuAdamWTest, FollowsThePaper) {
  if (!FindGpu()) GTEST_SKIP() << "no GPU";
  at::manual_seed(9);
  Hyperparameters h;
  h.weight_decay = 0.1;
  h.max_gradient_norm = 1;
  const at::TensorOptions gpu(at::kCUDA);
  const std::vector<Parameter> parameters = {{"a", at::randn({300, 7}, gpu).set_requires_grad(true)},
                                             {"b", at::randn({13}, gpu).set_requires_grad(true)}};
  const FlatParameters flat(parameters, at::kBFloat16);
  AdamW optimizer(parameters, Resolved(h), &flat);
  at::Tensor w = flat.values().to(at::kCPU, at::kDouble), m = at::zeros_like(w), v = at::zeros_like(w);
  for (int t = 1; t <= 3; ++t) {
    const at::Tensor gradients = at::randn({flat.count()}, gpu);
    at::Tensor(flat.gradients()).copy_(gradients);
    at::Tensor g = gradients.to(at::kCPU, at::kDouble);
    const double norm = g.norm().item<double>();
    EXPECT_NEAR(optimizer.Step(0.01), norm, 1e-5 * norm);
    g = g / norm;
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    w = w * (1 - 0.01 * 0.1) - 0.01 * (m / (1 - std::pow(0.9, t))) / ((v / (1 - std::pow(0.999, t))).sqrt() + 1e-8);
    EXPECT_TRUE(Near(flat.values(), w, 1e-5)) << "step " << t;
    EXPECT_TRUE(at::equal(flat.copy(), flat.values().to(at::kBFloat16)));
  }
}

TEST_F(AdamWTest, ClipsTheGlobalNorm) {
  Hyperparameters h;
  h.max_gradient_norm = 1.0;
  Make(h);
  EXPECT_NEAR(Step(0.01, 30, 40), 50, 1e-3) << "the norm before clipping";
  EXPECT_NEAR(State(0)[0].item<float>(), 0.1 * 0.6, 1e-5);
  EXPECT_NEAR(State(0)[1].item<float>(), 0.1 * 0.8, 1e-5);
}

TEST_F(AdamWTest, ANormThatIsNoNumberChangesNothing) {
  Make({});
  EXPECT_TRUE(std::isnan(Step(0.01, std::numeric_limits<float>::quiet_NaN(), 1)));
  EXPECT_EQ(leaf_[0].item<float>(), 1);
  EXPECT_EQ(leaf_[1].item<float>(), -2);
  EXPECT_EQ(State(0).abs().max().item<float>(), 0);
  EXPECT_EQ(optimizer_->steps(), 0);
}

// A checkpoint puts moments and the count back; the step after is the one that would have followed.
TEST_F(AdamWTest, GoesOnFromMomentsThatWerePutBack) {
  Make({});
  Step(0.01, 1, -3);
  const at::Tensor values = leaf_.detach().clone(), first = State(0).clone(),
                   second = State(1).clone();
  Step(0.01, 0.5, 2);
  const at::Tensor expected = leaf_.detach().clone();
  Make({});
  at::NoGradGuard no_grad;
  leaf_.copy_(values);
  State(0).copy_(first);
  State(1).copy_(second);
  optimizer_->set_steps(1);
  Step(0.01, 0.5, 2);
  EXPECT_TRUE(at::equal(leaf_.detach(), expected));
}

}  // namespace
}  // namespace attune
