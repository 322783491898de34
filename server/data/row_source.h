#ifndef ATTUNE_SERVER_DATA_ROW_SOURCE_H_
#define ATTUNE_SERVER_DATA_ROW_SOURCE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/data/template.h"
#include "server/tokenizer/chat_template.h"

// From the bytes of a file to rows that are not checked yet.
namespace attune {

// A row as its format gives it, columns renamed.
struct RawRow {
  int64_t line = 0;
  Columns columns;  // text, numbers and booleans; other JSON values are left out
  bool has_messages = false;
  std::vector<ChatTurn> messages;
  std::string tools;    // of a chat, as ChatTemplate::Render takes them
  std::vector<ChatTurn> prompt, chosen, rejected;  // empty where these are no lists
  std::string problem;  // empty if it was well-formed
};

using RawRowFunction = std::function<void(RawRow)>;
using ColumnMapping = std::map<std::string, std::string>;

// One JSON object a line; empty lines are left out.
void ReadJsonlRows(absl::string_view bytes, const ColumnMapping& mapping, const RawRowFunction& on_row);

// A header line, then records. INVALID_ARGUMENT (BAD_FORMAT) if the header is
// malformed or, after the mapping, has a name twice.
absl::Status ReadTableRows(absl::string_view bytes, bool is_csv, const ColumnMapping& mapping,
                           const RawRowFunction& on_row);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_ROW_SOURCE_H_
