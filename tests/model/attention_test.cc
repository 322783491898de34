#include "server/model/kernels/attention.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <cmath>

#include "server/model/kernels/cudnn_attention.h"
#include "server/model/kernels/paged_attention.h"
#include "tests/testing/gpu.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

constexpr double kTolerance = 2e-5;

RopeTable MakeRope(int64_t positions, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  const Tensor rates = at::pow(10000.0, -at::arange(half, at::kFloat) / half);
  const Tensor angles = at::outer(at::arange(positions, at::kFloat), rates);
  return {angles.cos(), angles.sin()};
}

Tensor RotateHalf(const Tensor& x_LHD, const RopeTable& rope) {
  const int64_t length = x_LHD.size(0), half = x_LHD.size(2) / 2;
  const Tensor cos = rope.cos_PH.narrow(0, 0, length).unsqueeze(1), sin = rope.sin_PH.narrow(0, 0, length).unsqueeze(1);
  const Tensor a = x_LHD.narrow(2, 0, half), b = x_LHD.narrow(2, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
}

// The textbook's attention: every score, then a mask.
Tensor Reference(const Tensor& qkv, const AttentionShape& shape, const RopeTable& rope,
                 const std::vector<int64_t>& starts) {
  std::vector<Tensor> outputs;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t length = starts[i + 1] - starts[i], d = shape.head_dim;
    const Tensor part = qkv.narrow(0, starts[i], length);
    Tensor q = RotateHalf(part.narrow(1, 0, shape.q_size()).reshape({length, shape.heads, d}), rope);
    Tensor k = RotateHalf(part.narrow(1, shape.q_size(), shape.kv_size()).reshape({length, shape.kv_heads, d}), rope);
    Tensor v = part.narrow(1, shape.q_size() + shape.kv_size(), shape.kv_size()).reshape({length, shape.kv_heads, d});
    const int64_t group = shape.heads / shape.kv_heads;
    k = k.repeat_interleave(group, 1);
    v = v.repeat_interleave(group, 1);
    Tensor scores = at::einsum("qhd,khd->hqk", {q, k});
    scores = shape.scale > 0 ? scores * shape.scale : scores / std::sqrt(static_cast<double>(d));
    if (shape.softcap > 0) scores = at::tanh(scores / shape.softcap) * shape.softcap;
    Tensor unseen = at::ones({length, length}, at::kBool).triu(1);
    if (shape.window > 0) unseen = unseen.logical_or(at::ones({length, length}, at::kBool).tril(-shape.window));
    scores = scores.masked_fill(unseen, -INFINITY).softmax(-1);
    outputs.push_back(at::einsum("hqk,khd->qhd", {scores, v}).reshape({length, shape.q_size()}));
  }
  return at::cat(outputs, 0);
}

struct Case {
  AttentionShape shape;
  std::vector<int64_t> starts;
};

class PackedAttentionTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override { at::manual_seed(5); }
};

TEST_P(PackedAttentionTest, AgreesWithTheTextbookAndItsGradient) {
  const auto& [shape, starts] = GetParam();
  const RopeTable rope = MakeRope(256, shape.head_dim);
  const PackedSequences sequences = PackSequences(starts, at::kCPU);
  const Tensor qkv = at::randn({starts.back(), shape.q_size() + 2 * shape.kv_size()});
  ExpectSameWithGradients([&](const Tensors& in) { return PackedAttention(in[0], shape, rope, sequences); },
                          [&](const Tensors& in) { return Reference(in[0], shape, rope, starts); }, {qkv}, kTolerance);
}

// Through ATen, as on devices without kernels for it.
TEST_P(PackedAttentionTest, InFloat64AgreesWithTheTextbookAndItsGradient) {
  const auto& [shape, starts] = GetParam();
  const RopeTable rope = MakeRope(256, shape.head_dim);
  const PackedSequences sequences = PackSequences(starts, at::kCPU);
  const Tensor qkv = at::randn({starts.back(), shape.q_size() + 2 * shape.kv_size()}, at::kDouble);
  ExpectSameWithGradients([&](const Tensors& in) { return PackedAttention(in[0], shape, rope, sequences); },
                          [&](const Tensors& in) { return Reference(in[0], shape, rope, starts); }, {qkv}, kTolerance);
}

