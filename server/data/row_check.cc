#include "server/data/row_check.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

bool IsBlank(absl::string_view text) { return absl::StripAsciiWhitespace(text).empty(); }

std::string MissingVariable(const PromptTemplate& source, const Columns& columns) {
  for (const std::string& name : source.variables()) {
    if (columns.find(name) == columns.end()) return absl::StrCat("lacks the column '", name, "' as text or number");
  }
  return "";
}

bool HasAnswer(const std::vector<ChatTurn>& turns) {
  return std::any_of(turns.begin(), turns.end(), [](const ChatTurn& turn) { return turn.role == "assistant"; });
}

bool HasTrainedAnswer(const std::vector<ChatTurn>& turns) {
  return std::any_of(turns.begin(), turns.end(), [](const ChatTurn& turn) { return turn.role == "assistant" && turn.trains; });
}

// One answer's whole chat: a list as it is, or a text behind the prompt. What is wrong with it.
std::string JoinChat(const RawRow& row, const std::string& name, const std::vector<ChatTurn>& turns,
                     std::vector<ChatTurn>* chat) {
  *chat = row.prompt.empty() ? row.messages : row.prompt;
  const auto text = row.columns.find(name);
  if (!turns.empty()) {
    chat->insert(chat->end(), turns.begin(), turns.end());
  } else if (text != row.columns.end()) {
    if (IsBlank(text->second)) return absl::StrCat("has an empty '", name, "'");
    chat->push_back({"assistant", text->second});
  } else {
    return absl::StrCat("lacks '", name, "' as text or list of messages");
  }
  if (chat->back().role != "assistant") return absl::StrCat("has a '", name, "' that does not end with the assistant");
  return chat->size() < 2 ? "has no message before the answers" : "";
}

}  // namespace

std::string JoinChatPreference(const RawRow& row, Row* joined) {
  if (!row.prompt.empty() && row.has_messages) return "has both 'prompt' and 'messages'";
  std::string problem = JoinChat(row, "chosen", row.chosen, &joined->chosen);
  if (problem.empty()) problem = JoinChat(row, "rejected", row.rejected, &joined->rejected);
  if (!problem.empty()) return problem;
  const auto is_same = [](const ChatTurn& a, const ChatTurn& b) {
    return a.role == b.role && a.content == b.content && a.more == b.more;
  };
  for (const std::vector<ChatTurn>* chat : {&joined->chosen, &joined->rejected}) {
    const auto trains = [](const ChatTurn& turn) { return turn.trains; };
    if (!std::all_of(chat->begin(), chat->end(), trains)) return "has an answer of weight 0, which preferences do not know";
  }
  const bool same_before = std::equal(joined->chosen.begin(), joined->chosen.end() - 1, joined->rejected.begin(),
                                      joined->rejected.end() - 1, is_same);
  if (!same_before) return "has 'chosen' and 'rejected' that differ before the last answer";
  return is_same(joined->chosen.back(), joined->rejected.back()) ? "has the same answer as 'chosen' and 'rejected'" : "";
}

RowCheck::RowCheck(DatasetKind kind, bool has_templates, PromptTemplate prompt, PromptTemplate completion)
    : kind_(kind), has_templates_(has_templates), prompt_(std::move(prompt)), completion_(std::move(completion)) {}

absl::StatusOr<RowCheck> RowCheck::Create(const DatasetInfo& info) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate prompt, PromptTemplate::Parse(info.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(info.completion_template));
  bool has_templates = info.prompt_template != kDefaultPromptTemplate ||
                       info.completion_template != kDefaultCompletionTemplate;
  return RowCheck(info.kind, has_templates, std::move(prompt), std::move(completion));
}

bool RowCheck::HasPreference(const RawRow& row) const {
  const bool has_chosen = !row.chosen.empty() || row.columns.count("chosen") > 0;
  const bool has_rejected = !row.rejected.empty() || row.columns.count("rejected") > 0;
  if (!has_chosen || !has_rejected || row.columns.count("completion") > 0) return false;
  const auto& used = completion_.variables();
  return std::find(used.begin(), used.end(), "completion") != used.end();
}

DatasetKind RowCheck::Detect(const RawRow& row) const {
  if (HasPreference(row)) {
    const bool is_chat = row.has_messages || !row.prompt.empty() || !row.chosen.empty() || !row.rejected.empty();
    return is_chat ? DatasetKind::kChatPreference : DatasetKind::kPreference;
  }
  if (has_templates_) return DatasetKind::kPromptCompletion;
  if (row.has_messages) return DatasetKind::kChat;
  if (MissingVariable(prompt_, row.columns).empty() && MissingVariable(completion_, row.columns).empty()) {
    return DatasetKind::kPromptCompletion;
  }
  return row.columns.count("text") > 0 ? DatasetKind::kText : DatasetKind::kUnspecified;
}

std::string RowCheck::PromptCompletionProblem(const Columns& columns) const {
  for (const PromptTemplate* source : {&prompt_, &completion_}) {
    std::string missing = MissingVariable(*source, columns);
    if (!missing.empty()) return missing;
  }
  absl::StatusOr<std::string> completion = completion_.Render(columns);
  return !completion.ok() || IsBlank(*completion) ? "has an empty completion" : "";
}

std::string RowCheck::PreferenceProblem(Columns columns) const {
  for (const char* name : {"chosen", "rejected"}) {
    const auto answer = columns.find(name);
    if (answer == columns.end()) return absl::StrCat("lacks the column '", name, "' as text or number");
    if (IsBlank(answer->second)) return absl::StrCat("has an empty '", name, "'");
  }
  if (columns["chosen"] == columns["rejected"]) return "has the same answer as 'chosen' and 'rejected'";
  columns["completion"] = columns["chosen"];
  return PromptCompletionProblem(columns);
}

std::string RowCheck::Problem(const RawRow& row) {
  if (!row.problem.empty()) return row.problem;
  DatasetKind kind = kind_ == DatasetKind::kUnspecified ? Detect(row) : kind_;
  std::string problem;
  switch (kind) {
    case DatasetKind::kUnspecified:
      return "has neither 'prompt' and 'completion' nor 'messages' nor 'text' nor 'chosen' and 'rejected'; map its columns or give templates";
    case DatasetKind::kPromptCompletion:
      problem = PromptCompletionProblem(row.columns);
      break;
    case DatasetKind::kChat:
      if (!row.has_messages) {
        problem = "lacks 'messages'";
      } else if (!HasAnswer(row.messages)) {
        problem = "has no message of the assistant";
      } else if (!HasTrainedAnswer(row.messages)) {
        problem = "has no message of the assistant with a weight above 0";
      }
      break;
    case DatasetKind::kPreference:
      problem = PreferenceProblem(row.columns);
      break;
    case DatasetKind::kChatPreference: {
      Row joined;
      problem = JoinChatPreference(row, &joined);
      break;
    }
    case DatasetKind::kText: {
      auto text = row.columns.find("text");
      if (text == row.columns.end()) {
        problem = "lacks the column 'text'";
      } else if (IsBlank(text->second)) {
        problem = "has an empty text";
      }
      break;
    }
  }
  if (problem.empty()) kind_ = kind;
  return problem;
}

}  // namespace attune
