// The kernels that generation on a GPU runs, against their formulas in fp64.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "server/engine/step_inputs.h"
#include "server/model/kernels/cuda/launch.h"
#include "server/model/kernels/cuda_dispatch.h"
#include "tests/testing/gpu.h"
#include "tests/testing/tensor_matchers.h"

namespace attune {
namespace {

using at::Tensor;

constexpr double kBf16 = 0.02;

class ServingKernelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!FindGpu(ComputeTarget::Type::kBfloat16) || !cuda::Available()) GTEST_SKIP() << "no GPU";
    at::manual_seed(11);
  }
  static Tensor Random(at::IntArrayRef sizes) { return at::randn(sizes, at::TensorOptions(at::kBFloat16).device(at::kCUDA)); }
  static Tensor Ints(const std::vector<int32_t>& values) {
    return at::tensor(values, at::kInt).to(at::kCUDA);
  }
  static Tensor Exact(const Tensor& x) { return x.to(at::kCPU, at::kDouble); }
  static const int32_t* Data(const Tensor& x) { return x.const_data_ptr<int32_t>(); }
};

TEST_F(ServingKernelsTest, GpuEmbedsKnownAndSampledTokens) {
  const Tensor table = Random({50, 40}), x = at::zeros_like(Random({4, 40}));
  const Tensor tokens = Ints({7, -1, 0, -3}), sampled = Ints({11, 12, 49});
  cuda::EmbedTokens(table.const_data_ptr(), Data(tokens), Data(sampled), x.mutable_data_ptr(), 4, 40, CurrentCudaStream());
  const Tensor expected = table.index_select(0, at::tensor({7, 11, 0, 49}, at::kLong).to(at::kCUDA));
  EXPECT_TRUE(at::equal(x, expected));
}

TEST_F(ServingKernelsTest, GpuAddsAndNorms) {
  for (int64_t width : {64, 448, 2048, 8192}) {
    const int64_t rows = 5, added = 3;
    const Tensor x = Random({rows, width}), delta = Random({rows, width}), addend = Random({added, width});
    const Tensor w = Random({width}), y = at::empty_like(x), before = x.clone();
    cuda::AddAndNorm(x.mutable_data_ptr(), delta.const_data_ptr(), {addend.const_data_ptr(), added}, {}, 0, w.const_data_ptr(),
                     1e-5, y.mutable_data_ptr(), rows, width, CurrentCudaStream());
    Tensor sum = Exact(before) + Exact(delta);
    sum.narrow(0, 0, added) += Exact(addend);
    EXPECT_TRUE(Near(x, sum, kBf16)) << width;
    EXPECT_TRUE(Near(y, sum * (sum.square().mean(-1, true) + 1e-5).rsqrt() * Exact(w), kBf16)) << width;
    const Tensor bias = Random({width}), biased = before.clone();
    cuda::AddAndNorm(biased.mutable_data_ptr(), delta.const_data_ptr(), {addend.const_data_ptr(), added, bias.const_data_ptr()}, {}, 0,
                     w.const_data_ptr(), 1e-5, y.mutable_data_ptr(), rows, width, CurrentCudaStream());
    EXPECT_TRUE(Near(biased, sum + Exact(bias), kBf16)) << width << ", biased";
    cuda::AddAndNorm(x.mutable_data_ptr(), nullptr, {}, {}, 0, w.const_data_ptr(), 1e-5, y.mutable_data_ptr(), rows, width,
                     CurrentCudaStream());
    sum = Exact(x);
    EXPECT_TRUE(Near(y, sum * (sum.square().mean(-1, true) + 1e-5).rsqrt() * Exact(w), kBf16)) << width;
  }
}

TEST_F(ServingKernelsTest, GpuAddsBiasesAndNormsHeads) {
  for (int64_t dimensions : {64, 80, 128, 256}) {
    for (const bool has_norms : {true, false}) {
      const int64_t rows = 5, added = 2, heads = 6, kv_heads = 2, width = (heads + 2 * kv_heads) * dimensions;
      const Tensor qkv = Random({rows, width}), before = qkv.clone(), addend = Random({added, width}), bias = Random({width});
      const Tensor q_norm = Random({dimensions}), k_norm = Random({dimensions});
      cuda::PrepareHeads(qkv.mutable_data_ptr(), {addend.const_data_ptr(), added, bias.const_data_ptr()}, {},
                         has_norms ? q_norm.const_data_ptr() : nullptr, has_norms ? k_norm.const_data_ptr() : nullptr, 1e-6,
                         rows, {heads, kv_heads, dimensions}, CurrentCudaStream());
      Tensor expected = Exact(before) + Exact(bias);
      expected.narrow(0, 0, added) += Exact(addend);
      expected = expected.view({rows, heads + 2 * kv_heads, dimensions});
      for (int64_t head = 0; has_norms && head < heads + kv_heads; ++head) {
        const Tensor one = expected.select(1, head);
        one.mul_((one.square().mean(-1, true) + 1e-6).rsqrt() * Exact(head < heads ? q_norm : k_norm));
      }
      EXPECT_TRUE(Near(qkv, expected.view({rows, width}), kBf16)) << dimensions;
    }
  }
}

