// Tokens chosen on a GPU against those that the host chooses from the same logits.
#include "server/engine/token_choice.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "server/engine/sampler.h"
#include "server/model/base_model.h"
#include "server/model/kernels/cuda/launch.h"
#include "server/model/kernels/cuda_dispatch.h"
#include "tests/testing/gpu.h"

namespace attune {
namespace {

using at::Tensor;

Tensor OnDevice(const void* data, size_t bytes) {
  const Tensor host = at::empty({static_cast<int64_t>(bytes)}, at::kByte);
  if (bytes > 0) std::memcpy(host.mutable_data_ptr(), data, bytes);
  return host.to(at::kCUDA);
}

struct Outcome {
  std::vector<int32_t> tokens;
  Tensor logprobs;
};

class TokenChoiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!FindGpu(ComputeTarget::Type::kBfloat16) || !cuda::Available()) GTEST_SKIP() << "no GPU";
    at::manual_seed(7);
  }
  static Tensor Logits(int64_t rows, int64_t vocab, double spread) {
    return (at::randn({rows, vocab}) * spread).to(at::kBFloat16).to(at::kCUDA);
  }
  static cuda::ChosenRow RowOf(const SamplingParams& p, int row, uint64_t position) {
    const uint64_t uniform = std::bit_cast<uint64_t>(UniformDraw(p.seed, position));
    return {row,
            static_cast<float>(p.temperature),
            static_cast<float>(p.top_p),
            static_cast<float>(p.min_p),
            p.top_k,
            static_cast<int32_t>(uniform),
            static_cast<int32_t>(uniform >> 32),
            static_cast<float>(p.repetition_penalty),
            static_cast<float>(p.frequency_penalty),
            static_cast<float>(p.presence_penalty),
            0,
            0,
            -1,
            -1,
            -1,
            -1,
            -1,
            -1};
  }
  // `masks`: each of as many words as the first one.
  static Outcome Choose(const Tensor& logits, const std::vector<cuda::ChosenRow>& rows,
                        const std::vector<cuda::LogitChange>& changes = {}, const std::vector<int32_t>& before = {0},
                        const std::vector<std::vector<uint32_t>>& masks = {}) {
    const Tensor rows_there = OnDevice(rows.data(), rows.size() * sizeof(rows[0]));
    const Tensor changes_there = OnDevice(changes.data(), changes.size() * sizeof(cuda::LogitChange));
    std::vector<uint32_t> words;
    for (const std::vector<uint32_t>& mask : masks) words.insert(words.end(), mask.begin(), mask.end());
    const Tensor masks_there = OnDevice(words.data(), words.size() * sizeof(words[0]));
    const Tensor before_there = at::tensor(before, at::kInt).to(at::kCUDA);
    const Tensor sampled = at::full({logits.size(0)}, -5, at::TensorOptions(at::kInt).device(at::kCUDA));
    const Tensor scratch =
        at::empty({static_cast<int64_t>(rows.size()), logits.size(1)}, sampled.options().dtype(at::kFloat));
    const Tensor logprobs = at::zeros({logits.size(0), cuda::kLogprobsWidth}, scratch.options());
    cuda::ChooseRows({static_cast<const cuda::ChosenRow*>(rows_there.const_data_ptr()),
                      static_cast<const cuda::LogitChange*>(changes_there.const_data_ptr()), logits.const_data_ptr(), 0,
                      logits.size(1), sampled.mutable_data_ptr<int32_t>(), before_there.const_data_ptr<int32_t>(),
                      scratch.mutable_data_ptr<float>(), logprobs.mutable_data_ptr<float>(),
                      static_cast<const uint32_t*>(masks_there.const_data_ptr()),
                      masks.empty() ? 0 : static_cast<int64_t>(masks[0].size())},
                     static_cast<int64_t>(rows.size()), CurrentCudaStream());
    const Tensor tokens = sampled.cpu();
    return {std::vector<int32_t>(tokens.data_ptr<int32_t>(), tokens.data_ptr<int32_t>() + tokens.numel()),
            logprobs.cpu()};
  }
  static int32_t OnHost(const Tensor& row, const SamplingParams& p, std::vector<int32_t> seen, int64_t answer_begin,
                        const std::vector<int32_t>* banned = nullptr, const std::vector<uint32_t>* allowed = nullptr) {
    return SampleToken({row.const_data_ptr<float>(), row.numel(), seen.data(), static_cast<int64_t>(seen.size()),
                        answer_begin, banned, allowed},
                       p);
  }
};