TEST_P(PackedAttentionTest, InBfloat16AgreesRoughly) {
  const auto& [shape, starts] = GetParam();
  const RopeTable rope = MakeRope(256, shape.head_dim);
  const Tensor qkv = at::randn({starts.back(), shape.q_size() + 2 * shape.kv_size()});
  const Tensor y = PackedAttention(qkv.to(at::kBFloat16), shape, rope, PackSequences(starts, at::kCPU));
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(Near(y, Reference(qkv, shape, rope, starts), 0.05));
}

// Sequences read in pieces through a cache give what they give whole.
void ExpectPagedPiecesGiveTheSame(const Case& given, const at::TensorOptions& options, double tolerance) {
  const auto& [shape, starts] = given;
  const RopeTable rope = MakeRope(256, shape.head_dim);
  const RopeTable moved = {rope.cos_PH.to(options.device()), rope.sin_PH.to(options.device())};
  const int64_t count = static_cast<int64_t>(starts.size()) - 1, pages_each = 32, page_tokens = 8;
  const Tensor qkv = at::randn({starts.back(), shape.q_size() + 2 * shape.kv_size()});
  const Tensor expected = Reference(qkv, shape, rope, starts);
  KvCache cache = MakeKvCache(1, count * pages_each, page_tokens, shape, options);
  std::vector<int64_t> done(count, 0);
  for (int64_t piece : {1, 3, 300}) {  // of every sequence, until it ends
    std::vector<PagedSegment> segments;
    std::vector<Tensor> rows, wanted;
    int64_t first = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t tokens = std::min(piece, starts[i + 1] - starts[i] - done[i]);
      if (tokens == 0) continue;
      PagedSegment segment{first, tokens, done[i], {}};
      for (int64_t p = 0; p < pages_each; ++p) segment.pages.push_back((p * count + i));  // scattered
      segments.push_back(segment);
      rows.push_back(qkv.narrow(0, starts[i] + done[i], tokens));
      wanted.push_back(expected.narrow(0, starts[i] + done[i], tokens));
      first += tokens;
      done[i] += tokens;
    }
    if (segments.empty()) continue;
    const PagedBatch batch = MakePagedBatch(segments, page_tokens, options.device());
    const Tensor y = PagedAttention(at::cat(rows, 0).to(options), shape, moved, batch, &cache, 0);
    EXPECT_TRUE(Near(y, at::cat(wanted, 0), tolerance)) << "pieces of " << piece;
  }
}

TEST_P(PackedAttentionTest, PagedPiecesGiveTheSame) {
  ExpectPagedPiecesGiveTheSame(GetParam(), at::TensorOptions(at::kFloat), kTolerance);
}

TEST_P(PackedAttentionTest, AlikePiecesGiveTheSameBits) {
  const auto& [shape, starts] = GetParam();
  const RopeTable rope = MakeRope(256, shape.head_dim);
  const int64_t tokens = starts.back(), page_tokens = 8;
  const Tensor qkv = at::randn({tokens, shape.q_size() + 2 * shape.kv_size()});
  auto read_in_pieces = [&, &shape = shape](int64_t piece) {
    KvCache cache = MakeKvCache(1, tokens / page_tokens + 1, page_tokens, shape, at::TensorOptions(at::kFloat));
    std::vector<Tensor> outputs;
    for (int64_t first = 0; first < tokens; first += piece) {
      PagedSegment segment{0, std::min(piece, tokens - first), first, {}};
      for (int64_t page = 0; page <= tokens / page_tokens; ++page) segment.pages.push_back(static_cast<int32_t>(page));
      PagedBatch batch = MakePagedBatch({segment}, page_tokens, at::kCPU);
      batch.is_alike = true;
      outputs.push_back(PagedAttention(qkv.narrow(0, first, segment.tokens).clone(), shape, rope, batch, &cache, 0));
    }
    return at::cat(outputs, 0);
  };
  const Tensor whole = read_in_pieces(tokens);
  EXPECT_TRUE(Near(whole, Reference(qkv, shape, rope, {0, tokens}), kTolerance));
  for (const int64_t piece : {1, 3, 7, 64}) EXPECT_TRUE(at::equal(read_in_pieces(piece), whole)) << "pieces of " << piece;
}

