#ifndef ATTUNE_SERVER_ADAPTERS_MODEL_INFO_H_
#define ATTUNE_SERVER_ADAPTERS_MODEL_INFO_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/time/time.h"
#include "server/data/dataset.h"

namespace attune {

enum class ModelKind { kBase = 1, kFullWeights = 2, kLora = 3, kSoftPrompt = 4, kPrefix = 5, kIa3 = 6, kTextPrompt = 7 };

// Whether it is a small artifact over a base model's weights.
inline bool IsAdapter(ModelKind kind) { return kind >= ModelKind::kLora; }
// Whether it puts virtual tokens before the input, and so has nothing that could be merged into weights.
inline bool HasVirtualTokens(ModelKind kind) { return kind == ModelKind::kSoftPrompt || kind == ModelKind::kPrefix; }

// Shape of the network, for people.
struct Architecture {
  std::string family;
  int64_t layers = 0, hidden_size = 0, intermediate_size = 0;
  int64_t attention_heads = 0, key_value_heads = 0;
  int64_t vocabulary_size = 0, context_tokens = 0, parameters = 0;
};

// What is known of a stored model. Fields as in proto/attune/v1/model.proto.
struct ModelInfo {
  std::string id;
  std::string display_name, description;
  std::map<std::string, std::string> labels;
  ModelKind kind = ModelKind::kBase;
  std::string base_model;  // id of the model it was tuned from; empty for imported base models
  std::string tuning_job;  // id
  std::string prompt_template, completion_template;
  DatasetKind dataset_kind = DatasetKind::kUnspecified;
  int64_t max_sequence_tokens = 0;  // the length limit it was tuned with; 0: none
  Architecture architecture;
  int64_t size_bytes = 0;
  std::map<std::string, double> metrics;
  absl::Time create_time;
  std::string etag;
  int64_t position = 0;  // of its database row; orders listings
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_MODEL_INFO_H_