// Sums are rounded differently, so that a draw that falls between two tokens may take the other one.
TEST_F(TokenChoiceTest, GpuDrawsWhatTheHostDraws) {
  std::mt19937 random(3);
  int drawn = 0, different = 0;
  for (int64_t vocab : {5, 1000, 4999, 32000}) {
    for (double spread : {0.3, 3.0}) {
      const int64_t count = 60;
      const Tensor logits = Logits(count, vocab, spread), host = logits.to(at::kCPU, at::kFloat);
      std::vector<cuda::ChosenRow> rows;
      std::vector<SamplingParams> params;
      for (int i = 0; i < count; ++i) {
        SamplingParams p;
        p.temperature = std::vector<double>{0, 0.05, 0.7, 1, 2}[random() % 5];
        p.top_k = std::vector<int>{0, 1, 3, 50, 40000}[random() % 5];
        p.top_p = std::vector<double>{1, 0.95, 0.5, 1e-6}[random() % 4];
        p.min_p = std::vector<double>{0, 0.1, 1}[random() % 3];
        p.seed = random();
        params.push_back(p);
        rows.push_back(RowOf(p, i, 4));
      }
      const Outcome outcome = Choose(logits, rows);
      for (int i = 0; i < count; ++i, ++drawn) {
        different += outcome.tokens[i] != OnHost(host[i], params[i], {1, 1, 1, 1}, 0);
      }
    }
  }
  EXPECT_LE(different, drawn / 100);
}

TEST_F(TokenChoiceTest, GpuDrawsAsOftenAsTokensAreLikely) {
  const int64_t vocab = 12, draws = 20000;
  const Tensor row = Logits(1, vocab, 1.5), logits = row.expand({draws, vocab}).contiguous();
  SamplingParams p;
  p.temperature = 0.9;
  p.seed = 17;
  std::vector<cuda::ChosenRow> rows;
  for (int i = 0; i < draws; ++i) rows.push_back(RowOf(p, i, i));
  std::vector<double> counts(vocab);
  for (int32_t token : Choose(logits, rows).tokens) ++counts.at(token);
  const Tensor expected = at::softmax(row[0].to(at::kCPU, at::kDouble) / p.temperature, 0) * draws;
  double chi_square = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    const double e = expected[i].item<double>();
    chi_square += (counts[i] - e) * (counts[i] - e) / e;
  }
  EXPECT_LT(chi_square, 31.3);  // one in a thousand is beyond, with 11 degrees of freedom
}

TEST_F(TokenChoiceTest, GpuPenalisesBiasesAndBansAsTheHostDoes) {
  const int64_t vocab = 300, count = 40;
  const Tensor logits = Logits(count, vocab, 1.0), host = logits.to(at::kCPU, at::kFloat);
  std::mt19937 random(5);
  std::vector<cuda::ChosenRow> rows;
  std::vector<cuda::LogitChange> changes;
  std::vector<int32_t> before, expected;
  for (int i = 0; i < count; ++i) {
    SamplingParams p;
    p.temperature = i % 2;
    p.top_k = 20;
    p.repetition_penalty = 1 + 0.5 * (i % 3);
    p.frequency_penalty = 0.4 * (i % 4);
    p.presence_penalty = 0.3 * (i % 5);
    p.seed = i;
    // Likely tokens are in it: else penalties would change nothing.
    const Tensor likely = std::get<1>(host[i].topk(12));
    std::vector<int32_t> seen;
    for (int k = 0; k < 12; ++k) seen.push_back(likely[random() % 12].item<int>());
    const int64_t answer_begin = 5;
    const std::vector<int32_t> banned = {likely[11].item<int>()};
    p.logit_bias = {{likely[10].item<int>(), 1.5f}};
    cuda::ChosenRow row = RowOf(p, i, seen.size() - answer_begin);
    // The last token is known to the device alone.
    row.pending = i;
    before.push_back(seen.back());
    row.scratch_row = i;
    row.first_change = static_cast<int32_t>(changes.size());
    for (int32_t token = 0; token < vocab; ++token) {
      cuda::LogitChange change{token, 0, 0, 0, 0};
      for (size_t k = 0; k + 1 < seen.size(); ++k) {
        if (seen[k] != token) continue;
        change.is_seen = 1;
        change.count += static_cast<int64_t>(k) >= answer_begin;
      }
      if (token == banned[0]) change.is_banned = 1;
      if (token == p.logit_bias[0].first) change.bias = p.logit_bias[0].second;
      if (change.is_seen || change.is_banned || change.bias != 0) changes.push_back(change);
    }
    row.changes = static_cast<int32_t>(changes.size()) - row.first_change;
    rows.push_back(row);
    expected.push_back(OnHost(host[i], p, seen, answer_begin, &banned));
  }
  const Outcome outcome = Choose(logits, rows, changes, before);
  int different = 0;
  for (int i = 0; i < count; ++i) different += outcome.tokens[i] != expected[i];
  EXPECT_LE(different, 1);
}

