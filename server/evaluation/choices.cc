#include "server/evaluation/choices.h"

#include <algorithm>
#include <set>

#include "common/error.h"
#include "server/data/text_encoder.h"
#include "server/evaluation/evaluator.h"

namespace attune {
namespace {

constexpr size_t kMostDerivedChoices = 100;

bool IsPrefix(const std::vector<int32_t>& shorter, const std::vector<int32_t>& longer) {
  return shorter.size() <= longer.size() && std::equal(shorter.begin(), shorter.end(), longer.begin());
}

}  // namespace

std::vector<std::vector<int32_t>> ChoiceContinuations(const Tokenizer& tokenizer,
                                                      const std::vector<std::string>& rendered_labels) {
  std::vector<std::vector<int32_t>> out;
  out.reserve(rendered_labels.size());
  TextEncoder encoder(&tokenizer);
  for (const std::string& label : rendered_labels) out.push_back(encoder.Continue(label, /*parse_special=*/false));
  if (tokenizer.eos_id() < 0) return out;
  // In lexical order a sequence comes right before the ones that begin with it.
  std::vector<size_t> order(out.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return out[a] < out[b]; });
  std::vector<size_t> ambiguous;
  for (size_t i = 0; i + 1 < order.size(); ++i) {
    if (IsPrefix(out[order[i]], out[order[i + 1]])) ambiguous.push_back(order[i]);
  }
  for (size_t i : ambiguous) out[i].push_back(tokenizer.eos_id());
  return out;
}

const ChatTurn* LastAnswerTurn(const std::vector<ChatTurn>& messages) {
  for (auto turn = messages.rbegin(); turn != messages.rend(); ++turn) {
    if (turn->role == "assistant" && turn->trains) return &*turn;
  }
  return nullptr;
}

std::string LastAnswer(const std::vector<ChatTurn>& messages) {
  const ChatTurn* const turn = LastAnswerTurn(messages);
  return turn == nullptr ? "" : turn->content.empty() ? turn->more : turn->content;
}

absl::StatusOr<std::string> ChoiceSet::LabelOf(const Row& row) const {
  if (kind_ == DatasetKind::kChat) return LastAnswer(row.messages);
  if (completion_.variables().size() != 1) return completion_.Render(row.columns);
  auto it = row.columns.find(completion_.variables()[0]);
  if (it == row.columns.end()) return completion_.Render(row.columns);  // gives the error that names the column
  return it->second;
}

int64_t ChoiceSet::longest() const {
  size_t most = 0;
  for (const auto& tokens : continuations_) most = std::max(most, tokens.size());
  return static_cast<int64_t>(most);
}

absl::StatusOr<ChoiceSet> ChoiceSet::Make(const Tokenizer& tokenizer, DatasetKind kind,
                                          const std::string& completion_template, std::vector<std::string> choices,
                                          const std::vector<Row>& rows) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(completion_template));
  ChoiceSet set(kind, std::move(completion));
  if (kind == DatasetKind::kText) return set;
  if (choices.empty()) {
    std::set<std::string> distinct;
    for (const Row& row : rows) {
      ATTUNE_ASSIGN_OR_RETURN(std::string label, set.LabelOf(row));
      distinct.insert(std::move(label));
      if (distinct.size() > kMostDerivedChoices) return set;
    }
    if (distinct.size() < 2) return set;
    choices.assign(distinct.begin(), distinct.end());
  }
  std::vector<std::string> rendered;
  for (const std::string& choice : choices) {
    std::string text = choice;
    if (kind == DatasetKind::kPromptCompletion && set.completion_.variables().size() == 1) {
      ATTUNE_ASSIGN_OR_RETURN(text, set.completion_.Render({{set.completion_.variables()[0], choice}}));
    }
    rendered.push_back(std::move(text));
  }
  set.continuations_ = ChoiceContinuations(tokenizer, rendered);
  for (const auto& tokens : set.continuations_) {
    if (tokens.empty()) return InvalidField("choices", "must each hold at least one token");
  }
  set.labels_ = std::move(choices);
  return set;
}

}  // namespace attune
