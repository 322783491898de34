#include "server/data/row_source.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/utf8.h"
#include "nlohmann/json.hpp"
#include "server/data/chat_message.h"
#include "server/data/csv.h"

namespace attune {
namespace {

using Json = nlohmann::ordered_json;

const std::string& Renamed(const std::string& name, const ColumnMapping& mapping) {
  auto it = mapping.find(name);
  return it == mapping.end() ? name : it->second;
}

// Reads the list of messages `name`; returns what is wrong with it, or an empty text.
std::string ReadTurns(const std::string& name, const Json& json, std::vector<ChatTurn>* turns) {
  if (!json.is_array() || json.empty()) return absl::StrCat("has '", name, "' that are no list with a message");
  turns->clear();
  for (const Json& message : json) {
    ChatTurn turn;
    const std::string problem = ReadMessage(message, &turn);
    if (!problem.empty()) {
      return absl::StrCat("has ", problem, " in message ", turns->size() + 1, name == "messages" ? "" : absl::StrCat(" of '", name, "'"));
    }
    turns->push_back(std::move(turn));
  }
  return "";
}

// Lists of tools may come as text, too.
std::string ReadToolsOfRow(const Json& json, RawRow* row) {
  const std::string problem = ReadTools(
      json.is_string() ? Json::parse(json.get<std::string>(), nullptr, /*allow_exceptions=*/false) : json, &row->tools);
  return problem.empty() ? "" : "has " + problem;
}

// Where the list `name` of a row is kept; null for other columns.
std::vector<ChatTurn>* TurnsOf(const std::string& name, RawRow* row) {
  if (name == "messages") return &row->messages;
  if (name == "prompt") return &row->prompt;
  if (name == "chosen") return &row->chosen;
  return name == "rejected" ? &row->rejected : nullptr;
}

void ReadValue(const std::string& name, const Json& value, RawRow* row) {
  std::vector<ChatTurn>* const turns = TurnsOf(name, row);
  const bool is_messages = name == "messages" && !value.is_string();
  if (is_messages || (turns != nullptr && value.is_array())) {
    row->has_messages = row->has_messages || is_messages;
    const std::string problem = ReadTurns(name, value, turns);
    if (row->problem.empty()) row->problem = problem;
  } else if (value.is_string()) {
    row->columns[name] = value.get<std::string>();
  } else if (value.is_number() || value.is_boolean()) {
    row->columns[name] = value.dump();
  }
}

RawRow ReadJsonRow(absl::string_view line, const ColumnMapping& mapping) {
  RawRow row;
  if (!IsValidUtf8(line)) {
    row.problem = "is not UTF-8";
    return row;
  }
  const Json json = Json::parse(line.data(), line.data() + line.size(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    row.problem = "is not valid JSON";
  } else if (!json.is_object()) {
    row.problem = "is not a JSON object";
  } else {
    // Renamed columns come second, so that they win over one that has the new name already.
    for (bool renamed : {false, true}) {
      for (const auto& [name, value] : json.items()) {
        if ((mapping.count(name) > 0) == renamed) ReadValue(Renamed(name, mapping), value, &row);
      }
    }
    const auto tools = json.find("tools");
    const bool is_chat = row.has_messages || !row.prompt.empty() || !row.chosen.empty();
    if (is_chat && row.problem.empty() && tools != json.end() && !tools->is_null()) {
      row.problem = ReadToolsOfRow(*tools, &row);
    }
  }
  return row;
}

absl::Status BadHeader(absl::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_FORMAT", absl::StrCat("The header line ", what, "."));
}

// The names of the columns, by position.
absl::StatusOr<std::vector<std::string>> ReadHeader(const CsvRecord& record, const ColumnMapping& mapping) {
  if (!record.problem.empty()) return BadHeader(record.problem);
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const std::string& field : record.fields) {
    if (!IsValidUtf8(field)) return BadHeader("is not UTF-8");
    std::string name(absl::StripAsciiWhitespace(field));
    // Tables written with an index column leave its name empty.
    if (name.empty()) name = absl::StrCat("column", names.size() + 1);
    names.push_back(Renamed(name, mapping));
    if (!seen.insert(names.back()).second) return BadHeader(absl::StrCat("has the column '", names.back(), "' twice"));
  }
  return names;
}

}  // namespace

void ReadJsonlRows(absl::string_view bytes, const ColumnMapping& mapping, const RawRowFunction& on_row) {
  for (int64_t number = 1; !bytes.empty(); ++number) {
    size_t end = std::min(bytes.find('\n'), bytes.size());
    absl::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    RawRow row = ReadJsonRow(line, mapping);
    row.line = number;
    on_row(std::move(row));
  }
}

absl::Status ReadTableRows(absl::string_view bytes, bool is_csv, const ColumnMapping& mapping,
                           const RawRowFunction& on_row) {
  CsvReader reader(bytes, is_csv ? CsvReader::Dialect::kCsv : CsvReader::Dialect::kTsv);
  CsvRecord record;
  if (!reader.Next(&record)) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> names, ReadHeader(record, mapping));
  while (reader.Next(&record)) {
    RawRow row;
    row.line = record.line;
    row.problem = record.problem;
    if (row.problem.empty() && record.fields.size() != names.size()) {
      row.problem = absl::StrCat("has ", record.fields.size(), " fields where the header has ", names.size());
    }
    for (size_t i = 0; row.problem.empty() && i < names.size(); ++i) {
      if (!IsValidUtf8(record.fields[i])) row.problem = "is not UTF-8";
      row.columns[names[i]] = std::move(record.fields[i]);
    }
    on_row(std::move(row));
  }
  return absl::OkStatus();
}

}  // namespace attune
