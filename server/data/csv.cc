#include "server/data/csv.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace attune {

bool CsvReader::TakeLineEnd() {
  if (rest_.empty()) return true;
  size_t size = absl::StartsWith(rest_, "\r\n") ? 2 : rest_[0] == '\n' ? 1 : 0;
  rest_.remove_prefix(size);
  if (size > 0) ++line_;
  return size > 0;
}

void CsvReader::SkipLine() {
  size_t end = std::min(rest_.find('\n'), rest_.size());
  rest_.remove_prefix(end);
  TakeLineEnd();
}

// Reads up to the separator or the line end.
void CsvReader::ReadPlain(std::string* field) {
  const char separator = dialect_ == Dialect::kCsv ? ',' : '\t';
  size_t end = 0;
  while (end < rest_.size() && rest_[end] != separator && rest_[end] != '\n') ++end;
  size_t size = end;
  if (size > 0 && end < rest_.size() && rest_[end] == '\n' && rest_[end - 1] == '\r') --size;
  field->assign(rest_.data(), size);
  rest_.remove_prefix(size);
}

// Reads from an opening quote through the closing one.
void CsvReader::ReadQuoted(CsvRecord* record, std::string* field) {
  rest_.remove_prefix(1);
  for (;;) {
    size_t quote = rest_.find('"');
    if (quote == absl::string_view::npos) {
      record->problem = "has a quote that is never closed";
      rest_ = {};
      return;
    }
    absl::string_view piece = rest_.substr(0, quote);
    field->append(piece.data(), piece.size());
    line_ += std::count(piece.begin(), piece.end(), '\n');
    rest_.remove_prefix(quote + 1);
    if (!absl::StartsWith(rest_, "\"")) return;
    *field += '"';
    rest_.remove_prefix(1);
  }
}

bool CsvReader::Next(CsvRecord* record) {
  while (!rest_.empty() && TakeLineEnd()) {
  }
  if (rest_.empty()) return false;
  *record = CsvRecord();
  record->line = line_;
  const char separator = dialect_ == Dialect::kCsv ? ',' : '\t';
  for (;;) {
    std::string& field = record->fields.emplace_back();
    if (dialect_ == Dialect::kCsv && absl::StartsWith(rest_, "\"")) {
      ReadQuoted(record, &field);
    } else {
      ReadPlain(&field);
    }
    if (TakeLineEnd()) return true;
    if (rest_[0] != separator) {
      record->problem = "has text after a closing quote";
      SkipLine();
      return true;
    }
    rest_.remove_prefix(1);
  }
}

}  // namespace attune
