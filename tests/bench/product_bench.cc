// Times the products of a decoding step on a GPU: the base model's matrices by cuBLAS in bf16, and by the kernel that
// reads them dense or in blocks. Weights come from memory: enough copies take turns that none is still in a cache.
//
//   product_bench [--dense] [TOKENS...]
//
// --dense: none but dense weights, and the ways to cut them.
// Prints a table: microseconds a product, and the bytes of the weight a second.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "server/model/kernels/matmul.h"
#include "server/model/kernels/streamed_product.h"
#include "server/model/kernels/tiled_weight.h"
#include "server/model/own_stream.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

using at::Tensor;
using cuda::TileCodes;

constexpr std::pair<cuda::TiledSplit, const char*> kSplits[] = {{cuda::TiledSplit::kColumns, "by columns"},
                                                               {cuda::TiledSplit::kRows, "by rows"}};
constexpr int64_t kCacheBytes = int64_t{200} << 20;

struct Shape {
  const char* name;
  int64_t outputs, inputs;
};
constexpr Shape kShapes[] = {{"1.1B qkv", 2560, 2048},      {"1.1B output", 2048, 2048}, {"1.1B gate, up", 11264, 2048},
                             {"1.1B down", 2048, 5632},     {"1.1B head", 32000, 2048},  {"7B qkv", 12288, 4096},
                             {"7B gate, up", 22016, 4096},  {"7B down", 4096, 11008}};

// Microseconds of each of `count` calls in a captured row of them.
double Time(int64_t count, const std::function<void(int64_t)>& call) {
  for (int64_t i = 0; i < count; ++i) call(i);
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  for (int64_t i = 0; i < count; ++i) call(i);
  graph.capture_end();
  graph.replay();
  at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
  constexpr int kReplays = 10;
  begin.record();
  for (int i = 0; i < kReplays; ++i) graph.replay();
  end.record();
  end.synchronize();
  return 1000.0 * begin.elapsed_time(end) / (kReplays * count);
}

void Print(const Shape& shape, const char* how, const char* split, int64_t tokens, double microseconds, int64_t bytes) {
  std::printf("| %s | %s %s | %ld | %.2f | %.2f |\n", shape.name, how, split, tokens, microseconds, bytes / microseconds / 1e6);
  std::fflush(stdout);
}

// The kernel that streams, as it cuts by itself, and where it may begin while the one before it runs; with `all_cuts`
// the fastest few of all cuts, too.
void RunStreamed(const Shape& shape, int64_t count, const std::vector<Tensor>& weights, bool all_cuts) {
  if (count > kMostStreamedRows || !CanStream(weights[0])) return;
  const Tensor x = at::randn({count, shape.inputs}, weights[0].options()), y = at::empty({count, shape.outputs}, weights[0].options());
  const int64_t calls = static_cast<int64_t>(weights.size()), bytes = static_cast<int64_t>(weights[0].nbytes());
  auto time = [&](const StreamedOptions& options) {
    return Time(calls, [&](int64_t i) { MultiplyStreamed(x, weights[i], y, options); });
  };
  Print(shape, "bf16", "streamed", count, time({}), bytes);
  Print(shape, "bf16", "streamed, early", count, time({.start = cuda::Start::kEarly}), bytes);
  if (!all_cuts) return;
  std::vector<std::pair<double, std::string>> found;
  for (const int split : {1, 2, 4, 8}) {
    for (const int row_tiles : {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16}) {
      const double took = time({.start = cuda::Start::kEarly, .cut = {row_tiles, split}});
      found.emplace_back(took, "streamed, " + std::to_string(row_tiles) + " tiles of rows, " + std::to_string(split) + " parts");
    }
  }
  std::sort(found.begin(), found.end());
  for (size_t i = 0; i < 6; ++i) Print(shape, "bf16", found[i].second.c_str(), count, found[i].first, bytes);
}

void RunShape(const Shape& shape, const std::vector<int64_t>& tokens, bool is_dense_only) {
  const at::TensorOptions bf16 = at::TensorOptions(at::kBFloat16).device(at::kCUDA);
  const int64_t dense_bytes = 2 * shape.outputs * shape.inputs;
  std::vector<Tensor> weights;
  for (int64_t bytes = 0; bytes < kCacheBytes || weights.size() < 4; bytes += dense_bytes) {
    weights.push_back(at::randn({shape.outputs, shape.inputs}, bf16) * 0.02);
  }
  for (const int64_t count : tokens) {
    const Tensor x = at::randn({count, shape.inputs}, bf16), y = at::empty({count, shape.outputs}, bf16);
    const int64_t calls = static_cast<int64_t>(weights.size());
    Print(shape, "cuBLAS bf16", "", count,
          Time(calls, [&](int64_t i) { MatMul(x, As::kIs, weights[i], As::kTransposed, 1, 0, y); }), dense_bytes);
    for (const auto& [split, name] : kSplits) {
      Print(shape, "bf16", name, count, Time(calls, [&](int64_t i) { MultiplyFewRows(x, weights[i], y, {.split = split}); }),
            dense_bytes);
    }
    RunStreamed(shape, count, weights, is_dense_only);
  }
  if (is_dense_only) return;
  for (const auto& [codes, name] : {std::pair{TileCodes::kInt8, "int8"}, {TileCodes::kFp8, "fp8"}, {TileCodes::kInt4, "int4"}}) {
    std::vector<TiledWeight> tiled;
    for (int64_t bytes = 0; bytes < kCacheBytes || tiled.size() < 4; bytes += tiled.back().bytes()) {
      tiled.push_back(MakeTiledWeight(weights[tiled.size() % weights.size()], codes));
    }
    for (const int64_t count : tokens) {
      const Tensor x = at::randn({count, shape.inputs}, bf16), y = at::empty({count, shape.outputs}, bf16);
      for (const auto& [split, by] : kSplits) {
        Print(shape, name, by, count,
              Time(static_cast<int64_t>(tiled.size()), [&](int64_t i) { MultiplyTiled(x, tiled[i], y, {.split = split}); }),
              tiled[0].bytes());
      }
    }
  }
}

void Run(const std::vector<int64_t>& tokens, bool is_dense_only) {
  const c10::NoGradGuard no_grad;
  const ComputeTarget target{ComputeTarget::Device::kCuda, ComputeTarget::Type::kBfloat16};
  PrepareDevice(target, /*deterministic=*/false);
  const OwnStream stream(target);  // captures need one that is not the default
  const OwnStream::Scope scope(stream);
  at::manual_seed(1);
  std::printf("| product | how | tokens | us | TB/s |\n|---|---|---|---|---|\n");
  for (const Shape& shape : kShapes) RunShape(shape, tokens, is_dense_only);
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) {
  std::vector<int64_t> tokens;
  const bool is_dense_only = argc > 1 && std::string(argv[1]) == "--dense";
  for (int i = is_dense_only ? 2 : 1; i < argc; ++i) tokens.push_back(std::atol(argv[i]));
  if (tokens.empty()) tokens = {1, 8, 16, 32, 64};
  attune::Run(tokens, is_dense_only);
}
