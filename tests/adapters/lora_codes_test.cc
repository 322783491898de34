#include "server/adapters/lora_codes.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/testing/random_adapter.h"

namespace attune {
namespace {

using at::Tensor;

ModelConfig Config() {
  ModelConfig config;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.hidden = 64;
  config.intermediate = 96;
  config.vocab = 50;
  return config;
}

Tensor UpdateOf(const LoraModule& module) { return module.b_OR.to(at::kDouble).matmul(module.a_RI.to(at::kDouble)) * module.scale; }

Tensor UpdateByCodes(const LoraModule& module) {
  const LoraModule::Codes& codes = module.codes;
  const Tensor inner = codes.a_RI.to(at::kDouble) * codes.scale_R.to(at::kDouble).unsqueeze(1);
  return codes.b_OR.narrow(1, 0, codes.a_RI.size(0)).to(at::kDouble).matmul(inner) * module.scale;
}

TEST(LoraCodesTest, UpdatesByCodesAreCloseToThoseOfTheMatrices) {
  at::manual_seed(3);
  for (const auto& [rank, filled] : std::vector<std::pair<int64_t, int64_t>>{{4, 8}, {8, 8}, {9, 16}, {16, 16}, {20, 32}}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      auto adapter = RandomLoraOfRank(Config(), rank, type);
      AddLoraCodes(adapter.get());
      double wrong = 0, all = 0;
      for (const auto& layer : adapter->lora->layers) {
        for (const LoraModule& module : layer) {
          ASSERT_TRUE(module.codes.defined());
          EXPECT_EQ(module.codes.a_RI.scalar_type(), at::kChar);
          EXPECT_EQ(module.codes.a_RI.sizes(), module.a_RI.sizes());
          EXPECT_EQ(module.codes.b_OR.sizes(), (at::IntArrayRef{module.b_OR.size(0), filled}));
          EXPECT_TRUE(module.codes.a_RI.is_contiguous() && module.codes.b_OR.is_contiguous());
          EXPECT_EQ(module.codes.a_RI.abs().max().item<int>(), 127) << "the whole range is used";
          wrong += (UpdateByCodes(module) - UpdateOf(module)).square().sum().item<double>();
          all += UpdateOf(module).square().sum().item<double>();
        }
      }
      const double error = LoraCodesError(*adapter->lora);
      EXPECT_NEAR(error, std::sqrt(wrong / all), 1e-6);
      EXPECT_LT(error, 0.015) << rank;
      EXPECT_GT(error, 0.001) << rank;
    }
  }
}

// A rank that is much smaller than the others, in either matrix, is as exact.
TEST(LoraCodesTest, EachRankHasItsOwnScale) {
  auto adapter = RandomLoraOfRank(Config(), 4, at::kFloat);
  for (auto& layer : adapter->lora->layers) {
    for (LoraModule& module : layer) {
      module.a_RI.narrow(0, 1, 3).mul_(1e-4);
      module.b_OR.narrow(1, 1, 3).mul_(1e-3);
    }
  }
  AddLoraCodes(adapter.get());
  for (const auto& layer : adapter->lora->layers) {
    for (LoraModule module : layer) {
      for (Tensor* matrix : {&module.codes.scale_R, &module.a_RI}) matrix->select(0, 0).zero_();  // the large one
      const Tensor expected = UpdateOf(module);
      EXPECT_LT((UpdateByCodes(module) - expected).norm().item<double>(), 0.02 * expected.norm().item<double>());
    }
  }
}

TEST(LoraCodesTest, WhatIsZeroStaysZero) {
  auto adapter = RandomLoraOfRank(Config(), 4, at::kFloat);
  for (auto& layer : adapter->lora->layers) {
    for (LoraModule& module : layer) module.b_OR.zero_();  // as at the beginning of training
  }
  AddLoraCodes(adapter.get());
  EXPECT_EQ(LoraCodesError(*adapter->lora), 0);
  for (const auto& layer : adapter->lora->layers) {
    for (const LoraModule& module : layer) EXPECT_TRUE(at::equal(UpdateByCodes(module), at::zeros_like(UpdateByCodes(module))));
  }
}

TEST(LoraCodesTest, TheirBytesAreTheAdaptersToo) {
  auto adapter = RandomLoraOfRank(Config(), 16, at::kBFloat16);
  adapter->bytes = 1000;
  AddLoraCodes(adapter.get());
  int64_t bytes = 1000;
  for (const auto& layer : adapter->lora->layers) {
    for (const LoraModule& module : layer) bytes += (module.a_RI.numel() + module.b_OR.numel()) + 16 * 4;
  }
  EXPECT_EQ(adapter->bytes, bytes);
}

TEST(LoraCodesTest, AModuleThatIsNotAdaptedHasNone) {
  auto adapter = RandomLoraOfRank(Config(), 4, at::kFloat);
  adapter->lora->layers[1][2] = {};
  AddLoraCodes(adapter.get());
  EXPECT_FALSE(adapter->lora->layers[1][2].codes.defined());
  EXPECT_TRUE(adapter->lora->layers[1][3].codes.defined());
  EXPECT_TRUE(adapter->lora->has_codes);
  EXPECT_GT(LoraCodesError(*adapter->lora), 0);
}

// Nor has any, if there is one that no kernel reads by codes, or that is hardly larger than they would be.
TEST(LoraCodesTest, SomeLorasHaveNone) {
  auto small = RandomLoraOfRank(Config(), 3, at::kFloat), large = RandomLoraOfRank(Config(), 600, at::kFloat);
  ModelConfig config = Config();
  config.intermediate = 104;
  auto odd = RandomLoraOfRank(config, 8, at::kFloat);  // down_proj's inputs are no multiple of 16
  for (Adapter* adapter : {small.get(), large.get(), odd.get()}) AddLoraCodes(adapter);
  for (const Adapter* adapter : {small.get(), large.get(), odd.get()}) {
    EXPECT_FALSE(adapter->lora->has_codes);
    EXPECT_EQ(adapter->bytes, 0);
    for (const LoraModule& module : adapter->lora->layers[0]) EXPECT_FALSE(module.codes.defined());
    EXPECT_EQ(LoraCodesError(*adapter->lora), 0);
  }
}

}  // namespace
}  // namespace attune