TEST_F(ServingKernelsTest, GpuGates) {
  for (int64_t inner : {48, 1032, 5632}) {
    const Tensor gate_up = Random({4, 2 * inner}), addend = Random({2, 2 * inner}), out = Random({4, inner});
    cuda::SwiGluAdded(gate_up.const_data_ptr(), {addend.const_data_ptr(), 2}, {}, out.mutable_data_ptr(), 4, inner,
                      CurrentCudaStream());
    Tensor in = Exact(gate_up);
    in.narrow(0, 0, 2) += Exact(addend);
    EXPECT_TRUE(Near(out, at::silu(in.narrow(1, 0, inner)) * in.narrow(1, inner, inner), kBf16)) << inner;
    const Tensor bias = Random({2 * inner});
    cuda::SwiGluAdded(gate_up.const_data_ptr(), {addend.const_data_ptr(), 2, bias.const_data_ptr()}, {}, out.mutable_data_ptr(), 4,
                      inner, CurrentCudaStream());
    in += Exact(bias);
    EXPECT_TRUE(Near(out, at::silu(in.narrow(1, 0, inner)) * in.narrow(1, inner, inner), kBf16)) << inner << ", biased";
  }
}

TEST_F(ServingKernelsTest, GpuChoosesTheLowestOfTheLikeliest) {
  const int64_t rows = 6, vocabulary = 1003;
  Tensor logits = Random({rows, vocabulary}) - 20;
  logits[0][1002] = 3;
  logits[1][17] = logits[1][900] = 5;  // the lower one
  logits[2].fill_(-7);                 // all alike
  logits[3][0] = 0.5;
  const Tensor chosen = at::zeros({rows}, at::TensorOptions(at::kInt).device(at::kCUDA));
  cuda::Argmax(logits.const_data_ptr(), chosen.mutable_data_ptr<int32_t>(), rows, vocabulary, CurrentCudaStream());
  const Tensor found = chosen.cpu();
  EXPECT_EQ(found[0].item<int>(), 1002);
  EXPECT_EQ(found[1].item<int>(), 17);
  EXPECT_EQ(found[2].item<int>(), 0);
  EXPECT_EQ(found[3].item<int>(), 0);
  for (int64_t row = 4; row < rows; ++row) {
    EXPECT_EQ(logits[row][found[row].item<int64_t>()].item<float>(), logits[row].max().item<float>());
  }
}

TEST_F(ServingKernelsTest, GpuScoresRows) {
  for (int64_t vocabulary : {1003, 4096}) {
    Tensor logits = Random({5, vocabulary}) * 3;
    logits[4][7] = 80;  // one that takes all
    // Wanted rows 10 to 14, of which some are scored, one twice.
    const Tensor asked = Ints({10, 3, 11, 0, 11, static_cast<int32_t>(vocabulary - 1), 14, 7});
    const Tensor scores = at::zeros({4}).to(at::kCUDA);
    cuda::ScoreRows(reinterpret_cast<const cuda::ScoredRow*>(Data(asked)), 4, logits.const_data_ptr(), 10, vocabulary,
                    scores.mutable_data_ptr<float>(), CurrentCudaStream());
    const Tensor expected = Exact(logits).log_softmax(1), found = Exact(scores);
    EXPECT_NEAR(found[0].item<double>(), expected[0][3].item<double>(), 1e-3);
    EXPECT_NEAR(found[1].item<double>(), expected[1][0].item<double>(), 1e-3);
    EXPECT_NEAR(found[2].item<double>(), expected[1][vocabulary - 1].item<double>(), 1e-3);
    EXPECT_NEAR(found[3].item<double>(), 0, 1e-4);
  }
}

TEST_F(ServingKernelsTest, GpuRotatesAndCaches) {
  const cuda::RopeShape shape{6, 2, 64};
  const int64_t rows = 5, width = (6 + 4) * 64, half = 32;
  const Tensor qkv = Random({rows, width}), addend = Random({2, width}), before = qkv.clone();
  const Tensor keys = at::zeros_like(Random({40, 2, 64})), values = at::zeros_like(keys);
  const Tensor angles = at::rand({100, half}) * 6, cos = angles.cos().to(at::kCUDA), sin = angles.sin().to(at::kCUDA);
  const std::vector<int32_t> position = {3, 0, 99, 50, 7}, slot = {1, 39, -1, 20, 0};
  const Tensor positions = Ints(position), slots = Ints(slot);
  cuda::RopeAndCache(qkv.mutable_data_ptr(), {addend.const_data_ptr(), 2}, {}, cos.const_data_ptr<float>(),
                     sin.const_data_ptr<float>(), Data(positions), Data(slots), keys.mutable_data_ptr(),
                     values.mutable_data_ptr(), rows, shape, CurrentCudaStream());
  Tensor in = Exact(before);
  in.narrow(0, 0, 2) += Exact(addend);
  for (int64_t t = 0; t < rows; ++t) {
    if (slot[t] < 0) {
      EXPECT_TRUE(at::equal(qkv[t], before[t]));
      continue;
    }
    const Tensor heads = in[t].view({10, 64}), c = Exact(cos)[position[t]], s = Exact(sin)[position[t]];
    const Tensor a = heads.narrow(1, 0, half), b = heads.narrow(1, half, half);
    const Tensor turned = at::cat({a * c - b * s, b * c + a * s}, 1);
    EXPECT_TRUE(Near(qkv[t].view({10, 64}).narrow(0, 0, 6), turned.narrow(0, 0, 6), kBf16)) << t;
    EXPECT_TRUE(Near(keys[slot[t]], turned.narrow(0, 6, 2), kBf16)) << t;
    EXPECT_TRUE(Near(values[slot[t]], heads.narrow(0, 8, 2), kBf16)) << t;
  }
}

// As AdapterSlots has them; null where a tensor is not defined.
Tensor Pointers(const std::vector<Tensor>& tensors) {
  std::vector<const void*> pointers;
  for (const Tensor& tensor : tensors) pointers.push_back(tensor.defined() ? tensor.const_data_ptr() : nullptr);
  const int64_t bytes = static_cast<int64_t>(pointers.size() * sizeof(void*));
  return at::from_blob(pointers.data(), {bytes}, at::kByte).to(at::kCUDA);
}