// Masks that end before the vocabulary does, beside rows without one; the logits stand in another order than the rows.
TEST_F(TokenChoiceTest, GpuChoosesAmongWhatAMaskAllows) {
  for (int64_t vocab : {1003, 1024}) {
    const int64_t count = 40;
    const Tensor logits = Logits(count, vocab, 1.0), host = logits.to(at::kCPU, at::kFloat);
    std::mt19937 random(6);
    std::vector<cuda::ChosenRow> rows;
    std::vector<cuda::LogitChange> changes;
    std::vector<std::vector<uint32_t>> masks;
    std::vector<int32_t> expected;
    for (int i = 0; i < count; ++i) {
      SamplingParams p;
      p.temperature = i % 2;
      p.top_p = i % 3 ? 1 : 0.5;
      p.presence_penalty = i % 4 == 3 ? 2 : 0;
      p.seed = i;
      const Tensor logits_row = host[count - 1 - i];
      const int32_t likely = logits_row.argmax().item<int32_t>();
      const bool is_changed = i % 7 != 0;
      if (is_changed) p.logit_bias = {{likely, 100.0f}};  // which is of no use where the mask forbids it
      std::vector<uint32_t> mask(20);
      for (uint32_t& word : mask) word = random() % 4 ? 0 : static_cast<uint32_t>(random());
      mask[3] |= 2;
      cuda::ChosenRow row = RowOf(p, i, 0);
      row.logits_row = static_cast<int32_t>(count - 1 - i);
      if (is_changed || p.presence_penalty != 0) {
        row.scratch_row = i;
        row.first_change = static_cast<int32_t>(changes.size());
        row.changes = is_changed;
        if (is_changed) changes.push_back({likely, 0, 100.0f, 0, 0});
      }
      row.mask_row = i % 5 ? static_cast<int32_t>(masks.size()) : -1;
      expected.push_back(OnHost(logits_row, p, {}, 0, nullptr, i % 5 ? &mask : nullptr));
      if (i % 5) {
        EXPECT_TRUE(expected[i] < 640 && (mask[expected[i] / 32] >> (expected[i] % 32) & 1));
        masks.push_back(mask);
      }
      rows.push_back(row);
    }
    const Outcome outcome = Choose(logits, rows, changes, {0}, masks);
    int different = 0;
    for (int i = 0; i < count; ++i) different += outcome.tokens[i] != expected[i];
    EXPECT_LE(different, 1);
  }
}

TEST_F(TokenChoiceTest, GpuTellsLogProbabilities) {
  const Tensor logits = Logits(3, 4999, 2.0), host = logits.to(at::kCPU, at::kFloat);
  SamplingParams p;
  p.temperature = 1;
  std::vector<cuda::ChosenRow> rows;
  for (int i : {2, 0}) {
    rows.push_back(RowOf(p, i, 0));
    rows.back().alternatives = i == 2 ? 20 : 0;
    rows.back().logprobs_row = i;
  }
  const Outcome outcome = Choose(logits, rows);
  EXPECT_EQ(outcome.tokens[1], -5);  // not asked for
  for (int i : {2, 0}) {
    EXPECT_NEAR(outcome.logprobs[i][0].item<float>(),
                LogProbability(host[i].const_data_ptr<float>(), 4999, outcome.tokens[i]), 2e-3);
  }
  const auto expected = TopLogprobs(host[2].const_data_ptr<float>(), 4999, 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(std::bit_cast<int32_t>(outcome.logprobs[2][1 + 2 * i].item<float>()), expected[i].first) << i;
    EXPECT_NEAR(outcome.logprobs[2][2 + 2 * i].item<float>(), expected[i].second, 2e-3) << i;
  }
}

