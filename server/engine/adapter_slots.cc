#include "server/engine/adapter_slots.h"

#include <ATen/ATen.h>

namespace attune {

namespace {

cuda::LoraCodes KernelCodesOf(const LoraModule& module) {
  const LoraModule::Codes& codes = module.codes;
  if (!codes.defined()) return {};
  return {codes.a_RI.const_data_ptr<int8_t>(), codes.b_OR.const_data_ptr<int8_t>(), codes.scale_R.const_data_ptr<float>(),
          static_cast<int32_t>(codes.b_OR.size(1))};
}

}  // namespace

AdapterSlots::AdapterSlots(int64_t slots, int64_t layers, at::Device device)
    : layers_(layers),
      loras_(slots, layers * kProjections * static_cast<int64_t>(sizeof(cuda::LoraEntry)), device),
      scales_(slots, layers * cuda::kScaleEntries * static_cast<int64_t>(sizeof(void*)), device) {}

void AdapterSlots::BeginStep() {
  loras_.BeginStep();
  scales_.BeginStep();
}

int32_t AdapterSlots::SlotOf(const LoraAdapter& lora, uint64_t uid) {
  return loras_.SlotOf(uid, [&](void* line) {
    auto* entries = static_cast<cuda::LoraEntry*>(line);
    for (int64_t layer = 0; layer < layers_; ++layer) {
      for (int p = 0; p < kProjections; ++p) {
        const LoraModule& module = lora.layers[layer][p];
        if (!module.defined()) continue;
        TORCH_CHECK(module.a_RI.is_contiguous() && module.b_OR.is_contiguous(),
                    "an adapter's matrices must be contiguous");
        TORCH_CHECK(module.a_RI.size(0) <= cuda::MostGroupedRanks(), "a rank of ", module.a_RI.size(0),
                    " is more than the grouped kernel takes");
        entries[layer * kProjections + p] = {module.a_RI.const_data_ptr(), module.b_OR.const_data_ptr(),
                                             static_cast<int32_t>(module.a_RI.size(0)),
                                             static_cast<float>(module.scale), KernelCodesOf(module)};
      }
    }
  });
}

int32_t AdapterSlots::SlotOf(const Ia3Adapter& ia3, uint64_t uid) {
  static_assert(cuda::kInnerScale == kProjections);
  return scales_.SlotOf(uid, [&](void* line) {
    auto* entries = static_cast<const void**>(line);
    for (int64_t layer = 0; layer < layers_; ++layer, entries += cuda::kScaleEntries) {
      const Ia3Adapter::Layer& scales = ia3.layers[layer];
      for (int p = 0; p < kProjections; ++p) {
        if (scales.output[p].defined()) entries[p] = scales.output[p].const_data_ptr();
      }
      if (scales.inner_I.defined()) entries[cuda::kInnerScale] = scales.inner_I.const_data_ptr();
    }
  });
}

int32_t AdapterSlots::ScaleSlotOf(const LoraAdapter& lora, uint64_t uid) {
  return scales_.SlotOf(uid, [&](void* line) {
    auto* entries = static_cast<const void**>(line);
    for (int64_t layer = 0; layer < layers_; ++layer, entries += cuda::kScaleEntries) {
      for (int p = 0; p < kProjections; ++p) {
        const at::Tensor& scale = lora.layers[layer][p].output_scale_O;
        if (scale.defined()) entries[p] = scale.const_data_ptr();
      }
      entries[cuda::kBiasComesLast] = line;  // any pointer will do
    }
  });
}

const cuda::LoraEntry* AdapterSlots::loras() const {
  return static_cast<const cuda::LoraEntry*>(loras_.table().const_data_ptr());
}

int64_t AdapterSlots::entries_per_slot() const { return layers_ * kProjections; }

cuda::RowScales AdapterSlots::ScalesOf(int64_t layer, const int32_t* slots_T) const {
  const auto* entries = static_cast<const void* const*>(scales_.table().const_data_ptr());
  return {entries + layer * cuda::kScaleEntries, layers_ * cuda::kScaleEntries, slots_T};
}

}  // namespace attune