// Rows of two slots and of none; entries that are not there scale nothing.
TEST_F(ServingKernelsTest, GpuScalesRows) {
  const int64_t rows = 4, inner = 96, hidden = 64;
  const std::vector<int32_t> slot_of_row = {1, -1, 0, 1};
  const Tensor slots = Ints(slot_of_row);
  // Slot 0 scales all, slot 1 the feed-forward's inner values alone.
  std::vector<Tensor> scales(2 * cuda::kScaleEntries);
  for (int entry = 0; entry < cuda::kInnerScale; ++entry) scales[entry] = Random({2 * inner});
  for (int slot : {0, 1}) scales[slot * cuda::kScaleEntries + cuda::kInnerScale] = Random({inner});
  const Tensor table = Pointers(scales);
  const cuda::RowScales row_scales{static_cast<const void* const*>(table.const_data_ptr()), cuda::kScaleEntries,
                                   Data(slots)};
  auto by = [&](int64_t row, int entry, int64_t columns) {
    const int32_t slot = slot_of_row[row];
    const Tensor scale = slot < 0 ? Tensor() : scales[slot * cuda::kScaleEntries + entry];
    return scale.defined() ? Exact(scale).narrow(0, 0, columns) : Exact(at::ones({columns}));
  };

  const Tensor gate_up = Random({rows, 2 * inner}), out = Random({rows, inner});
  cuda::SwiGluAdded(gate_up.const_data_ptr(), {}, row_scales, out.mutable_data_ptr(), rows, inner, CurrentCudaStream());
  const Tensor x = Random({rows, hidden}), delta = Random({rows, hidden}), before = x.clone(), y = at::empty_like(x);
  const Tensor weight = Random({hidden});
  cuda::AddAndNorm(x.mutable_data_ptr(), delta.const_data_ptr(), {}, row_scales, 3, weight.const_data_ptr(), 1e-5,
                   y.mutable_data_ptr(), rows, hidden, CurrentCudaStream());
  const cuda::RopeShape shape{2, 1, 16};
  const Tensor qkv = Random({rows, 64}), unscaled = qkv.clone(), keys = at::zeros_like(Random({rows, 1, 16}));
  const Tensor values = at::zeros_like(keys), positions = Ints({0, 0, 0, 0}), places = Ints({0, 1, 2, 3});
  const Tensor one = at::ones({1, 8}).to(at::kCUDA), zero = at::zeros({1, 8}).to(at::kCUDA);
  cuda::RopeAndCache(qkv.mutable_data_ptr(), {}, row_scales, one.const_data_ptr<float>(), zero.const_data_ptr<float>(),
                     Data(positions), Data(places), keys.mutable_data_ptr(), values.mutable_data_ptr(), rows, shape,
                     CurrentCudaStream());
  for (int64_t row = 0; row < rows; ++row) {
    const Tensor in = Exact(gate_up)[row];
    const Tensor gated = at::silu(in.narrow(0, 0, inner) * by(row, 4, inner)) * in.narrow(0, inner, inner) *
                         by(row, 5, inner) * by(row, 7, inner);
    EXPECT_TRUE(Near(out[row], gated, kBf16)) << row;
    EXPECT_TRUE(Near(x[row], Exact(before)[row] + Exact(delta)[row] * by(row, 3, hidden), kBf16)) << row;
    EXPECT_TRUE(Near(qkv[row].narrow(0, 0, 32), Exact(unscaled)[row].narrow(0, 0, 32) * by(row, 0, 32), kBf16)) << row;
    EXPECT_TRUE(Near(keys[row][0], Exact(unscaled)[row].narrow(0, 32, 16) * by(row, 1, 16), kBf16)) << row;
    EXPECT_TRUE(Near(values[row][0], Exact(unscaled)[row].narrow(0, 48, 16) * by(row, 2, 16), kBf16)) << row;
  }
}