TEST_P(PackedAttentionTest, PagedPiecesInBfloat16GiveRoughlyTheSame) {
  ExpectPagedPiecesGiveTheSame(GetParam(), at::TensorOptions(at::kBFloat16), 0.05);
}

// Windows that end inside blocks, on their edges and behind everything; soft caps that scores reach.
const auto kCases = ::testing::Values(
    Case{{1, 1, 2}, {0, 1}}, Case{{4, 2, 8}, {0, 5, 6, 20}}, Case{{9, 3, 64}, {0, 70, 200}},
    Case{{4, 4, 16}, {0, 64, 65, 129}}, Case{{8, 1, 32}, {0, 3, 131}}, Case{{4, 2, 8, 1}, {0, 5, 6, 20}},
    Case{{4, 2, 8, 7}, {0, 5, 6, 20}}, Case{{9, 3, 64, 64}, {0, 70, 200}}, Case{{4, 1, 256, 100, 0.05}, {0, 70, 240}},
    Case{{4, 2, 16, 17, 0, 1.5}, {0, 64, 65, 129}}, Case{{4, 2, 16, 0, 0.3, 2}, {0, 64, 65, 129}},
    Case{{8, 1, 32, 500}, {0, 3, 131}}, Case{{4, 2, 8, 3}, {0, 1}}, Case{{4, 1, 8, 3}, {0, 1}}, Case{{1, 1, 8, 3}, {0, 9}},
    Case{{4, 2, 8, 0, 0, 1.5}, {0, 1}});
INSTANTIATE_TEST_SUITE_P(Shapes, PackedAttentionTest, kCases);

class GpuAttentionTest : public PackedAttentionTest {
 protected:
  void SetUp() override {
    if (!FindGpu()) GTEST_SKIP() << "no GPU";
    PackedAttentionTest::SetUp();
  }
};

TEST_P(GpuAttentionTest, PackedAgreesWithTheTextbook) {
  const auto& [shape, starts] = GetParam();
  const RopeTable rope = MakeRope(256, shape.head_dim);
  const RopeTable moved = {rope.cos_PH.to(at::kCUDA), rope.sin_PH.to(at::kCUDA)};
  const Tensor qkv = at::randn({starts.back(), shape.q_size() + 2 * shape.kv_size()});
  const PackedSequences sequences = PackSequences(starts, at::kCUDA);
  const Tensor gradient = at::randn({starts.back(), shape.q_size()});
  const auto expected =
      RunWithGradients([&](const Tensors& in) { return Reference(in[0], shape, rope, starts); }, {qkv}, gradient);
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, kTolerance}, std::pair{at::kBFloat16, 0.05}}) {
    const auto actual =
        RunWithGradients([&](const Tensors& in) { return PackedAttention(in[0], shape, moved, sequences); },
                         {qkv.to(at::kCUDA, type)}, gradient.to(at::kCUDA, type));
    EXPECT_TRUE(Near(actual.output, expected.output, tolerance)) << type;
    EXPECT_TRUE(Near(actual.gradients[0], expected.gradients[0], tolerance)) << type;
  }
}

TEST_P(GpuAttentionTest, PagedPiecesGiveTheSame) {
  const at::TensorOptions gpu(at::kCUDA);
  ExpectPagedPiecesGiveTheSame(GetParam(), gpu.dtype(at::kFloat), kTolerance);
  ExpectPagedPiecesGiveTheSame(GetParam(), gpu.dtype(at::kBFloat16), 0.05);
}

