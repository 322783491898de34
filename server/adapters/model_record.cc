#include "server/adapters/model_record.h"

#include "common/error.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

using Json = nlohmann::json;

Json EncodeArchitecture(const Architecture& a) {
  return {{"family", a.family},
          {"layers", a.layers},
          {"hidden_size", a.hidden_size},
          {"intermediate_size", a.intermediate_size},
          {"attention_heads", a.attention_heads},
          {"key_value_heads", a.key_value_heads},
          {"vocabulary_size", a.vocabulary_size},
          {"context_tokens", a.context_tokens},
          {"parameters", a.parameters}};
}

Architecture DecodeArchitecture(const Json& json) {
  Architecture a;
  json.at("family").get_to(a.family);
  json.at("layers").get_to(a.layers);
  json.at("hidden_size").get_to(a.hidden_size);
  json.at("intermediate_size").get_to(a.intermediate_size);
  json.at("attention_heads").get_to(a.attention_heads);
  json.at("key_value_heads").get_to(a.key_value_heads);
  json.at("vocabulary_size").get_to(a.vocabulary_size);
  json.at("context_tokens").get_to(a.context_tokens);
  json.at("parameters").get_to(a.parameters);
  return a;
}

ModelInfo Decode(const Json& json) {
  ModelInfo info;
  int64_t create_us = 0;
  json.at("display_name").get_to(info.display_name);
  json.at("description").get_to(info.description);
  json.at("labels").get_to(info.labels);
  json.at("kind").get_to(info.kind);
  json.at("prompt_template").get_to(info.prompt_template);
  json.at("completion_template").get_to(info.completion_template);
  json.at("dataset_kind").get_to(info.dataset_kind);
  json.at("max_sequence_tokens").get_to(info.max_sequence_tokens);
  json.at("size_bytes").get_to(info.size_bytes);
  json.at("create_time_us").get_to(create_us);
  info.architecture = DecodeArchitecture(json.at("architecture"));
  for (const auto& [name, value] : json.at("metrics").items()) {
    if (value.is_number()) info.metrics[name] = value.get<double>();  // JSON writes NaN as null
  }
  info.create_time = absl::FromUnixMicros(create_us);
  return info;
}

}  // namespace

std::string EncodeModelRecord(const ModelInfo& info) {
  Json json = {{"display_name", info.display_name},
               {"description", info.description},
               {"labels", info.labels},
               {"kind", info.kind},
               {"prompt_template", info.prompt_template},
               {"completion_template", info.completion_template},
               {"dataset_kind", info.dataset_kind},
               {"max_sequence_tokens", info.max_sequence_tokens},
               {"architecture", EncodeArchitecture(info.architecture)},
               {"size_bytes", info.size_bytes},
               {"metrics", info.metrics},
               {"create_time_us", absl::ToUnixMicros(info.create_time)}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<ModelInfo> DecodeModelRecord(absl::string_view text) {
  try {
    return Decode(Json::parse(text.data(), text.data() + text.size()));
  } catch (const Json::exception&) {
    return MakeError(absl::StatusCode::kInternal, "DATABASE_ERROR", "A model's description is damaged.");
  }
}

}  // namespace attune