// Of slot 0, as IA3's are, biases are scaled; of slot 1, as DoRA's are, they come behind. Some rows have an addend, too.
TEST_F(ServingKernelsTest, GpuAddsBiasesBeforeAndBehindScales) {
  const int64_t rows = 5, added = 3, inner = 96, width = 2 * inner;
  const std::vector<int32_t> slot_of_row = {1, -1, 0, 1, 0};
  const Tensor slots = Ints(slot_of_row);
  std::vector<Tensor> scales(2 * cuda::kScaleEntries);
  for (int slot : {0, 1}) {
    for (int entry = 0; entry < cuda::kInnerScale; ++entry) scales[slot * cuda::kScaleEntries + entry] = Random({width});
  }
  scales[cuda::kScaleEntries + cuda::kBiasComesLast] = slots;
  const Tensor table = Pointers(scales);
  const cuda::RowScales row_scales{static_cast<const void* const*>(table.const_data_ptr()), cuda::kScaleEntries, Data(slots)};
  const Tensor values = Random({added, width}), bias = Random({width}), input = Random({rows, width});
  const cuda::Addend addend{values.const_data_ptr(), added, bias.const_data_ptr()};
  // Columns [first, last) of the input's row, of projection `entry`, as they are used.
  auto used = [&](int64_t row, int entry, int64_t first, int64_t last) {
    auto part = [&](const Tensor& x) { return Exact(x).narrow(0, first, last - first); };
    Tensor y = part(input[row]);
    if (row < added) y = y + part(values[row]);
    const int32_t slot = slot_of_row[row];
    if (slot < 0) return y + part(bias);
    const Tensor scale = Exact(scales[slot * cuda::kScaleEntries + entry]).narrow(0, 0, last - first);
    return slot == 1 ? y * scale + part(bias) : (y + part(bias)) * scale;
  };

  const Tensor out = Random({rows, inner});
  cuda::SwiGluAdded(input.const_data_ptr(), addend, row_scales, out.mutable_data_ptr(), rows, inner, CurrentCudaStream());
  const Tensor x = Random({rows, width}), before = x.clone(), y = at::empty_like(x), weight = Random({width});
  cuda::AddAndNorm(x.mutable_data_ptr(), input.const_data_ptr(), addend, row_scales, 6, weight.const_data_ptr(), 1e-5,
                   y.mutable_data_ptr(), rows, width, CurrentCudaStream());
  const cuda::RopeShape shape{4, 1, 32};
  const Tensor prepared = input.clone();
  cuda::PrepareHeads(prepared.mutable_data_ptr(), addend, row_scales, nullptr, nullptr, 1e-6, rows, shape, CurrentCudaStream());
  const Tensor turned = input.clone(), keys = at::zeros_like(Random({rows, 1, 32})), cached = at::zeros_like(keys);
  const Tensor positions = Ints({0, 0, 0, 0, 0}), places = Ints({0, 1, 2, 3, 4});
  const Tensor one = at::ones({1, 16}).to(at::kCUDA), zero = at::zeros({1, 16}).to(at::kCUDA);
  cuda::RopeAndCache(turned.mutable_data_ptr(), addend, row_scales, one.const_data_ptr<float>(), zero.const_data_ptr<float>(),
                     Data(positions), Data(places), keys.mutable_data_ptr(), cached.mutable_data_ptr(), rows, shape,
                     CurrentCudaStream());
  for (int64_t row = 0; row < rows; ++row) {
    EXPECT_TRUE(Near(out[row], at::silu(used(row, 4, 0, inner)) * used(row, 5, inner, width), kBf16)) << row;
    EXPECT_TRUE(Near(x[row], Exact(before)[row] + used(row, 6, 0, width), kBf16)) << row;
    const Tensor q = used(row, 0, 0, 128), k = used(row, 1, 128, 160), v = used(row, 2, 160, 192);
    EXPECT_TRUE(Near(prepared[row], at::cat({q, k, v}), kBf16)) << row;
    EXPECT_TRUE(Near(turned[row].narrow(0, 0, 128), q, kBf16)) << row;
    EXPECT_TRUE(Near(keys[row][0], k, kBf16)) << row;
    EXPECT_TRUE(Near(cached[row][0], v, kBf16)) << row;
  }
}

// Rows of many ranks and of none, under projections of which some have no LoRA.
TEST_F(ServingKernelsTest, GpuGroupsLoras) {
  const std::vector<int64_t> ranks = {1, 3, 8, 16, 20, 32, 64, 100};
  for (int64_t inputs : {64, 1032, 2048, 77}) {
    const std::vector<int64_t> columns = {96, 40, 2000};
    const int64_t width = 96 + 40 + 2000, per_slot = 4;
    std::vector<std::vector<std::pair<Tensor, Tensor>>> adapters;
    std::vector<cuda::LoraEntry> entries(ranks.size() * per_slot);
    for (size_t i = 0; i < ranks.size(); ++i) {
      adapters.emplace_back();
      for (int p = 0; p < 3; ++p) {
        // A rank's B on an odd place, as one of several that were stored together may be.
        const int64_t odd = ranks[i] == 3 ? 1 : 0;
        const Tensor b = (Random({columns[p] * ranks[i] + odd}) * 0.1).narrow(0, odd, columns[p] * ranks[i]).view({columns[p], ranks[i]});
        adapters[i].emplace_back(Random({ranks[i], inputs}) * 0.1, b);
        if ((i + p) % 4 == 3) continue;
        entries[i * per_slot + 1 + p] = {adapters[i][p].first.const_data_ptr(), adapters[i][p].second.const_data_ptr(),
                                         static_cast<int32_t>(ranks[i]), 0.5f + p};
      }
    }
    Tensor host = at::empty({static_cast<int64_t>(entries.size() * sizeof(cuda::LoraEntry))}, at::kByte);
    std::memcpy(host.mutable_data_ptr(), entries.data(), host.numel());
    const Tensor table = host.to(at::kCUDA);
    using enum cuda::LoraSharing;
    using enum cuda::LoraStart;
    struct Case {
      cuda::LoraSharing sharing;
      cuda::LoraStart start;
      bool has_many = false;  // tiles, for which other kernels are
    };
    for (const auto& [sharing, start, has_many] :
         {Case{kMost, kAfter}, {kMost, kBesideStreamed}, {kSome, kAfter}, {kAlike, kAfter}, {kNone, kAfter}, {kNone, kBesideTiled},
          {kNone, kBesideStreamed}, {kNone, kAfter, true}, {kNone, kBesideStreamed, true}}) {
      const bool alone = sharing == kNone || sharing == kAlike;
      // Slot, first row, rows; one of no rows, which is not to be touched.
      std::vector<int32_t> tiles = {0, 0,  1, 1, 1,  2,  -1, 3,  2,  2, 5, 16, 3, 21, 9, 4,  30, 1,
                                    5, 31, 8, 6, 39, 13, 7,  52, 16, 0, 0, 0,  3, 68, 7, -1, 75, 1};
      if (alone) tiles = {0, 0, 1, -1, 1, 3, 1, 4, 1, 2, 5, 1, 3, 6, 1, 0, 0, 0, 4, 7, 1, 5, 8, 1, 6, 9, 1, 7, 10, 1, -1, 11, 1};
      for (int32_t row = 12; has_many && row < 50; ++row) tiles.insert(tiles.end(), {row * 3 % 8, row, 1});
      std::vector<int32_t> slot;
      for (size_t i = 0; i < tiles.size(); i += 3) slot.insert(slot.end(), tiles[i + 2], tiles[i]);
      const int64_t rows = static_cast<int64_t>(slot.size());
      const Tensor x = Random({rows, inputs}), delta = Random({rows, width}), tile_list = Ints(tiles);
      cuda::LoraTarget target{3, {1, 2, 3}, {0, 96, 136}, {96, 40, 2000}};
      const cuda::LoraBatch batch{static_cast<const cuda::LoraEntry*>(table.const_data_ptr()), per_slot,
                                  reinterpret_cast<const cuda::LoraTile*>(Data(tile_list)),
                                  static_cast<int64_t>(tiles.size() / 3), sharing};
      cuda::GroupedLora(x.const_data_ptr(), inputs, batch, target, delta.mutable_data_ptr(), width, inputs,
                        CurrentCudaStream(), start);
      Tensor expected = at::zeros({rows, width}, at::kDouble);
      for (int64_t t = 0; t < rows; ++t) {
        for (int p = 0; p < 3 && slot[t] >= 0; ++p) {
          if ((slot[t] + p) % 4 == 3) continue;
          const auto& [a, b] = adapters[slot[t]][p];
          expected[t].narrow(0, target.first_column[p], columns[p]) =
              at::matmul(Exact(b), at::matmul(Exact(a), Exact(x[t]))) * (0.5 + p);
        }
      }
      EXPECT_TRUE(Near(delta, expected, kBf16)) << inputs << " inputs, sharing " << static_cast<int>(sharing) << ", start "
                                                << static_cast<int>(start) << (has_many ? ", many" : "");
    }
  }
}

