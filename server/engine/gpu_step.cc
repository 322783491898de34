#include "server/engine/gpu_step.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "server/engine/token_choice.h"
#include "server/model/kernels/cuda_dispatch.h"

namespace attune {
namespace {

using at::Tensor;

bool HasPenalties(const cuda::ChosenRow& row) {
  return row.repetition_penalty != 1 || row.frequency_penalty != 0 || row.presence_penalty != 0;
}

bool ChangesLogits(const TokenChoice& choice) { return !choice.changes.empty() || HasPenalties(choice.row); }

// Which of these rising rows lie in [begin, begin + count): where they start among them, and how many.
struct Range {
  int64_t first, count;
};
Range RangeOf(const std::vector<int64_t>& rows, int64_t begin, int64_t count) {
  const auto from = std::lower_bound(rows.begin(), rows.end(), begin);
  return {from - rows.begin(), std::lower_bound(from, rows.end(), begin + count) - from};
}

template <typename T>
const T* ListAt(const int32_t* inputs, int64_t offset) {
  return reinterpret_cast<const T*>(inputs + offset);
}

// Puts a list behind the values, on 16 bytes, and says where.
template <typename T>
int64_t Append(const std::vector<T>& list, std::vector<int32_t>* values) {
  values->resize((values->size() + 3) / 4 * 4);
  const int64_t at = static_cast<int64_t>(values->size());
  if (list.empty()) return at;
  const size_t bytes = list.size() * sizeof(list[0]);
  values->resize(values->size() + bytes / sizeof(int32_t));
  std::memcpy(values->data() + at, list.data(), bytes);
  return at;
}

float* FloatsOf(const Tensor& t) { return t.defined() ? t.mutable_data_ptr<float>() : nullptr; }

}  // namespace

struct GpuStep::Event {
  at::cuda::CUDAEvent event;
};

// What a pass's inputs hold for it.
struct GpuStep::Lists {
  std::vector<cuda::ChosenRow> chosen;
  std::vector<cuda::LogitChange> changes;
  std::vector<cuda::ScoredRow> scored;
  std::vector<int64_t> later;
};

GpuStep::GpuStep(const std::vector<ForwardItem>& items, const Tensor& logits, SampledTokens* sampled)
    : pass_logits_(logits), sampled_(sampled), done_(std::make_unique<Event>()) {
  int64_t asked = 0, last = 0, changed = 0, logprobs = 0, scores = 0, later = 0;
  bool has_pending = false;
  for (const ForwardItem& item : items) {
    if (item.wants_logits) asked += item.wanted();
    last_of_.push_back(item.wants_last_logits ? last++ : -1);
    scores_of_.push_back(scores);
    if (item.scored) scores += item.wanted();
    const bool has_logprobs = item.choice && item.choice->row.alternatives >= 0;
    logprobs_of_.emplace_back(has_logprobs ? logprobs++ : -1, has_logprobs ? item.choice->row.alternatives : 0);
    if (!item.choice) continue;
    later += item.waits_for_mask;
    has_pending = has_pending || item.sampled_row >= 0;
    changed += ChangesLogits(*item.choice);
  }
  const int64_t vocabulary = logits.size(1);
  if (asked > 0) asked_ = at::empty({asked, vocabulary}, at::TensorOptions(at::kFloat).pinned_memory(true));
  if (last > 0) last_ = at::empty({last, vocabulary}, at::TensorOptions(at::kBFloat16).pinned_memory(true));
  const at::TensorOptions fp32 = logits.options().dtype(at::kFloat);
  if (changed > 0) {
    // Of few sizes, which libtorch's cache has again.
    const int64_t rows = std::max<int64_t>(8, std::bit_ceil(static_cast<uint64_t>(changed)));
    scratch_ = at::empty({rows, vocabulary}, fp32);
    if (has_pending) sampled_->before.copy_(sampled_->last, /*non_blocking=*/true);
  }
  if (logprobs > 0) logprobs_ = at::empty({logprobs, cuda::kLogprobsWidth}, fp32);
  if (scores > 0) scores_ = at::empty({scores}, fp32);
  if (later > 0) later_.logits = at::empty({later, vocabulary}, logits.options());
}

GpuStep::~GpuStep() = default;

GpuStep::Pass GpuStep::AddPass(const std::vector<ForwardItem>& items, std::vector<int32_t>* inputs) {
  Pass pass;
  pass.first_row = rows_;
  pass.first_score = scores_used_;
  Lists lists;
  int64_t wanted = 0;
  for (const ForwardItem& item : items) {
    for (int64_t i = 0; i < item.wanted(); ++i) {
      if (item.wants_logits) pass.asked.push_back(wanted + i);
      if (!item.scored) continue;
      pass.scored.push_back(wanted + i);
      lists.scored.push_back({static_cast<int32_t>(wanted + i), item.scored[i]});
    }
    wanted += item.wanted();
    if (item.wants_last_logits) pass.last.push_back(wanted - 1);
    if (item.choice) AddChoice(item, wanted - 1, &pass, &lists);
    ++items_;
  }
  rows_ += wanted;
  scores_used_ += static_cast<int64_t>(lists.scored.size());
  if (lists.chosen.empty() && lists.scored.empty() && lists.later.empty()) return pass;
  pass.choices_at = Append(lists.chosen, inputs);
  pass.changes_at = Append(lists.changes, inputs);
  pass.scored_at = Append(lists.scored, inputs);
  pass.later_at = Append(lists.later, inputs);
  return pass;
}

void GpuStep::AddChoice(const ForwardItem& item, int64_t wanted_row, Pass* pass, Lists* lists) {
  const TokenChoice& choice = *item.choice;
  cuda::ChosenRow row = choice.row;
  std::vector<cuda::LogitChange>& changes = item.waits_for_mask ? later_.changes : lists->changes;
  row.row = static_cast<int32_t>(wanted_row);
  row.first_change = static_cast<int32_t>(changes.size());
  row.changes = static_cast<int32_t>(choice.changes.size());
  if (ChangesLogits(choice)) {
    row.scratch_row = static_cast<int32_t>(scratch_used_++);
    row.pending = HasPenalties(row) ? item.sampled_row : -1;
  }
  if (row.alternatives >= 0) row.logprobs_row = static_cast<int32_t>(logprobs_used_++);
  changes.insert(changes.end(), choice.changes.begin(), choice.changes.end());
  if (!item.waits_for_mask) {
    pass->chosen.push_back(wanted_row);
    lists->chosen.push_back(row);
    return;
  }
  pass->later.push_back(wanted_row);
  lists->later.push_back(wanted_row % pass_logits_.size(0));
  row.logits_row = static_cast<int32_t>(later_.rows.size());
  row.row += static_cast<int32_t>(pass->first_row);
  later_.items.push_back(items_);
  later_.rows.push_back(row);
}

void GpuStep::Take(const Pass& pass, const int32_t* inputs, int64_t begin, int64_t count) {
  Choose(pass, inputs, begin, count);
  KeepForLater(pass, inputs, begin, count);
  Score(pass, inputs, begin, count);
  CopyAsked(pass, begin, count);
  CopyLast(pass, begin, count);
}

cuda::ChoiceCall GpuStep::CallOf(const void* rows, const void* changes, const Tensor& logits_NV, int64_t first_row,
                                 int64_t first_of_step) const {
  cuda::ChoiceCall call;
  call.rows = static_cast<const cuda::ChosenRow*>(rows);
  call.changes = static_cast<const cuda::LogitChange*>(changes);
  call.logits_NV = logits_NV.const_data_ptr();
  call.first_row = first_row;
  call.vocabulary = logits_NV.size(1);
  call.sampled = sampled_->last.mutable_data_ptr<int32_t>() + first_of_step;
  call.sampled_before = sampled_->before.const_data_ptr<int32_t>();
  call.scratch_CV = FloatsOf(scratch_);
  call.logprobs = FloatsOf(logprobs_);
  return call;
}

void GpuStep::Choose(const Pass& pass, const int32_t* inputs, int64_t begin, int64_t count) {
  const Range range = RangeOf(pass.chosen, begin, count);
  if (range.count == 0) return;
  const cuda::ChosenRow* rows = ListAt<cuda::ChosenRow>(inputs, pass.choices_at) + range.first;
  cuda::ChooseRows(CallOf(rows, inputs + pass.changes_at, pass_logits_, begin, pass.first_row + begin), range.count,
                   CurrentCudaStream());
}

void GpuStep::KeepForLater(const Pass& pass, const int32_t* inputs, int64_t begin, int64_t count) {
  const Range range = RangeOf(pass.later, begin, count);
  if (range.count == 0) return;
  cuda::TakeRows(cuda::Type::kBfloat16, pass_logits_.const_data_ptr(),
                 ListAt<int64_t>(inputs, pass.later_at) + range.first,
                 later_.logits.narrow(0, later_.taken, range.count).mutable_data_ptr(), range.count,
                 pass_logits_.size(1), CurrentCudaStream());
  later_.taken += range.count;
}

void GpuStep::Score(const Pass& pass, const int32_t* inputs, int64_t begin, int64_t count) {
  const Range range = RangeOf(pass.scored, begin, count);
  if (range.count == 0) return;
  cuda::ScoreRows(ListAt<cuda::ScoredRow>(inputs, pass.scored_at) + range.first, range.count,
                  pass_logits_.const_data_ptr(), begin, pass_logits_.size(1),
                  scores_.mutable_data_ptr<float>() + pass.first_score + range.first, CurrentCudaStream());
}

void GpuStep::CopyAsked(const Pass& pass, int64_t begin, int64_t count) {
  const Range range = RangeOf(pass.asked, begin, count);
  if (range.count == 0) return;
  std::vector<int64_t> rows(pass.asked.begin() + range.first, pass.asked.begin() + range.first + range.count);
  for (int64_t& row : rows) row -= begin;
  const Tensor index = at::tensor(rows, at::kLong).to(pass_logits_.device());
  asked_.narrow(0, asked_copied_, range.count)
      .copy_(pass_logits_.index_select(0, index).to(at::kFloat), /*non_blocking=*/true);
  asked_copied_ += range.count;
}

// Few: prompts that end in the step.
void GpuStep::CopyLast(const Pass& pass, int64_t begin, int64_t count) {
  const Range range = RangeOf(pass.last, begin, count);
  for (int64_t i = range.first; i < range.first + range.count; ++i) {
    last_[last_copied_++].copy_(pass_logits_[pass.last[i] - begin], /*non_blocking=*/true);
  }
}

void GpuStep::EndPasses() {
  if (later_.rows.empty()) Finish();
}

void GpuStep::ChooseLater(const Masks& masks) {
  std::vector<cuda::ChosenRow> rows;
  Masks waited_for;
  for (size_t i = 0; i < later_.rows.size(); ++i) {
    const std::vector<uint32_t>* mask = masks[later_.items[i]];
    if (!mask) continue;
    later_.rows[i].mask_row = static_cast<int32_t>(rows.size());
    rows.push_back(later_.rows[i]);
    waited_for.push_back(mask);
  }
  if (!rows.empty()) ChooseAmong(rows, waited_for);
  Finish();
}

void GpuStep::ChooseAmong(const std::vector<cuda::ChosenRow>& rows, const Masks& masks) {
  size_t words = 0;
  for (const std::vector<uint32_t>* mask : masks) words = std::max(words, mask->size());
  // Rows, changes and masks in one copy; all of them hold words of four bytes.
  const size_t mask_bytes = words * sizeof(uint32_t);
  const size_t changes_at = rows.size() * sizeof(rows[0]);
  const size_t masks_at = changes_at + later_.changes.size() * sizeof(cuda::LogitChange);
  const Tensor host = at::empty({static_cast<int64_t>(masks_at + masks.size() * mask_bytes)},
                                at::TensorOptions(at::kByte).pinned_memory(true));
  uint8_t* to = host.mutable_data_ptr<uint8_t>();
  std::memcpy(to, rows.data(), changes_at);
  if (masks_at > changes_at) std::memcpy(to + changes_at, later_.changes.data(), masks_at - changes_at);
  std::memset(to + masks_at, 0, masks.size() * mask_bytes);
  for (size_t i = 0; i < masks.size(); ++i) {
    std::memcpy(to + masks_at + i * mask_bytes, masks[i]->data(), masks[i]->size() * sizeof(uint32_t));
  }
  const Tensor there = host.to(pass_logits_.device(), /*non_blocking=*/true);
  const uint8_t* from = there.const_data_ptr<uint8_t>();
  cuda::ChoiceCall call = CallOf(from, from + changes_at, later_.logits, 0, 0);
  call.masks = reinterpret_cast<const uint32_t*>(from + masks_at);
  call.mask_words = static_cast<int64_t>(words);
  cuda::ChooseRows(call, static_cast<int64_t>(rows.size()), CurrentCudaStream());
}

void GpuStep::Finish() {
  const at::TensorOptions pinned = at::TensorOptions().pinned_memory(true);
  tokens_ = at::empty({rows_}, pinned.dtype(at::kInt));
  tokens_.copy_(sampled_->last.narrow(0, 0, rows_), /*non_blocking=*/true);
  auto read = [&](const Tensor& from, Tensor* to) {
    if (!from.defined()) return;
    *to = at::empty(from.sizes(), pinned.dtype(at::kFloat));
    to->copy_(from, /*non_blocking=*/true);
  };
  read(logprobs_, &logprobs_read_);
  read(scores_, &scores_read_);
  done_->event.record();
}

void GpuStep::Wait() { done_->event.synchronize(); }

const int32_t* GpuStep::tokens() const { return tokens_.const_data_ptr<int32_t>(); }

void GpuStep::ReadLogprobs(size_t item, TokenInfo* token) const {
  const auto [row, alternatives] = logprobs_of_[item];
  if (row < 0) return;
  const float* values = logprobs_read_.const_data_ptr<float>() + row * cuda::kLogprobsWidth;
  token->logprob = values[0];
  for (int i = 0; i < alternatives; ++i) {
    token->alternatives.emplace_back(std::bit_cast<int32_t>(values[1 + 2 * i]), values[2 + 2 * i]);
  }
}

std::vector<float> GpuStep::last_logits(size_t item) const {
  const Tensor row = last_[last_of_[item]];
  const auto* values = row.const_data_ptr<at::BFloat16>();
  return {values, values + row.numel()};
}

const float* GpuStep::scores(size_t item) const { return scores_read_.const_data_ptr<float>() + scores_of_[item]; }

}  // namespace attune
