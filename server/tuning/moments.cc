#include "server/tuning/moments.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"

namespace attune {
namespace {

using at::Tensor;

AdamWArguments ArgumentsOf(const FlatParameters& flat, int64_t first, int64_t count) {
  const Tensor& copy = flat.copy();
  return {flat.values().narrow(0, first, count), copy.defined() ? copy.narrow(0, first, count) : copy,
          flat.gradients().narrow(0, first, count)};
}

class FloatMoments final : public Moments {
 public:
  FloatMoments(const std::vector<Parameter>& parameters, const FlatParameters* flat)
      : flat_(flat), first_(at::zeros_like(flat->values())), second_(at::zeros_like(flat->values())) {
    for (const Parameter& parameter : parameters) {
      auto part = [&](const Tensor& all) {
        return all.narrow(0, flat_->Offset(parameter.leaf), parameter.leaf.numel()).view(parameter.leaf.sizes());
      };
      state_.push_back({absl::StrCat(parameter.name, "/first_moment"), part(first_)});
      state_.push_back({absl::StrCat(parameter.name, "/second_moment"), part(second_)});
    }
  }

  void Update(const cuda::AdamWSettings& settings, const Tensor& norm, int64_t first, int64_t count) override {
    AdamWStep(settings, norm, ArgumentsOf(*flat_, first, count), first_.narrow(0, first, count),
              second_.narrow(0, first, count));
  }

  std::vector<StateTensor> State() const override { return state_; }

 private:
  const FlatParameters* const flat_;
  Tensor first_, second_;
  std::vector<StateTensor> state_;
};

Moment8Bit MakeMoment(bool both_signs, const Tensor& like) {
  const std::vector<float> map = DynamicMap(both_signs);
  const int64_t zero = std::find(map.begin(), map.end(), 0.0f) - map.begin();
  const int64_t blocks = (like.numel() + cuda::kMomentBlock - 1) / cuda::kMomentBlock;
  return {at::tensor(map, at::kFloat).to(like.device()),
          at::full({like.numel()}, zero, like.options().dtype(at::kByte)), at::zeros({blocks}, like.options())};
}

class QuantizedMoments final : public Moments {
 public:
  explicit QuantizedMoments(const FlatParameters* flat)
      : flat_(flat), first_(MakeMoment(true, flat->values())), second_(MakeMoment(false, flat->values())) {}

  void Update(const cuda::AdamWSettings& settings, const Tensor& norm, int64_t first, int64_t count) override {
    TORCH_CHECK(count == flat_->count(), "8-bit moments are updated all at once");
    AdamWStep8Bit(settings, norm, ArgumentsOf(*flat_, first, count), first_, second_);
  }

  std::vector<StateTensor> State() const override {
    return {{"first_moment.codes", first_.codes},
            {"first_moment.scales", first_.scales},
            {"second_moment.codes", second_.codes},
            {"second_moment.scales", second_.scales}};
  }

 private:
  const FlatParameters* const flat_;
  const Moment8Bit first_, second_;
};

}  // namespace

std::vector<float> DynamicMap(bool both_signs) {
  std::vector<float> map = {0.0f, 1.0f};
  // Seven decades; each next one is resolved twice as finely.
  for (int decade = 0; decade < 7; ++decade) {
    const int values = (both_signs ? 1 : 2) << decade;
    const double top = std::pow(10.0, decade - 6);
    for (int i = 0; i < values; ++i) {
      const float value = static_cast<float>(top * (0.1 + 0.9 * (i + 0.5) / values));
      map.push_back(value);
      if (both_signs) map.push_back(-value);
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

std::unique_ptr<Moments> MakeMoments(const std::vector<Parameter>& parameters, const FlatParameters* flat) {
  return std::make_unique<FloatMoments>(parameters, flat);
}

std::unique_ptr<Moments> Make8BitMoments(const FlatParameters* flat) {
  return std::make_unique<QuantizedMoments>(flat);
}

}  // namespace attune
