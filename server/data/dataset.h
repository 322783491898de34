#ifndef ATTUNE_SERVER_DATA_DATASET_H_
#define ATTUNE_SERVER_DATA_DATASET_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/data/template.h"
#include "server/tokenizer/chat_template.h"

namespace attune {

inline constexpr char kDefaultPromptTemplate[] = "{{prompt}}";
inline constexpr char kDefaultCompletionTemplate[] = "{{completion}}";

enum class DatasetFormat { kUnspecified = 0, kJsonl = 1, kCsv = 2, kTsv = 3 };
enum class DatasetKind { kUnspecified = 0, kPromptCompletion = 1, kChat = 2, kText = 3, kPreference = 4, kChatPreference = 5 };

// One good row.
struct Row {
  int64_t line = 0;                // in the upload, from 1
  Columns columns;                 // after the column mapping; numbers and booleans as their JSON text
  std::vector<ChatTurn> messages;  // for kChat
  std::string tools;               // of a chat: a JSON list's text, or empty
  std::vector<ChatTurn> chosen, rejected;  // for kChatPreference: whole chats, which differ in their last turn
};

// A bad one.
struct RowError {
  int64_t line = 0;
  std::string reason;
};

// What is known of a stored dataset. Fields as in proto/attune/v1/dataset.proto.
struct DatasetInfo {
  std::string id;
  std::string display_name;
  DatasetFormat format = DatasetFormat::kUnspecified;
  DatasetKind kind = DatasetKind::kUnspecified;
  std::string prompt_template;      // "{{prompt}}" unless given
  std::string completion_template;  // "{{completion}}" unless given
  std::map<std::string, std::string> column_mapping;
  std::map<std::string, std::string> labels;
  int64_t row_count = 0;
  int64_t skipped_row_count = 0;
  std::vector<RowError> row_errors;  // the first 20
  int64_t size_bytes = 0;
  std::string sha256;
  std::vector<std::string> columns;
  absl::Time create_time;
  int64_t position = 0;  // of its database row; orders listings
};

// Reads rows out of a whole upload. `info` gives format, kind, mapping and
// templates (kUnspecified means detect: by the first byte, and by the first good
// row); what was detected is written back to it with columns, row_count,
// skipped_row_count and row_errors. A row is bad if it is no JSON object / has
// another number of fields than the header, is not UTF-8, lacks a column that a
// template needs, has an empty completion or text, or a malformed `messages`
// (needs at least one assistant turn that trains, known roles, string contents: see chat_message.h) or `tools`; of
// preferences also if an answer is
// missing, empty or the same as the other, or if the chats before them differ.
// `on_row` is called for each good row, in order; it may be null.
// INVALID_ARGUMENT (EMPTY_DATASET) if there is no good row, (BAD_FORMAT) for a
// malformed header line, (BAD_TEMPLATE).
absl::Status ReadRows(absl::string_view bytes, DatasetInfo* info, const std::function<void(Row)>& on_row);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_DATASET_H_
