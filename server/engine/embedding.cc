#include "server/engine/embedding.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "absl/types/span.h"
#include "server/adapters/adapter.h"
#include "server/adapters/packed_ops.h"
#include "server/model/base_model.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

// One row an input, fp32 on the CPU.
at::Tensor Embed(const ServedModel& model, absl::Span<const std::vector<int32_t>> inputs, const EmbedParams& params) {
  const at::NoGradGuard no_grad;
  const Adapter* adapter = model.adapter.get();
  const int64_t virtual_tokens = adapter ? adapter->virtual_tokens() : 0;
  const at::Tensor hidden_TD = AllHidden(*model.base, adapter, inputs);
  std::vector<at::Tensor> rows;
  int64_t begin = 0;
  for (const std::vector<int32_t>& input : inputs) {
    const int64_t count = static_cast<int64_t>(input.size());
    begin += virtual_tokens;
    const bool is_mean = params.pooling == EmbedParams::Pooling::kMean;
    rows.push_back(is_mean ? hidden_TD.narrow(0, begin, count).to(at::kFloat).mean(0)
                           : hidden_TD.select(0, begin + count - 1).to(at::kFloat));
    begin += count;
  }
  at::Tensor out_ND = at::stack(rows);
  if (params.normalize) out_ND = out_ND / out_ND.norm(2, 1, /*keepdim=*/true).clamp_min(1e-12);
  return out_ND.to(at::kCPU).contiguous();
}

}  // namespace

int64_t EmbedTask::Step(int64_t most_tokens, absl::Time now) {
  if (!IsStarted()) result_.timings.queue_seconds = absl::ToDoubleSeconds(now - arrival_);
  size_t end = next_;
  int64_t tokens = 0;
  while (end < params_.inputs.size()) {
    const int64_t size = static_cast<int64_t>(params_.inputs[end].size());
    if (end > next_ && tokens + size > most_tokens) break;
    tokens += size;
    ++end;
  }
  status_ = CatchTorch([&] {
    const auto inputs = absl::MakeConstSpan(params_.inputs).subspan(next_, end - next_);
    const at::Tensor rows_ND = Embed(*params_.model, inputs, params_);
    const float* values = rows_ND.const_data_ptr<float>();
    for (int64_t i = 0; i < rows_ND.size(0); ++i, values += rows_ND.size(1)) {
      result_.embeddings.emplace_back(values, values + rows_ND.size(1));
    }
    return absl::OkStatus();
  });
  next_ = end;
  tokens_ += tokens;
  return tokens;
}

RequestTimings EmbedTask::TimingsAt(absl::Time now) const {
  RequestTimings timings = result_.timings;
  timings.first_token_seconds = timings.total_seconds = absl::ToDoubleSeconds(now - arrival_);
  return timings;
}

void EmbedTask::Finish(absl::Time now) {
  if (!status_.ok()) return done_(status_);
  result_.timings = TimingsAt(now);
  done_(std::move(result_));
}

}  // namespace attune
