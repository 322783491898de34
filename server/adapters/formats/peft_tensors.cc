#include "server/adapters/formats/peft_tensors.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <type_traits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error.h"
#include "server/adapters/formats/peft_config.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::StatusOr<at::ScalarType> ScalarTypeOf(const SafetensorsTensor& tensor) {
  switch (tensor.type) {
    case SafetensorsType::kF32:
      return at::kFloat;
    case SafetensorsType::kF16:
      return at::kHalf;
    case SafetensorsType::kBF16:
      return at::kBFloat16;
    case SafetensorsType::kF64:
      return at::kDouble;
    default:
      return BadAdapter(absl::StrCat("tensor '", tensor.name, "' does not hold real numbers"));
  }
}

// Whether all `count` values, which may lie at any address, are finite; they go to `to` in its type. On this
// thread alone: many adapters are loaded at once, each by a handler of its own.
template <typename From, typename To>
bool ConvertFinite(const char* from, int64_t count, To* to) {
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, at::BFloat16>) {
    // Most adapters for a GPU: whole numbers, which the compiler does many at a time.
    uint32_t exponents = 0;
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, from + i * sizeof(bits), sizeof(bits));
      exponents |= ((bits & 0x7f800000u) + 0x00800000u) & 0x80000000u;
      to[i].x = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    }
    return exponents == 0;
  }
  bool all_finite = true;
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + i * sizeof(From), sizeof(From));
    const auto wide = static_cast<std::conditional_t<std::is_same_v<From, double>, double, float>>(value);
    all_finite &= wide - wide == 0;  // infinities and no numbers give no number
    to[i] = static_cast<To>(static_cast<float>(wide));
  }
  return all_finite;
}

template <typename To>
bool ConvertFinite(at::ScalarType type, const char* from, int64_t count, To* to) {
  switch (type) {
    case at::kFloat:
      return ConvertFinite<float>(from, count, to);
    case at::kHalf:
      return ConvertFinite<at::Half>(from, count, to);
    case at::kBFloat16:
      return ConvertFinite<at::BFloat16>(from, count, to);
    default:
      return ConvertFinite<double>(from, count, to);
  }
}

bool IsWholeTable(const std::string& name) {
  for (const char* end : {kBaseLayer, ".modules_to_save.weight", ".embed_tokens.weight", ".lm_head.weight"}) {
    if (absl::EndsWith(name, end)) return true;
  }
  return false;
}

}  // namespace

TensorReader::TensorReader(const SafetensorsFile& file, const ComputeTarget& target)
    : file_(file), target_(target), stream_(target) {
  int64_t room = 0;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    if (IsWholeTable(tensor.name)) continue;
    room += RoomFor(std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>()));
  }
  const bool is_gpu = target.device == ComputeTarget::Device::kCuda;
  const OwnStream::Scope scope(stream_);
  host_ = at::empty({room}, at::TensorOptions(TypeOf(target)).pinned_memory(is_gpu));
  values_ = is_gpu ? at::empty({room}, at::TensorOptions(TypeOf(target)).device(DeviceOf(target))) : host_;
}

absl::StatusOr<at::Tensor> TensorReader::Take(const std::string& name, const std::vector<int64_t>& shape) {
  const SafetensorsTensor* tensor = file_.Find(name);
  if (tensor == nullptr) return BadAdapter(absl::StrCat("tensor '", name, "' is missing"));
  if (tensor->shape != shape) {
    return BadAdapter(absl::StrCat("tensor '", name, "' is ", ShapeText(tensor->shape), " where this base model needs ",
                                   ShapeText(shape)));
  }
  ATTUNE_ASSIGN_OR_RETURN(at::ScalarType type, ScalarTypeOf(*tensor));
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  const bool is_alone = IsWholeTable(name);
  const at::Tensor to = is_alone ? at::empty({count}, host_.options()) : host_.narrow(0, used_, count);
  const char* from = tensor->bytes.data();
  const bool all_finite = to.scalar_type() == at::kBFloat16
                              ? ConvertFinite(type, from, count, to.mutable_data_ptr<at::BFloat16>())
                              : ConvertFinite(type, from, count, to.mutable_data_ptr<float>());
  if (!all_finite) return BadAdapter(absl::StrCat("tensor '", name, "' holds infinities or no numbers"));
  taken_.insert(name);
  bytes_ += static_cast<int64_t>(to.nbytes());
  if (is_alone) {
    const OwnStream::Scope scope(stream_);  // which fills it
    alone_.push_back({to, values_.is_same(host_) ? to : at::empty({count}, values_.options())});
    return alone_.back().values.view(shape);
  }
  const at::Tensor values = values_.narrow(0, used_, count).view(shape);
  used_ += RoomFor(count);
  return values;
}

absl::Status TensorReader::Finish() {
  for (const SafetensorsTensor& tensor : file_.tensors()) {
    if (taken_.count(tensor.name) == 0) {
      return UnsupportedAdapter(absl::StrCat("the tensor '", tensor.name, "', which belongs to no adapted projection"));
    }
  }
  if (values_.is_same(host_)) return absl::OkStatus();
  const OwnStream::Scope scope(stream_);
  values_.copy_(host_, /*non_blocking=*/true);
  for (const Alone& tensor : alone_) tensor.values.copy_(tensor.host, /*non_blocking=*/true);
  Synchronize(target_);
  return absl::OkStatus();
}

void TensorWriter::Add(const std::string& name, const at::Tensor& tensor) {
  at::Tensor values = tensor.detach().cpu().contiguous();
  if (values.scalar_type() != at::kBFloat16) values = values.to(at::kFloat);
  alive_.push_back(values);
  tensors_.push_back({name, values.sizes().vec(),
                      values.scalar_type() == at::kBFloat16 ? SafetensorsType::kBF16 : SafetensorsType::kF32,
                      absl::string_view(static_cast<const char*>(values.const_data_ptr()), values.nbytes())});
}

absl::Status TensorWriter::Write(const std::string& path) const {
  return WriteSafetensors(path, tensors_, {{"format", "pt"}});
}

}  // namespace attune
