#include "server/evaluation/prompt_search/candidate_pool.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "server/evaluation/prompt_search/example_selection.h"
#include "server/evaluation/prompt_search/instruction_edits.h"

namespace attune {
namespace {

using Selection = TextPromptSpec::Selection;

// Few changes are possible where there are few rows and labels: then a round has fewer prompts.
constexpr int64_t kTriesEach = 20;

}  // namespace

CandidatePool::CandidatePool(const SearchData* data, const SearchSettings* settings)
    : data_(data), settings_(settings), random_(settings->seed) {}

std::vector<int64_t> CandidatePool::DrawExamples(int64_t count) {
  const uint64_t seed = random_();
  bool by_label = settings_->selection != Selection::kDiverse;
  if (settings_->selection == Selection::kUnspecified) by_label = seed % 3 != 0;
  if (by_label && !data_->labels.empty()) return SelectByLabel(data_->train_answers, data_->eligible, count, seed);
  return SelectDiverse(data_->features, data_->eligible, count, seed);
}

void CandidatePool::ChooseExamples(int64_t count, Candidate* out) {
  constexpr int64_t kWays = 3;  // by label, diverse, similar: every third choice is the last
  const bool may_retrieve = data_->pool != nullptr && count > 0;
  const bool retrieves =
      may_retrieve && (settings_->selection == Selection::kSimilar || choices_++ % kWays == kWays - 1);
  out->examples.clear();
  out->retrieved = 0;
  if (!retrieves) {
    out->examples = DrawExamples(count);
    return;
  }
  out->retrieved = std::min(count, static_cast<int64_t>(data_->pool->rows.size()));
  out->format = data_->formats[0];  // in which the pool is embedded
}

void CandidatePool::Add(Candidate candidate, std::vector<Candidate>* out) {
  absl::StatusOr<TextPrompt> prompt = ToTextPrompt(candidate, data_->train, data_->pool);
  // One whose examples lack a column cannot be written.
  if (prompt.ok() && made_.insert(KeyOf(*prompt)).second) out->push_back(std::move(candidate));
}

std::vector<CandidatePool::Instruction> CandidatePool::FirstInstructions(
    const std::vector<std::string>& proposed) const {
  std::vector<Instruction> out;
  for (const std::string& text : settings_->instructions) out.push_back({text, "given"});
  const std::vector<std::string> plain = PlainInstructions(data_->labels);
  for (size_t i = 0; i < std::max(plain.size(), proposed.size()); ++i) {
    if (i < plain.size()) out.push_back({plain[plain.size() - 1 - i], "plain"});
    if (i < proposed.size()) out.push_back({proposed[i], "proposed"});
  }
  for (const std::string& text : settings_->instructions) {
    for (std::string& edit : EditInstruction(text, data_->labels)) out.push_back({std::move(edit), "edited"});
  }
  out.push_back({"", "examples"});
  return out;
}

std::vector<Candidate> CandidatePool::First(const std::vector<std::string>& proposed) {
  std::vector<Candidate> out;
  Add({"", data_->formats[0], {}, "baseline"}, &out);
  for (const std::string& text : settings_->instructions) Add({text, data_->formats[0], {}, "given"}, &out);
  const std::vector<Instruction> instructions = FirstInstructions(proposed);
  const int64_t most = settings_->max_examples;
  const int64_t counts[] = {most, most / 2, most, 0};
  for (int64_t i = 0; static_cast<int64_t>(out.size()) < settings_->candidates; ++i) {
    if (i == kTriesEach * settings_->candidates) break;
    const Instruction& instruction = instructions[i % instructions.size()];
    const PromptFormat& format = i % 2 == 0 ? data_->formats[0] : AnyFormat();
    Candidate candidate{instruction.text, format, {}, instruction.origin};
    ChooseExamples(counts[random_() % std::size(counts)], &candidate);
    Add(std::move(candidate), &out);
  }
  return out;
}

Candidate CandidatePool::Changed(const Candidate& parent, uint64_t change, const std::vector<std::string>& proposed) {
  Candidate out = parent;
  const int64_t most = settings_->max_examples;
  const int64_t examples = static_cast<int64_t>(parent.examples.size()) + parent.retrieved;
  const std::vector<std::string> edits = EditInstruction(parent.instruction, data_->labels);
  if (change == 0 && most > 0) {
    ChooseExamples(examples > 0 ? examples : most, &out);
    out.origin = "examples";
  } else if (change == 1 && !proposed.empty()) {
    out.instruction = proposed[random_() % proposed.size()];
    out.origin = "proposed";
  } else if (change == 2 && data_->formats.size() > 1 && parent.retrieved == 0) {
    out.format = AnyFormat();
    out.origin = "format";
  } else if (change == 3 && most > 0) {
    ChooseExamples(1 + static_cast<int64_t>(random_() % static_cast<uint64_t>(most)), &out);
    out.origin = "examples";
  } else if (change == 4 && parent.examples.size() > 1) {
    ShuffleBySeed(&out.examples, random_());
    out.origin = "order";
  } else {
    out.instruction = edits[random_() % edits.size()];
    out.origin = "edited";
  }
  return out;
}

std::vector<Candidate> CandidatePool::Next(const std::vector<Candidate>& best,
                                           const std::vector<std::string>& proposed) {
  constexpr int64_t kChanges = 6;
  std::vector<Candidate> out;
  for (int64_t i = 0; static_cast<int64_t>(out.size()) < settings_->candidates; ++i) {
    if (i == kTriesEach * settings_->candidates) break;
    // Every other one of the very best, the rest of all.
    const Candidate& parent = i % 2 == 0 ? best[0] : best[(i / 2) % best.size()];
    Add(Changed(parent, static_cast<uint64_t>(i % kChanges), proposed), &out);
  }
  return out;
}

}  // namespace attune