// A row of layers: norm, product, LoRA, and what adds them up, each reading what the ones before wrote. Beginning early and
// side by side they give what they give one after the other, bit for bit.
TEST_F(ServingKernelsTest, GpuRunsLorasBesideTheirProducts) {
  constexpr int64_t kWidth = 2048, kRank = 16, kLayers = 60;
  const Tensor w = Random({kWidth, kWidth}) * 0.02, norm = Random({kWidth});
  const Tensor a = Random({kRank, kWidth}) * 0.02, b = Random({kWidth, kRank});
  const at::TensorOptions codes_options = at::TensorOptions(at::kChar).device(at::kCUDA);
  const Tensor a_codes = at::randint(-127, 128, {kRank, kWidth}, codes_options), b_codes = at::randint(-127, 128, {kWidth, kRank}, codes_options);
  const Tensor scales = at::full({kRank}, 1e-6, codes_options.dtype(at::kFloat));
  const cuda::LoraEntry entry{a.const_data_ptr(), b.const_data_ptr(), kRank, 0.5f,
                              {a_codes.const_data_ptr<int8_t>(), b_codes.const_data_ptr<int8_t>(), scales.const_data_ptr<float>(), kRank}};
  Tensor table = at::empty({static_cast<int64_t>(sizeof(entry))}, at::kByte);
  std::memcpy(table.mutable_data_ptr(), &entry, sizeof(entry));
  table = table.to(at::kCUDA);
  const cuda::LoraTarget target{1, {0}, {0}, {kWidth}};
  // One row alone, several, a tile of none, and rows without an adapter.
  const Tensor tiles = Ints({0, 0, 1, 0, 1, 7, 0, 0, 0, -1, 8, 2});
  const cuda::LoraBatch loras{static_cast<const cuda::LoraEntry*>(table.const_data_ptr()), 1,
                              reinterpret_cast<const cuda::LoraTile*>(Data(tiles)), 4, cuda::LoraSharing::kMost};
  const Tensor single_tiles = Ints({0, 0, 1, 0, 1, 1, -1, 2, 8, 0, 0, 0});
  const cuda::LoraBatch singles{loras.entries, 1, reinterpret_cast<const cuda::LoraTile*>(Data(single_tiles)), 4, cuda::LoraSharing::kNone};
  std::vector<int32_t> one_each;
  for (int32_t row = 0; row < 32; ++row) one_each.insert(one_each.end(), {0, row, 1});
  const Tensor many_tiles = Ints(one_each);
  const cuda::LoraBatch many{loras.entries, 1, reinterpret_cast<const cuda::LoraTile*>(Data(many_tiles)), 32, cuda::LoraSharing::kNone};
  cuda::LoraBatch coded = singles, many_coded = many;
  coded.reads_codes = many_coded.reads_codes = true;
  for (const auto& [rows, batch] : std::vector<std::pair<int64_t, const cuda::LoraBatch*>>{
           {10, &loras}, {32, &loras}, {32, &singles}, {32, &many}, {32, &coded}, {32, &many_coded}}) {
    const Tensor start = Random({rows, kWidth});
    const int64_t added = batch->tile_count == 32 ? rows : 10;  // rows that have tiles
    auto run = [&, &rows = rows, &batch = batch](bool is_streamed, bool side_by_side) {
      const Tensor x = start.clone(), normed = at::empty_like(x), y = at::zeros_like(x), delta = at::zeros_like(x);
      for (int64_t layer = 0; layer < kLayers; ++layer) {
        const cuda::Start start_at = side_by_side ? cuda::Start::kEarly : cuda::Start::kAfter;
        cuda::AddAndNorm(x.mutable_data_ptr(), y.const_data_ptr(), {delta.const_data_ptr(), added}, {}, 0, norm.const_data_ptr(),
                         1e-5, normed.mutable_data_ptr(), rows, kWidth, CurrentCudaStream(), start_at);
        const cuda::Next next = side_by_side ? cuda::Next::kWithInput : cuda::Next::kAtOnce;
        if (is_streamed) {
          cuda::StreamedProduct(normed.const_data_ptr(), kWidth, w.const_data_ptr(), kWidth, kWidth, y.mutable_data_ptr(), kWidth, rows,
                                CurrentCudaStream(), start_at, next);
        } else {
          cuda::TiledProduct(normed.const_data_ptr(), kWidth, {cuda::TileCodes::kBf16, kWidth, kWidth, w.const_data_ptr(), nullptr},
                             y.mutable_data_ptr(), kWidth, rows, CurrentCudaStream(), start_at, cuda::TiledSplit::kColumns, next);
        }
        cuda::GroupedLora(normed.const_data_ptr(), kWidth, *batch, target, delta.mutable_data_ptr(), kWidth, kWidth,
                          CurrentCudaStream(), !side_by_side ? cuda::LoraStart::kAfter : is_streamed ? cuda::LoraStart::kBesideStreamed : cuda::LoraStart::kBesideTiled);
      }
      return x;
    };
    for (const bool is_streamed : {false, true}) {
      if (is_streamed && !cuda::StreamedProductTakes(kWidth, kWidth)) continue;
      // Single rows beside the other kernel have another one than those that come after.
      if (!is_streamed && batch->sharing == cuda::LoraSharing::kNone && !batch->reads_codes) continue;
      const Tensor expected = run(is_streamed, false);
      EXPECT_TRUE(at::isfinite(expected).all().item<bool>());
      EXPECT_FALSE(at::equal(expected, start));
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(at::equal(run(is_streamed, true), expected)) << rows << " rows, run " << i << (is_streamed ? ", streamed" : "");
      }
    }
  }
}

