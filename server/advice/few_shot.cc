#include "server/advice/few_shot.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"
#include "server/data/template.h"

namespace attune {
namespace {

// Each label's rows, the one at the lower quartile first, then longer ones, then the shortest; commonest label first.
std::vector<std::vector<int64_t>> ByLabel(const std::vector<SplitRow>& rows, bool has_labels,
                                          const std::vector<double>& tokens) {
  std::map<std::string, std::vector<int64_t>> groups;
  for (size_t i = 0; i < rows.size(); ++i) groups[has_labels ? rows[i].label : ""].push_back(static_cast<int64_t>(i));
  std::vector<std::vector<int64_t>> ordered;
  for (auto& [label, group] : groups) {
    std::stable_sort(group.begin(), group.end(), [&](int64_t a, int64_t b) { return tokens[a] < tokens[b]; });
    std::rotate(group.begin(), group.begin() + static_cast<int64_t>(group.size()) / 4, group.end());
    ordered.push_back(std::move(group));
  }
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  return ordered;
}

// As text of a template: "{{" would begin a variable.
std::string Escaped(const std::string& text) { return absl::StrReplaceAll(text, {{"{{", "\\{{"}}); }

void PutTurns(const std::vector<Row>& shots, Row* row) {
  std::vector<ChatTurn> turns;
  for (const Row& shot : shots) {
    for (const ChatTurn& turn : shot.messages) {
      if (turn.role != "system") turns.push_back(turn);
    }
  }
  const bool has_system = !row->messages.empty() && row->messages[0].role == "system";
  row->messages.insert(row->messages.begin() + has_system, turns.begin(), turns.end());
}

}  // namespace

std::vector<int64_t> ChooseShots(const std::vector<SplitRow>& rows, bool has_labels, const std::vector<double>& tokens,
                                 int64_t most, double room) {
  const std::vector<std::vector<int64_t>> labels = ByLabel(rows, has_labels, tokens);
  std::vector<int64_t> shots;
  for (size_t round = 0; static_cast<int64_t>(shots.size()) < most; ++round) {
    bool has_more = false;
    for (const std::vector<int64_t>& group : labels) {
      if (round >= group.size() || static_cast<int64_t>(shots.size()) >= most) continue;
      has_more = true;
      if (tokens[group[round]] > room) continue;
      room -= tokens[group[round]];
      shots.push_back(group[round]);
    }
    if (!has_more) break;
  }
  std::reverse(shots.begin(), shots.end());
  return shots;
}

absl::StatusOr<EvalTask> WithShots(const EvalTask& task, const std::vector<Row>& shots) {
  EvalTask shown = task;
  if (task.data.kind == DatasetKind::kChat) {
    for (Row& row : shown.rows) PutTurns(shots, &row);
    return shown;
  }
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate prompt, PromptTemplate::Parse(task.data.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(task.data.completion_template));
  std::string text;
  for (const Row& shot : shots) {
    ATTUNE_ASSIGN_OR_RETURN(std::string question, prompt.Render(shot.columns));
    ATTUNE_ASSIGN_OR_RETURN(std::string answer, completion.Render(shot.columns));
    absl::StrAppend(&text, Escaped(question), Escaped(answer), "\n\n");
  }
  shown.data.prompt_template = text + task.data.prompt_template;
  return shown;
}

}  // namespace attune
