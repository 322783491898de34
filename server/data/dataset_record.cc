#include "server/data/dataset_record.h"

#include "common/error.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

using Json = nlohmann::json;

template <typename T>
void Read(const Json& json, const char* key, T* out) {
  auto it = json.find(key);
  if (it != json.end()) *out = it->get<T>();
}

DatasetInfo Decode(const Json& json) {
  DatasetInfo info;
  int64_t create_us = 0;
  Read(json, "display_name", &info.display_name);
  Read(json, "format", &info.format);
  Read(json, "kind", &info.kind);
  Read(json, "prompt_template", &info.prompt_template);
  Read(json, "completion_template", &info.completion_template);
  Read(json, "column_mapping", &info.column_mapping);
  Read(json, "labels", &info.labels);
  Read(json, "row_count", &info.row_count);
  Read(json, "skipped_row_count", &info.skipped_row_count);
  Read(json, "size_bytes", &info.size_bytes);
  Read(json, "sha256", &info.sha256);
  Read(json, "columns", &info.columns);
  Read(json, "create_time_us", &create_us);
  info.create_time = absl::FromUnixMicros(create_us);
  for (const Json& error : json.value("row_errors", Json::array())) {
    info.row_errors.push_back({error.value("line", int64_t{0}), error.value("reason", std::string())});
  }
  return info;
}

}  // namespace

std::string EncodeDatasetRecord(const DatasetInfo& info) {
  Json errors = Json::array();
  for (const RowError& error : info.row_errors) errors.push_back({{"line", error.line}, {"reason", error.reason}});
  Json json = {{"display_name", info.display_name},
               {"format", info.format},
               {"kind", info.kind},
               {"prompt_template", info.prompt_template},
               {"completion_template", info.completion_template},
               {"column_mapping", info.column_mapping},
               {"labels", info.labels},
               {"row_count", info.row_count},
               {"skipped_row_count", info.skipped_row_count},
               {"row_errors", errors},
               {"size_bytes", info.size_bytes},
               {"sha256", info.sha256},
               {"columns", info.columns},
               {"create_time_us", absl::ToUnixMicros(info.create_time)}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<DatasetInfo> DecodeDatasetRecord(absl::string_view text) {
  try {
    return Decode(Json::parse(text.data(), text.data() + text.size()));
  } catch (const Json::exception&) {
    return MakeError(absl::StatusCode::kInternal, "DATABASE_ERROR", "A dataset's description is damaged.");
  }
}

std::string RowsFileName(DatasetFormat format) {
  switch (format) {
    case DatasetFormat::kJsonl: return "rows.jsonl";
    case DatasetFormat::kTsv: return "rows.tsv";
    case DatasetFormat::kCsv:
    case DatasetFormat::kUnspecified: break;
  }
  return "rows.csv";
}

}  // namespace attune
