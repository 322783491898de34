// Any bytes as an upload. The first byte chooses format and kind.
#include <cstdint>
#include <cstdlib>

#include "common/utf8.h"
#include "server/data/dataset.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  if (size == 0) return 0;
  DatasetInfo info;
  info.format = static_cast<DatasetFormat>(data[0] & 3);
  info.kind = static_cast<DatasetKind>(data[0] >> 2 & 3);
  if (data[0] & 16) info.column_mapping = {{"a", "prompt"}, {"b", "completion"}, {"c", "messages"}};
  if (data[0] & 32) info.prompt_template = "{{a}}: {{b}}";
  int64_t rows = 0, line = 0;
  absl::Status status = ReadRows(absl::string_view(reinterpret_cast<const char*>(data) + 1, size - 1), &info,
                                 [&](const Row& row) {
                                   ++rows;
                                   if (row.line <= line) std::abort();
                                   line = row.line;
                                   for (const auto& [name, value] : row.columns) {
                                     if (!IsValidUtf8(name) || !IsValidUtf8(value)) std::abort();
                                   }
                                 });
  if (rows != info.row_count || (status.ok() && rows == 0)) std::abort();
  return 0;
}