// Of entries whose matrices are not there. A cluster's blocks have more inputs than they can share out, and fewer.
TEST_F(ServingKernelsTest, GpuReadsLorasByTheirCodes) {
  // Of A's rows, and of B's after these were filled up.
  const std::vector<std::pair<int64_t, int64_t>> ranks = {{6, 8}, {16, 16}, {31, 32}, {48, 48}, {263, 272}};
  const std::vector<int64_t> columns = {96, 40, 6000};
  const at::TensorOptions codes_options = at::TensorOptions(at::kChar).device(at::kCUDA);
  for (const int64_t inputs : {16, 64, 1040, 2048}) {
    std::vector<cuda::LoraEntry> entries(ranks.size() * 3);
    std::vector<std::array<Tensor, 3>> codes;
    for (size_t i = 0; i < entries.size(); ++i) {
      const auto [rank, filled] = ranks[i / 3];
      codes.push_back({at::randint(-127, 128, {rank, inputs}, codes_options),
                       at::constant_pad_nd(at::randint(-127, 128, {columns[i % 3], rank}, codes_options), {0, filled - rank}).contiguous(),
                       (at::rand({rank}, codes_options.dtype(at::kFloat)) + 0.5) * 1e-4});
      if (i == 4) continue;  // has no LoRA
      entries[i] = {nullptr, nullptr, static_cast<int32_t>(rank), 0.5f + static_cast<float>(i % 3),
                    {codes[i][0].const_data_ptr<int8_t>(), codes[i][1].const_data_ptr<int8_t>(), codes[i][2].const_data_ptr<float>(),
                     static_cast<int32_t>(filled)}};
    }
    Tensor host = at::empty({static_cast<int64_t>(entries.size() * sizeof(cuda::LoraEntry))}, at::kByte);
    std::memcpy(host.mutable_data_ptr(), entries.data(), host.numel());
    const Tensor table = host.to(at::kCUDA);
    const int64_t width = 96 + 40 + 6000;
    for (const int64_t rows : {6, 40}) {
      std::vector<int32_t> tiles;
      for (int32_t row = 0; row < rows; ++row) tiles.insert(tiles.end(), {row % 6 - 1, row, 1});
      const Tensor x = Random({rows, inputs}), delta = Random({rows, width}), tile_list = Ints(tiles);
      const cuda::LoraTarget target{3, {0, 1, 2}, {0, 96, 136}, {96, 40, 6000}};
      const cuda::LoraBatch batch{static_cast<const cuda::LoraEntry*>(table.const_data_ptr()), 3,
                                  reinterpret_cast<const cuda::LoraTile*>(Data(tile_list)), rows, cuda::LoraSharing::kNone, /*reads_codes=*/true};
      using enum cuda::LoraStart;
      for (const cuda::LoraStart start : {kAfter, kBesideTiled, kBesideStreamed}) {
        delta.fill_(7);
        cuda::GroupedLora(x.const_data_ptr(), inputs, batch, target, delta.mutable_data_ptr(), width, inputs, CurrentCudaStream(), start);
        Tensor expected = at::zeros({rows, width}, at::kDouble);
        for (int64_t t = 0; t < rows; ++t) {
          for (int p = 0; p < 3 && t % 6 > 0; ++p) {
            const int64_t i = (t % 6 - 1) * 3 + p;
            if (i == 4) continue;
            const Tensor inner = at::matmul(Exact(codes[i][0]), Exact(x[t])) * Exact(codes[i][2]);
            const Tensor b = codes[i][1].narrow(1, 0, codes[i][0].size(0));
            expected[t].narrow(0, target.first_column[p], columns[p]) = at::matmul(Exact(b), inner) * (0.5 + p);
          }
        }
        EXPECT_TRUE(Near(delta, expected, kBf16)) << inputs << " inputs, " << rows << " rows, start " << static_cast<int>(start);
      }
    }
  }
}