TEST_F(TokenChoiceTest, GpuChoosesAmongEqualsAndNeverWhatIsMinusInfinity) {
  const Tensor logits = at::full({64, 1000}, -std::numeric_limits<float>::infinity(), at::TensorOptions(at::kBFloat16));
  logits.narrow(1, 300, 4).fill_(2.5);
  const Tensor there = logits.to(at::kCUDA);
  std::vector<cuda::ChosenRow> rows;
  for (int i = 0; i < 64; ++i) {
    SamplingParams p;
    p.temperature = 1;
    p.seed = i;
    if (i % 2) p.top_k = 2;
    rows.push_back(RowOf(p, i, 0));
  }
  std::vector<int> found(1000);
  const Outcome outcome = Choose(there, rows);
  for (int i = 0; i < 64; ++i) {
    EXPECT_GE(outcome.tokens[i], 300);
    EXPECT_LT(outcome.tokens[i], i % 2 ? 302 : 304);
    ++found[outcome.tokens[i]];
  }
  for (int token = 300; token < 304; ++token) EXPECT_GT(found[token], 0) << token;
}

// What goes to the device, of a request whose last token is still there.
class MakeTokenChoiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto base = std::make_shared<BaseModel>();
    base->config.vocab = 100;
    auto model = std::make_shared<ServedModel>();
    model->base = std::move(base);
    GenerateParams params;
    params.model = model;
    params.min_tokens = 3;
    task_.generation = std::make_shared<GenerationState>(params, absl::UnixEpoch());
    task_.model = std::move(model);
    task_.sequence.tokens = {-1, -2, 7, 8, 7, 9};  // two virtual tokens; 9 is the answer's first
    task_.prompt_tokens = 5;
    task_.ends = {2};
  }
  const cuda::LogitChange* Find(const TokenChoice& choice, int32_t token) {
    for (const cuda::LogitChange& change : choice.changes) {
      if (change.token == token) return &change;
    }
    return nullptr;
  }
  Task task_;
};

TEST_F(MakeTokenChoiceTest, TheDrawIsThePlacesAlsoAhead) {
  task_.sampling.temperature = 0.5;
  task_.sampling.seed = 11;
  for (int64_t in_flight : {0, 1}) {
    task_.sequence.in_flight = in_flight;
    const auto choice = MakeTokenChoice(task_);
    const uint64_t expected = std::bit_cast<uint64_t>(UniformDraw(11, 1 + in_flight));
    EXPECT_EQ(choice->row.uniform_low, static_cast<int32_t>(expected));
    EXPECT_EQ(choice->row.uniform_high, static_cast<int32_t>(expected >> 32));
  }
}

TEST_F(MakeTokenChoiceTest, EndsAreBannedUntilThereAreEnoughTokens) {
  task_.sequence.in_flight = 1;  // the second token is on its way: this is the third
  ASSERT_NE(MakeTokenChoice(task_), nullptr);
  EXPECT_TRUE(Find(*MakeTokenChoice(task_), 2)->is_banned);
  task_.sequence.in_flight = 2;
  EXPECT_EQ(MakeTokenChoice(task_), nullptr) << "the likeliest token is all there is to choose";
}

TEST_F(MakeTokenChoiceTest, PenaltiesAndBiasesOfATokenComeTogether) {
  task_.sampling.presence_penalty = 1;
  task_.sampling.logit_bias = {{9, 1.5f}, {7, -2.0f}, {7, 0.5f}, {500, 1.0f}};
  const auto choice = MakeTokenChoice(task_);
  EXPECT_EQ(choice->changes.size(), 4u);  // 7, 8, 9 and the banned end
  EXPECT_EQ(Find(*choice, 7)->count, 0);
  EXPECT_TRUE(Find(*choice, 7)->is_seen);
  EXPECT_FLOAT_EQ(Find(*choice, 7)->bias, -1.5f);
  EXPECT_EQ(Find(*choice, 9)->count, 1);
  EXPECT_FLOAT_EQ(Find(*choice, 9)->bias, 1.5f);
  EXPECT_FALSE(Find(*choice, 8)->is_banned);
}

TEST_F(MakeTokenChoiceTest, LogprobsAreAskedForAsFarAsTheDeviceTellsThem) {
  EXPECT_EQ(MakeTokenChoice(task_)->row.alternatives, -1);
  GenerateParams params = task_.generation->params;
  params.top_logprobs = 50;
  task_.generation = std::make_shared<GenerationState>(params, absl::UnixEpoch());
  EXPECT_EQ(MakeTokenChoice(task_)->row.alternatives, cuda::kMostAlternatives);
}

}  // namespace
}  // namespace attune
