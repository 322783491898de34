#include "client/cli/output.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/utf8.h"

namespace attune::cli {
namespace {

std::string Scaled(double value, double step, const std::vector<std::string>& units) {
  size_t unit = 0;
  // The bound is where one decimal would round up to the next unit.
  while (unit + 1 < units.size() && std::abs(value) >= step - 0.05) {
    value /= step;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%.0f%s", value, units[0]) : absl::StrFormat("%.1f%s", value, units[unit]);
}

// Columns that UTF-8 text takes, one per character: good enough for ids, labels and words.
size_t Width(const std::string& text) { return CountUtf8Characters(text); }

bool LooksLikeNumber(absl::string_view cell) {
  if (cell.size() > 1 && cell[0] == '-') cell.remove_prefix(1);
  return !cell.empty() && absl::ascii_isdigit(static_cast<unsigned char>(cell[0]));
}

std::string Pad(const std::string& text, size_t width, bool right) {
  size_t have = Width(text);
  std::string space(width > have ? width - have : 0, ' ');
  return right ? space + text : text + space;
}

std::string ToJson(const google::protobuf::Message& message, bool indent) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = indent;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  // Fails only for text that is no UTF-8, which proto3 does not carry.
  if (!status.ok()) json = "{}";
  while (!json.empty() && json.back() == '\n') json.pop_back();
  return json;
}

}  // namespace

std::string FormatBytes(int64_t bytes) {
  return Scaled(static_cast<double>(bytes), 1024, {" B", " KiB", " MiB", " GiB", " TiB"});
}

std::string FormatCount(double count) { return Scaled(count, 1000, {"", "k", "M", "B", "T"}); }

std::string FormatEnergy(double joules) { return Scaled(joules, 1000, {" J", " kJ", " MJ", " GJ"}); }

std::string FormatSeconds(double seconds) {
  if (seconds < 9.95) return absl::StrFormat("%.1fs", std::max(0.0, seconds));
  int64_t s = std::llround(seconds);
  if (s < 60) return absl::StrFormat("%ds", s);
  if (s < 3600) return absl::StrFormat("%dm%02ds", s / 60, s % 60);
  if (s < 86400) return absl::StrFormat("%dh%02dm", s / 3600, s / 60 % 60);
  return absl::StrFormat("%dd%02dh", s / 86400, s / 3600 % 24);
}

std::string FormatNumber(double value) {
  double size = std::abs(value);
  if (size != 0 && (size < 1e-3 || size >= 1e6)) return absl::StrFormat("%.3g", value);
  return absl::StrFormat("%.3f", value);
}

std::string FormatAge(const google::protobuf::Timestamp& time, absl::Time now) {
  if (time.seconds() == 0 && time.nanos() == 0) return "";
  int64_t s = std::max<int64_t>(0, absl::ToInt64Seconds(now - absl::FromUnixSeconds(time.seconds())));
  if (s < 60) return absl::StrCat(s, "s ago");
  if (s < 3600) return absl::StrCat(s / 60, "m ago");
  if (s < 86400) return absl::StrCat(s / 3600, "h ago");
  return absl::StrCat(s / 86400, "d ago");
}

std::string FormatProportion(const v1::Proportion& p) {
  return absl::StrFormat("%.3f [%.3f, %.3f]", p.value(), p.lower(), p.upper());
}

std::string Printable(const std::string& text) {
  std::string out = text;
  for (char& c : out) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\n' && c != '\t') c = '?';
  }
  return out;
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (c == '\r') out += "\\r";
    else if (c == '"' || c == '\\') absl::StrAppend(&out, "\\", std::string(1, c));
    else if (absl::ascii_iscntrl(c)) absl::StrAppendFormat(&out, "\\x%02x", c);
    else out += static_cast<char>(c);
  }
  return out + "\"";
}

void Table::Add(std::vector<std::string> row) {
  row.resize(header_.size());
  for (std::string& cell : row) {
    cell = Printable(cell);
    std::replace(cell.begin(), cell.end(), '\n', ' ');
    std::replace(cell.begin(), cell.end(), '\t', ' ');
    if (cell.empty()) cell.assign(1, '-');
  }
  rows_.push_back(std::move(row));
}

void Table::Print(std::ostream& out) const {
  const size_t columns = header_.size();
  std::vector<size_t> width(columns);
  std::vector<bool> right(columns);
  for (size_t i = 0; i < columns; ++i) {
    width[i] = Width(header_[i]);
    bool only_numbers = true, any_number = false;
    for (const auto& row : rows_) {
      width[i] = std::max(width[i], Width(row[i]));
      bool number = LooksLikeNumber(row[i]);
      only_numbers = only_numbers && (number || row[i] == "-");
      any_number = any_number || number;
    }
    right[i] = only_numbers && any_number;
  }
  auto print = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t i = 0; i < columns; ++i) absl::StrAppend(&line, i == 0 ? "" : "  ", Pad(row[i], width[i], right[i]));
    out << absl::StripTrailingAsciiWhitespace(line) << "\n";
  };
  print(header_);
  for (const auto& row : rows_) print(row);
}

void PrintFields(std::ostream& out, const std::vector<std::pair<std::string, std::string>>& fields) {
  size_t width = 0;
  for (const auto& [name, value] : fields) {
    if (!value.empty()) width = std::max(width, Width(name));
  }
  for (const auto& [name, value] : fields) {
    if (!value.empty()) out << Pad(name, width, false) << "  " << Printable(value) << "\n";
  }
}

void PrintJson(std::ostream& out, const google::protobuf::Message& message) { out << ToJson(message, true) << "\n"; }

void PrintJsonLine(std::ostream& out, const google::protobuf::Message& message) {
  out << ToJson(message, false) << std::endl;
}

void PrintJsonList(std::ostream& out, absl::string_view key,
                   const std::vector<const google::protobuf::Message*>& items) {
  out << "{\"" << key << "\": [";
  const char* separator = "\n";
  for (const google::protobuf::Message* item : items) {
    out << separator << ToJson(*item, true);
    separator = ",\n";
  }
  out << (items.empty() ? "]}\n" : "\n]}\n");
}

}  // namespace attune::cli