// FlashAttention takes head sizes that are multiples of 8.
INSTANTIATE_TEST_SUITE_P(
    Shapes, GpuAttentionTest,
    ::testing::Values(Case{{4, 2, 8}, {0, 5, 6, 20}}, Case{{9, 3, 64}, {0, 70, 200}}, Case{{4, 4, 16}, {0, 64, 65, 129}},
                      Case{{8, 1, 32}, {0, 3, 131}}, Case{{4, 2, 8, 7}, {0, 5, 6, 20}}, Case{{9, 3, 64, 64}, {0, 70, 200}},
                      Case{{4, 1, 256, 100, 0.05}, {0, 70, 240}}, Case{{4, 2, 16, 17, 0, 1.5}, {0, 64, 65, 129}},
                      Case{{4, 2, 16, 0, 0.3, 2}, {0, 64, 65, 129}}));

// Whether cuDNN's kernels are what runs, where they can.
void ExpectCudnn(const Tensor& like, const AttentionShape& shape, PackedSequences sequences, bool expected) {
  if (!cudnn::Available() || at::cuda::getCurrentDeviceProperties()->major != 9) return;
  PrepareAttention(like, shape, &sequences);
  EXPECT_EQ(sequences.ragged != nullptr, expected);
}

// With empty sequences at the end, as padding leaves them.
TEST(GpuLongAttentionTest, AgreesWithTheTextbook) {
  if (!FindGpu()) GTEST_SKIP() << "no GPU";
  at::manual_seed(5);
  for (const AttentionShape& shape : {AttentionShape{9, 3, 64}, AttentionShape{4, 4, 128}}) {
    const std::vector<int64_t> starts = {0, 700, 701, 1300, 2050, 2800};
    const RopeTable rope = MakeRope(1024, shape.head_dim);
    const RopeTable moved = {rope.cos_PH.to(at::kCUDA), rope.sin_PH.to(at::kCUDA)};
    PackedSequences sequences = PackSequences(starts, at::kCUDA);
    sequences.starts_int32 = at::constant_pad_nd(sequences.starts_int32, {0, 2}, starts.back());
    const Tensor qkv = at::randn({starts.back(), shape.q_size() + 2 * shape.kv_size()});
    const Tensor gradient = at::randn({starts.back(), shape.q_size()});
    ExpectCudnn(qkv.to(at::kCUDA, at::kBFloat16), shape, sequences, true);
    const auto expected =
        RunWithGradients([&](const Tensors& in) { return Reference(in[0], shape, rope, starts); }, {qkv}, gradient);
    const auto actual =
        RunWithGradients([&](const Tensors& in) { return PackedAttention(in[0], shape, moved, sequences); },
                         {qkv.to(at::kCUDA, at::kBFloat16)}, gradient.to(at::kCUDA, at::kBFloat16));
    EXPECT_TRUE(Near(actual.output, expected.output, 0.05));
    EXPECT_TRUE(Near(actual.gradients[0], expected.gradients[0], 0.05));
  }
}

