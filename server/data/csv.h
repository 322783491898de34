#ifndef ATTUNE_SERVER_DATA_CSV_H_
#define ATTUNE_SERVER_DATA_CSV_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace attune {

// One record of a table in text form.
struct CsvRecord {
  int64_t line = 0;  // where it starts, from 1
  std::vector<std::string> fields;
  std::string problem;  // empty if it is well-formed
};

// Splits a table into records. CSV as in RFC 4180: fields may be quoted, a quoted
// field may hold separators, line breaks and doubled quotes; lines end in LF or
// CRLF. TSV has no quoting. Empty lines are left out. Not thread-safe.
class CsvReader {
 public:
  enum class Dialect { kCsv, kTsv };
  // `bytes` must outlive the reader.
  CsvReader(absl::string_view bytes, Dialect dialect) : rest_(bytes), dialect_(dialect) {}

  // False at the end. A malformed record has `problem` set and its line consumed.
  bool Next(CsvRecord* record);

 private:
  void ReadQuoted(CsvRecord* record, std::string* field);
  void ReadPlain(std::string* field);
  // Whether the front is a line end, which is then consumed, or the end of all.
  bool TakeLineEnd();
  void SkipLine();

  absl::string_view rest_;
  Dialect dialect_;
  int64_t line_ = 1;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_CSV_H_