// Layers in which each kernel begins while the one before it runs, and attention reads old keys before the new one is there.
TEST_F(ServingKernelsTest, GpuSingleQueriesWaitForTheirToken) {
  constexpr int64_t kRows = 10, kHeads = 8, kKvHeads = 2, kDim = 64, kPage = 16, kPagesEach = 27, kLayers = 60;
  constexpr int64_t kOut = kHeads * kDim, kWidth = (kHeads + 2 * kKvHeads) * kDim;
  std::vector<std::vector<int32_t>> pages(kRows);
  std::vector<StepSegment> segments;
  std::vector<int32_t> slots, places;
  const int32_t token = 1;
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t page = 0; page < kPagesEach; ++page) pages[i].push_back(static_cast<int32_t>(page * kRows + i));
    // A page's first token and last among them, and what one, two and three rounds of a block's warps end with, and begin.
    constexpr int64_t kContexts[kRows] = {0, 15, 16, 127, 128, 143, 257, 383, 384, 410};
    const int64_t context = kContexts[i];
    segments.push_back({&token, -1, 1, context, &pages[i], -1, 0});
    places.push_back(static_cast<int32_t>(context));
    slots.push_back(static_cast<int32_t>(pages[i][context / kPage] * kPage + context % kPage));
  }
  const StepInputs in = MakeStepInputs(segments, kPage, kHeads / kKvHeads, 0, nullptr, 0, 2000);
  const Tensor lists = at::tensor(in.values, at::kInt).to(at::kCUDA), positions = Ints(places), slot_list = Ints(slots);
  const Tensor angles = at::rand({512, kDim / 2}) * 6, cos = angles.cos().to(at::kCUDA), sin = angles.sin().to(at::kCUDA);
  const Tensor w = Random({kWidth, kOut}) * 0.06, start = Random({kRows, kOut});
  std::vector<Tensor> old;
  for (int64_t layer = 0; layer < 2 * kLayers; ++layer) old.push_back(Random({kPagesEach * kRows * kPage, kKvHeads, kDim}));
  auto run = [&](bool waits) {
    std::vector<Tensor> caches;
    for (const Tensor& cache : old) caches.push_back(cache.clone());
    std::vector<Tensor> outputs = {start};
    const Tensor qkv = at::zeros_like(Random({kRows, kWidth}));
    for (int64_t layer = 0; layer < kLayers; ++layer) outputs.push_back(at::zeros_like(start));
    const cuda::Start early = waits ? cuda::Start::kAfter : cuda::Start::kEarly;
    auto settle = [&] {
      if (waits) c10::cuda::getCurrentCUDAStream().synchronize();
    };
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const Tensor &keys = caches[2 * layer], &values = caches[2 * layer + 1];
      cuda::TiledProduct(outputs[layer].const_data_ptr(), kOut, {cuda::TileCodes::kBf16, kWidth, kOut, w.const_data_ptr(), nullptr},
                         qkv.mutable_data_ptr(), kWidth, kRows, CurrentCudaStream(), early);
      settle();
      cuda::RopeAndCache(qkv.mutable_data_ptr(), {}, {}, cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), Data(positions),
                         Data(slot_list), keys.mutable_data_ptr(), values.mutable_data_ptr(), kRows, {kHeads, kKvHeads, kDim},
                         CurrentCudaStream(), early);
      settle();
      cuda::PagedAttentionCall call;
      call.shape = {kHeads, kKvHeads, kDim};
      call.page_tokens = kPage;
      call.row_stride = kWidth;
      call.scale = 0.125f;
      call.q = qkv.const_data_ptr();
      call.out = outputs[layer + 1].mutable_data_ptr();
      call.keys = keys.const_data_ptr();
      call.values = values.const_data_ptr();
      call.are_single_queries = true;
      const AttentionRoom& room = in.room.singles;
      const AttentionOffsets& o = in.offsets.singles;
      auto at_list = [&](int64_t offset) { return Data(lists) + offset; };
      call.plan = {room.segments, room.rows, room.tiles, in.tile_rows_singles, at_list(o.query_starts), at_list(o.page_starts),
                   at_list(in.offsets.pages), at_list(o.last_page_tokens), at_list(o.tile_segments),
                   at_list(o.tile_queries), at_list(o.tile_chunks), reinterpret_cast<const uint8_t*>(at_list(o.tile_used)),
                   at_list(o.row_parts), at_list(o.out_starts), at_list(o.chunk_tokens), at_list(o.rows_used)};
      EXPECT_TRUE(cuda::DecodeAttentionTakes(call));
      cuda::PagedAttention(call, CurrentCudaStream());
      settle();
    }
    return at::stack(outputs);
  };
  const Tensor expected = run(true);
  EXPECT_TRUE(at::isfinite(expected).all().item<bool>());
  EXPECT_GT(expected[kLayers].abs().max().item<float>(), 0);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(at::equal(run(false), expected)) << "run " << i;
}

struct AttentionCase {
  int64_t heads, kv_heads, head_dim;
  int64_t tiles_for_singles, tiles_for_longer = 0;
  int64_t window = 0;
  bool is_decode = false;       // by the kernel for single queries
  bool has_many_more = false;  // single tokens
};