// A window in some of a pass's layers: cuDNN serves the others.
TEST(GpuLongAttentionTest, LayersWithAWindowAgreeBesideThoseWithout) {
  if (!FindGpu()) GTEST_SKIP() << "no GPU";
  at::manual_seed(7);
  const std::vector<int64_t> starts = {0, 700, 701, 1300, 2050};
  const RopeTable rope = MakeRope(1024, 64);
  const RopeTable moved = {rope.cos_PH.to(at::kCUDA), rope.sin_PH.to(at::kCUDA)};
  PackedSequences sequences = PackSequences(starts, at::kCUDA);
  const AttentionShape all{9, 3, 64};
  const Tensor qkv = at::randn({starts.back(), 15 * 64}), gradient = at::randn({starts.back(), 9 * 64});
  PrepareAttention(qkv.to(at::kCUDA, at::kBFloat16), all, &sequences);
  for (const AttentionShape& shape : {all, AttentionShape{9, 3, 64, 256}}) {
    const auto expected =
        RunWithGradients([&](const Tensors& in) { return Reference(in[0], shape, rope, starts); }, {qkv}, gradient);
    AttentionState state;
    const Tensor out = PackedAttentionForward(qkv.to(at::kCUDA, at::kBFloat16), shape, moved, sequences, &state);
    const Tensor dqkv = PackedAttentionBackward(gradient.to(at::kCUDA, at::kBFloat16), state, shape, moved, sequences);
    EXPECT_TRUE(Near(out, expected.output, 0.05)) << shape.window;
    EXPECT_TRUE(Near(dqkv, expected.gradients[0], 0.05)) << shape.window;
  }
}

// What attuned --deterministic asks for.
TEST(GpuLongAttentionTest, GivesTheSameBitsIfAsked) {
  const std::optional<ComputeTarget> target = FindGpu();
  if (!target) GTEST_SKIP() << "no GPU";
  at::manual_seed(6);
  const AttentionShape shape{9, 3, 64};
  const RopeTable rope = MakeRope(1024, 64);
  const RopeTable moved = {rope.cos_PH.to(at::kCUDA), rope.sin_PH.to(at::kCUDA)};
  const PackedSequences sequences = PackSequences({0, 600, 1200, 1800, 2400, 3000, 3600}, at::kCUDA);
  const at::TensorOptions options = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
  const Tensor qkv = at::randn({3600, 15 * 64}, options), gradient = at::randn({3600, 9 * 64}, options);
  ExpectCudnn(qkv, shape, sequences, true);
  PrepareDevice(*target, /*deterministic=*/true);
  ExpectCudnn(qkv, shape, sequences, false);
  auto run = [&] {
    return RunWithGradients([&](const Tensors& in) { return PackedAttention(in[0], shape, moved, sequences); }, {qkv},
                            gradient)
        .gradients[0];
  };
  const Tensor first = run();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(at::equal(run(), first));
  PrepareDevice(*target, /*deterministic=*/false);
}

TEST(RopeTest, InverseTakesTheRotationBack) {
  at::manual_seed(7);
  const AttentionShape shape{4, 2, 8};
  const RopeTable rope = MakeRope(64, 8);
  const Tensor qkv = at::randn({10, shape.q_size() + 2 * shape.kv_size()}), positions = at::arange(10) * 5;
  Tensor turned = qkv.clone();
  RopeInPlace(turned, shape, rope, positions, false);
  EXPECT_FALSE(at::allclose(turned.narrow(1, 0, 48), qkv.narrow(1, 0, 48)));
  EXPECT_TRUE(at::equal(turned.narrow(1, 48, 16), qkv.narrow(1, 48, 16))) << "values do not turn";
  RopeInPlace(turned, shape, rope, positions, true);
  EXPECT_TRUE(Near(turned, qkv, 1e-6));
}

TEST(KvCacheTest, CopiesWholePagesInEveryLayer) {
  KvCache cache = MakeKvCache(2, 4, 2, {2, 1, 3}, at::TensorOptions(at::kFloat));
  for (int layer = 0; layer < 2; ++layer) {
    cache.keys[layer].narrow(0, 2, 2).fill_(layer + 1);
    cache.values[layer].narrow(0, 2, 2).fill_(-layer - 1);
  }
  CopyPages(&cache, {{1, 3}});
  for (int layer = 0; layer < 2; ++layer) {
    EXPECT_TRUE(cache.keys[layer].narrow(0, 6, 2).eq(layer + 1).all().item<bool>());
    EXPECT_TRUE(cache.values[layer].narrow(0, 6, 2).eq(-layer - 1).all().item<bool>());
  }
}

}  // namespace
}  // namespace attune
