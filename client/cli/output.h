#ifndef ATTUNE_CLIENT_CLI_OUTPUT_H_
#define ATTUNE_CLIENT_CLI_OUTPUT_H_

#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>

#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "attune/v1/evaluation_service.pb.h"

// How the command writes things: numbers for people, tables, JSON. All pure
// but for the streams written to.
namespace attune::cli {

std::string FormatBytes(int64_t bytes);        // "512 B", "12.3 KiB", "1.2 GiB"
std::string FormatCount(double count);         // "950", "1.2k", "134.5M"
std::string FormatSeconds(double seconds);     // "0.4s", "12s", "1m32s", "2h05m", "3d04h"
std::string FormatNumber(double value);        // "0.412", "1.23e-05": three figures
// "12s ago", "5m ago", "3h ago", "2d ago"; "" for no time.
std::string FormatAge(const google::protobuf::Timestamp& time, absl::Time now);
// "0.912 [0.884, 0.934]": value and 95% interval.
std::string FormatProportion(const v1::Proportion& proportion);
// Control characters replaced, so that text from elsewhere cannot steer the terminal.
std::string Printable(const std::string& text);
// In quotes, with \n, \t and the like written out.
std::string Quoted(const std::string& text);

// Rows under a header, columns as wide as their widest cell. A column of
// numbers (units may follow them, cells may be empty) is aligned to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  // As many cells as the header has; those left out are empty. Empty cells show as "-".
  void Add(std::vector<std::string> row);
  void Print(std::ostream& out) const;
  bool empty() const { return rows_.empty(); }

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

// "name  value" lines, aligned; pairs without a value are left out.
void PrintFields(std::ostream& out, const std::vector<std::pair<std::string, std::string>>& fields);

// "a=1, b=2" of a map, in key order.
template <typename Map>
std::string FormatLabels(const Map& labels) {
  std::map<std::string, std::string> sorted(labels.begin(), labels.end());
  return absl::StrJoin(sorted, ", ", absl::PairFormatter("="));
}

// One message as proto JSON with the proto's field names: indented, or on one line.
void PrintJson(std::ostream& out, const google::protobuf::Message& message);
void PrintJsonLine(std::ostream& out, const google::protobuf::Message& message);
// {"key": [items]}.
void PrintJsonList(std::ostream& out, absl::string_view key,
                   const std::vector<const google::protobuf::Message*>& items);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_OUTPUT_H_