// Single tokens, whose keys are cut or not, and longer segments, over pages in any order; with windows that leave chunks of keys
// out, or all keys but a token's own.
TEST_F(ServingKernelsTest, GpuAttendsOverPages) {
  for (const AttentionCase& c : {AttentionCase{8, 2, 64, 0}, {8, 2, 64, 200, 100}, {4, 1, 128, 50, 40}, {4, 4, 128, 0}, {4, 4, 128, 64},
                                 {7, 1, 64, 100}, {9, 3, 64, 0}, {8, 2, 64, 0, 0, 30}, {4, 1, 128, 0, 0, 1},
                                 {9, 3, 64, 0, 0, 500}, {8, 2, 64, 0, 0, 0, true}, {8, 1, 64, 0, 0, 0, true}, {4, 1, 128, 0, 0, 0, true},
                                 {4, 4, 128, 0, 0, 0, true}, {9, 3, 64, 0, 0, 30, true}, {16, 2, 128, 0, 0, 500, true}, {4, 4, 64, 0, 0, 1, true}, {8, 2, 64, 0, 0, 500, true},
                                 {8, 4, 64, 0, 0, 0, true, true}, {8, 2, 64, 0, 0, 0, true, true}, {8, 8, 128, 0, 0, 0, true, true}}) {
    constexpr int64_t kPage = 16, kPages = 400;
    std::mt19937 random(5);
    std::vector<int32_t> order(kPages);
    for (int32_t i = 0; i < kPages; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    const Tensor keys = Random({kPages * kPage, c.kv_heads, c.head_dim}), values = Random({kPages * kPage, c.kv_heads, c.head_dim});
    struct Piece {
      int64_t count, context;
    };
    std::vector<Piece> pieces;
    for (int64_t i = 0; c.has_many_more && i < 100; ++i) pieces.push_back({1, i % 31});
    for (const Piece& piece : {Piece{1, 0}, {1, 5}, {1, 777}, {1, 63}, {1, 64}, {1, 1200}, {40, 0}, {130, 333}, {2, 17}}) pieces.push_back(piece);
    std::vector<std::vector<int32_t>> pages(pieces.size());
    std::vector<StepSegment> segments;
    const std::vector<int32_t> tokens(200, 1);
    size_t next = 0;
    int64_t rows = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      for (int64_t p = 0; p * kPage < pieces[i].context + pieces[i].count; ++p) pages[i].push_back(order[next++]);
      segments.push_back({tokens.data(), -1, pieces[i].count, pieces[i].context, &pages[i], -1, 0});
      rows += pieces[i].count;
    }
    const int64_t group = c.heads / c.kv_heads;
    const StepInputs in = MakeStepInputs(segments, kPage, group, c.tiles_for_singles, nullptr, c.tiles_for_longer, 2000);
    EXPECT_EQ(in.is_cut_longer, c.tiles_for_longer > 0);
    const Tensor lists = at::tensor(in.values, at::kInt).to(at::kCUDA);
    auto at_list = [&](int64_t offset) { return Data(lists) + offset; };
    const int64_t width = (c.heads + 2 * c.kv_heads) * c.head_dim;
    const Tensor q = Random({rows, width}), out = at::zeros_like(Random({rows, c.heads * c.head_dim}));
    const Tensor parts = Random({2000, c.heads * c.head_dim}), sums = at::zeros({2000, c.heads}, at::TensorOptions(at::kFloat).device(at::kCUDA));
    auto attend = [&](const AttentionRoom& room, const AttentionOffsets& o, int tile_rows, int64_t first, bool is_cut, bool is_decode) {
      cuda::PagedAttentionCall call;
      call.are_single_queries = is_decode;
      call.shape = {c.heads, c.kv_heads, c.head_dim};
      call.page_tokens = kPage;
      call.row_stride = width;
      call.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
      call.window_before = static_cast<int32_t>(c.window) - 1;
      call.q = q.narrow(0, first, room.rows).const_data_ptr();
      call.out = out.narrow(0, first, room.rows).mutable_data_ptr();
      call.keys = keys.const_data_ptr();
      call.values = values.const_data_ptr();
      if (is_cut) call.partial_out = parts.mutable_data_ptr(), call.partial_sums = sums.mutable_data_ptr<float>();
      call.plan = {room.segments, room.rows, room.tiles, tile_rows, at_list(o.query_starts), at_list(o.page_starts),
                   at_list(in.offsets.pages), at_list(o.last_page_tokens), at_list(o.tile_segments),
                   at_list(o.tile_queries), at_list(o.tile_chunks), reinterpret_cast<const uint8_t*>(at_list(o.tile_used)),
                   at_list(o.row_parts), at_list(o.out_starts), at_list(o.chunk_tokens), at_list(o.rows_used)};
      if (!c.has_many_more || c.head_dim == 64) {  // else by the device
        EXPECT_EQ(cuda::DecodeAttentionTakes(call), is_decode);
      }
      cuda::PagedAttention(call, CurrentCudaStream());
    };
    attend(in.room.singles, in.offsets.singles, in.tile_rows_singles, 0, c.tiles_for_singles > 0, c.is_decode);
    attend(in.room.longer, in.offsets.longer, in.tile_rows_longer, in.room.singles.rows, in.is_cut_longer, false);
    const Tensor all_keys = Exact(keys), all_values = Exact(values), queries = Exact(q);
    int64_t row = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      std::vector<int64_t> slots;
      for (int64_t j = 0; j < pieces[i].context + pieces[i].count; ++j) slots.push_back(pages[i][j / kPage] * kPage + j % kPage);
      const Tensor index = at::tensor(slots, at::kLong);
      const Tensor k = all_keys.index_select(0, index).repeat_interleave(group, 1).transpose(0, 1);
      const Tensor v = all_values.index_select(0, index).repeat_interleave(group, 1).transpose(0, 1);
      for (int64_t t = 0; t < pieces[i].count; ++t, ++row) {
        const int64_t last = pieces[i].context + t + 1, first = c.window > 0 ? std::max<int64_t>(0, last - c.window) : 0;
        const int64_t seen = last - first;
        const Tensor one = queries[row].narrow(0, 0, c.heads * c.head_dim).view({c.heads, 1, c.head_dim});
        const Tensor weights = at::softmax(at::matmul(one, k.narrow(1, first, seen).transpose(1, 2)) / std::sqrt(c.head_dim), -1);
        const Tensor expected = at::matmul(weights, v.narrow(1, first, seen)).view({-1});
        if (!Near(out[row], expected, kBf16)) {
          ADD_FAILURE() << "heads " << c.heads << ", tiles " << c.tiles_for_singles << ", window " << c.window << ", piece " << i << ", token " << t;
          break;
        }
      }
    }
  }
}

}  // namespace
}  // namespace attune
