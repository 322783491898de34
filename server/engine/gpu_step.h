#ifndef ATTUNE_SERVER_ENGINE_GPU_STEP_H_
#define ATTUNE_SERVER_ENGINE_GPU_STEP_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "server/engine/engine.h"
#include "server/engine/model_runner.h"
#include "server/model/kernels/cuda/launch.h"

namespace attune {

// What a GpuRunner's steps have chosen of one model's logits. It stays on the device, where the next step reads it.
struct SampledTokens {
  at::Tensor last;    // int32: the token after each wanted row of the last step
  at::Tensor before;  // the step before's, for choices that have to know it
};

// What becomes of the logits of one step on a GPU: tokens chosen from them, tokens scored, and rows that the host asked
// for. The runner adds passes, one after the other; whoever wanted the step has what waited chosen, waits and reads. Launches on the
// calling thread's stream, which must always be the same. Throws what libtorch throws. Not thread-safe.
class GpuStep {
 public:
  // Of these items, all of the step's. `logits`: bf16, where each pass's are put, a row each, as many at a time as it has
  // rows. `sampled` must outlive this.
  GpuStep(const std::vector<ForwardItem>& items, const at::Tensor& logits, SampledTokens* sampled);
  ~GpuStep();

  // What one pass's logits are for. Rows are counted among its wanted ones, and rise; the lists' offsets are into its inputs.
  struct Pass {
    int64_t first_row = 0;  // among the step's wanted rows, where this pass's begin
    std::vector<int64_t> chosen;             // whose token is chosen otherwise than as the likeliest
    int64_t choices_at = 0, changes_at = 0;
    std::vector<int64_t> later;              // whose choice waits for a mask
    int64_t later_at = 0;                    // int64: where in the buffer of logits they are
    std::vector<int64_t> scored;             // of which a token is scored
    int64_t scored_at = 0;
    int64_t first_score = 0;                 // among the step's, where this pass's begin
    std::vector<int64_t> asked;              // that the host asked for
    std::vector<int64_t> last;               // that it asked for besides, one of an item
  };
  // The step's next pass, of its next items. Puts their lists behind its `inputs`.
  Pass AddPass(const std::vector<ForwardItem>& items, std::vector<int32_t>* inputs);
  // Does what is to be done with the pass's wanted rows [begin, begin + count), whose logits are there, and whose likeliest
  // tokens are chosen. `inputs`: the pass's, on the device.
  void Take(const Pass& pass, const int32_t* inputs, int64_t begin, int64_t count);
  // After the last pass: what was chosen goes to the host, unless choices wait for ChooseLater.
  void EndPasses();
  // Chooses the tokens of the items that wait for a mask, among those that it allows. `masks`: by item, words as
  // GrammarState::Allowed's; null where nobody waits any more, or never did. After EndPasses, before the model's next step.
  void ChooseLater(const std::vector<const std::vector<uint32_t>*>& masks);

  // Blocks until the device has done the step.
  void Wait();
  // After Wait: the token chosen after each wanted token, in item order: by the item's choice after
  // its last one, else the likeliest.
  const int32_t* tokens() const;
  // After Wait: what the item's choice wants to know besides; nothing if it wants nothing.
  void ReadLogprobs(size_t item, TokenInfo* token) const;
  // After Wait: of an item whose tokens are scored, their log-probabilities, a row each.
  const float* scores(size_t item) const;
  // After Wait: of an item that wants its last logits, those.
  std::vector<float> last_logits(size_t item) const;
  // fp32 on the CPU, a row for each wanted token of the items that wanted logits.
  const at::Tensor& logits() const { return asked_; }

 private:
  struct Event;
  struct Lists;
  using Masks = std::vector<const std::vector<uint32_t>*>;

  // Puts an item's choice after the pass's wanted row `row` on the lists, or aside if it waits.
  void AddChoice(const ForwardItem& item, int64_t row, Pass* pass, Lists* lists);
  // The five things that Take does, each with those of its rows that it is about.
  void Choose(const Pass& pass, const int32_t* inputs, int64_t begin, int64_t count);
  void KeepForLater(const Pass& pass, const int32_t* inputs, int64_t begin, int64_t count);
  void Score(const Pass& pass, const int32_t* inputs, int64_t begin, int64_t count);
  void CopyAsked(const Pass& pass, int64_t begin, int64_t count);
  void CopyLast(const Pass& pass, int64_t begin, int64_t count);
  // Chooses after rows that waited, each of which has one of the masks.
  void ChooseAmong(const std::vector<cuda::ChosenRow>& rows, const Masks& masks);
  // A call that chooses after rows of logits_NV, the first of which is the pass's wanted row `first_row` and the step's
  // `first_of_step`; `rows` and `changes` are on the device.
  cuda::ChoiceCall CallOf(const void* rows, const void* changes, const at::Tensor& logits_NV, int64_t first_row,
                          int64_t first_of_step) const;
  // Copies what was chosen to the host.
  void Finish();

  const at::Tensor pass_logits_;
  SampledTokens* const sampled_;
  size_t items_ = 0;  // that were added
  int64_t rows_ = 0;  // wanted ones, of those
  at::Tensor tokens_;
  std::unique_ptr<Event> done_;
  at::Tensor asked_;
  int64_t asked_copied_ = 0;                             // rows
  at::Tensor last_;                                      // bf16, pinned
  int64_t last_copied_ = 0;                              // rows
  std::vector<int64_t> last_of_;                         // by item: its row there, or -1
  int64_t scratch_used_ = 0, logprobs_used_ = 0;         // rows
  at::Tensor scratch_, logprobs_;                        // fp32, on the device
  at::Tensor logprobs_read_;                             // pinned
  int64_t scores_used_ = 0;
  at::Tensor scores_, scores_read_;                      // fp32, on the device; pinned
  std::vector<int64_t> scores_of_;                       // by item: where its scores begin
  std::vector<std::pair<int64_t, int32_t>> logprobs_of_;  // by item: its row, and how many alternatives; or -1
  // What waits for masks: by place, the item, how its token is chosen, and the row of logits, bf16.
  struct Later {
    std::vector<size_t> items;
    std::vector<cuda::ChosenRow> rows;
    std::vector<cuda::LogitChange> changes;
    at::Tensor logits;
    int64_t taken = 0;  // rows of logits that are there
  } later_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_GPU_STEP_H_
