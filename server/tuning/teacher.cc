#include "server/tuning/teacher.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/adapter.h"
#include "server/adapters/packed_ops.h"
#include "server/adapters/vocabulary.h"
#include "server/model/base_model.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

constexpr char kField[] = "tuning_job.distillation.teacher";
constexpr int64_t kPackedTokens = 2048, kLogitRows = 256;

// A row of the packed hidden states, and the loss token of an example that it predicts.
struct Predicted {
  int64_t row;
  Example* example;
  int64_t answer_token;
};

// The data's own token, and others with no probability.
void SayTheData(int32_t target, int64_t answer_token, TeacherTokens* teacher) {
  constexpr float kNever = -1e4f;
  for (int64_t i = 0; i < teacher->k; ++i) {
    const int32_t other = static_cast<int32_t>(i <= target ? i - 1 : i);
    teacher->ids[answer_token * teacher->k + i] = i == 0 ? target : other;
    teacher->log_probabilities[answer_token * teacher->k + i] = i == 0 ? 0.0f : kNever;
  }
}

// Sets what the teacher says where these rows stand, of the `vocabulary` tokens that there are.
void TakeLikeliest(const at::Tensor& hidden_TD, const BaseModel& base, const LoraAdapter* lora, double temperature,
                   int64_t vocabulary, int64_t k, const std::vector<Predicted>& predicted) {
  for (size_t begin = 0; begin < predicted.size(); begin += kLogitRows) {
    const size_t end = std::min(predicted.size(), begin + kLogitRows);
    std::vector<int64_t> rows;
    for (size_t i = begin; i < end; ++i) rows.push_back(predicted[i].row);
    const at::Tensor h = hidden_TD.index_select(0, at::tensor(rows, at::kLong).to(hidden_TD.device()));
    const at::Tensor uncapped = LogitsUnder(base.weights.head_VD, lora, h).narrow(1, 0, vocabulary).to(at::kFloat);
    const at::Tensor logits = CapLogits(base.config, uncapped) / temperature;
    const auto [values, ids] = at::topk(at::log_softmax(logits, 1), k, 1);
    const at::Tensor known = values.cpu().contiguous(), known_ids = ids.to(at::kInt).cpu().contiguous();
    for (size_t i = begin; i < end; ++i) {
      TeacherTokens& teacher = predicted[i].example->teacher;
      const int64_t from = static_cast<int64_t>(i - begin) * k, to = predicted[i].answer_token * k;
      std::copy_n(known_ids.const_data_ptr<int32_t>() + from, k, teacher.ids.begin() + to);
      std::copy_n(known.const_data_ptr<float>() + from, k, teacher.log_probabilities.begin() + to);
    }
  }
}

// Of examples that go through the model together.
void ScorePack(const BaseModel& base, const Adapter* adapter, double temperature, int64_t vocabulary, int64_t k,
               const std::vector<Example*>& pack) {
  const int64_t virtual_tokens = adapter ? adapter->virtual_tokens() : 0;
  std::vector<std::vector<int32_t>> sequences;
  std::vector<Predicted> predicted;
  int64_t first = virtual_tokens;  // row of the example's first token
  for (Example* example : pack) {
    const int64_t answer_tokens = std::count(example->has_loss.begin(), example->has_loss.end(), 1);
    example->teacher = {k, std::vector<int32_t>(answer_tokens * k), std::vector<float>(answer_tokens * k)};
    int64_t answer_token = 0;
    for (size_t t = 0; t < example->tokens.size(); ++t) {
      if (!example->has_loss[t]) continue;
      if (t > 0 || virtual_tokens > 0) {
        predicted.push_back({first + static_cast<int64_t>(t) - 1, example, answer_token});
      } else {
        SayTheData(example->tokens[t], answer_token, &example->teacher);
      }
      ++answer_token;
    }
    sequences.push_back(example->tokens);
    first += static_cast<int64_t>(example->tokens.size()) + virtual_tokens;
  }
  TakeLikeliest(AllHidden(base, adapter, sequences), base, adapter ? adapter->lora.get() : nullptr, temperature,
                vocabulary, k, predicted);
}

}  // namespace

absl::Status CheckTeacher(const ServedModel& teacher, const Tokenizer& tokenizer) {
  if (teacher.info.kind == ModelKind::kTextPrompt) {
    return InvalidField(kField, "must not be a text prompt: its answers are to other prompts");
  }
  const Tokenizer& other = teacher.tokenizer();
  bool is_same = other.vocab_size() == tokenizer.vocab_size();
  for (int32_t id = 0; is_same && id < tokenizer.vocab_size(); ++id)
    is_same = other.TokenBytes(id) == tokenizer.TokenBytes(id);
  return is_same ? absl::OkStatus() : InvalidField(kField, "must have the base model's tokens");
}

absl::Status ScoreTeacher(const ServedModel& teacher, const DistillationSpec& spec, Arbiter* arbiter,
                          const std::function<bool()>& stop, std::vector<Example>* examples) {
  // The table may have rows beyond the tokens, which the other model's has not.
  const int64_t vocabulary = std::min<int64_t>(teacher.tokenizer().vocab_size(), teacher.base->config.vocab);
  const int64_t k = std::min<int64_t>(spec.top_k > 0 ? spec.top_k : 16, vocabulary);
  const double temperature = spec.temperature > 0 ? spec.temperature : 1;
  size_t next = 0;
  while (next < examples->size()) {
    if (stop && stop()) return absl::CancelledError("stopped while the teacher read the examples");
    std::vector<Example*> pack;
    for (int64_t tokens = 0; next < examples->size(); ++next) {
      Example& example = (*examples)[next];
      const int64_t length = static_cast<int64_t>(example.tokens.size());
      if (length > teacher.context_tokens()) {
        return InvalidField(
            kField, absl::StrCat("has room for ", teacher.context_tokens(), " tokens, and an example has ", length,
                                 "; set data.max_sequence_tokens"));
      }
      if (!pack.empty() && tokens + length > kPackedTokens) break;
      tokens += length;
      pack.push_back(&example);
    }
    const Arbiter::Turn turn = arbiter ? arbiter->Acquire(WorkClass::kTraining, Sharing::kAlone) : Arbiter::Turn();
    ATTUNE_RETURN_IF_ERROR(CatchTorch([&] {
      at::NoGradGuard no_grad;
      ScorePack(*teacher.base, teacher.adapter.get(), temperature, vocabulary, k, pack);
      return absl::OkStatus();
    }));
  }
  return absl::OkStatus();
}

}  // namespace attune
