#include "server/comparison/model_paraphrases.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/comparison/parts.h"
#include "server/evaluation/measures/token_f1.h"
#include "server/evaluation/question.h"

namespace attune {
namespace {

constexpr int64_t kMostTokens = 256;
constexpr double kLeastShared = 0.3, kMostShared = 0.95, kLengthFactor = 2;

// A row whose input is to be said in other words.
struct Asked {
  size_t row = 0;  // of the variants
  std::string column;
};

// The first of each group, which is as it was.
absl::StatusOr<std::vector<Asked>> Originals(const Variants& variants) {
  std::vector<Asked> originals;
  std::set<int64_t> seen;
  for (size_t i = 0; i < variants.group.size(); ++i) {
    if (!seen.insert(variants.group[i]).second) continue;
    ATTUNE_ASSIGN_OR_RETURN(std::optional<std::string> column, InputColumn(variants.task.data, variants.task.rows[i]));
    if (column) originals.push_back({i, *std::move(column)});
  }
  return originals;
}

}  // namespace

bool MayParaphrase(absl::string_view text, absl::string_view other) {
  const double length = static_cast<double>(text.size()), said = static_cast<double>(other.size());
  if (said * kLengthFactor < length || said > length * kLengthFactor) return false;
  const std::string reference(text);
  const double shared = TokenF1(other, absl::MakeConstSpan(&reference, 1));
  return shared >= kLeastShared && shared <= kMostShared;
}

absl::Status AddModelParaphrases(Engine* engine, std::shared_ptr<const ServedModel> base, uint64_t seed, const GoOn& go_on,
                                 Variants* variants) {
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<Asked> originals, Originals(*variants));
  std::vector<Asked> asked;
  std::vector<GenerateParams> all;
  for (const Asked& original : originals) {
    const std::string& text = variants->task.rows[original.row].columns.at(original.column);
    GenerateParams params;
    params.model = base;
    params.priority = kBackgroundPriority;
    params.tenant = variants->task.tenant;
    ATTUNE_ASSIGN_OR_RETURN(params.prompt,
                            QuestionTokens(*base, absl::StrCat("Say this in other words. Keep its meaning, and write nothing "
                                                               "else.\n\n", text), "In other words:"));
    const int64_t room = base->context_tokens() - static_cast<int64_t>(params.prompt.size());
    if (room < 1) continue;
    params.max_tokens = static_cast<int>(std::min(room, kMostTokens));
    params.sampling.temperature = 0.7;
    params.sampling.seed = seed + original.row;
    all.push_back(std::move(params));
    asked.push_back(original);
  }
  return GenerateAll(engine, all, go_on, [&](size_t i, const std::vector<int32_t>& tokens) {
    Row row = variants->task.rows[asked[i].row];
    std::string& text = row.columns.at(asked[i].column);
    std::string said(absl::StripAsciiWhitespace(base->tokenizer().Decode(tokens, /*skip_special=*/true)));
    if (!MayParaphrase(text, said)) return;
    text = std::move(said);
    variants->task.rows.push_back(std::move(row));
    variants->group.push_back(variants->group[asked[i].row]);
  });
}

}  // namespace attune
