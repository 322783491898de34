#ifndef ATTUNE_CLIENT_CLI_DECODING_ARGS_H_
#define ATTUNE_CLIENT_CLI_DECODING_ARGS_H_

#include <CLI/App.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "attune/v1/generation_service.pb.h"

namespace attune::cli {

// What answers are to look like, and how they are searched for.
struct DecodingArgs {
  int32_t best_of = 0, beams = 0;
  std::optional<double> length_penalty;
  bool early_stopping = false;
  bool json_object = false;
  std::string json_schema, regex, grammar;  // schema and grammar: @FILE reads a file
  std::vector<std::string> choices;
  int32_t draft_tokens = 0;
  std::string draft_model;
  int32_t priority = 0;
  std::string tenant;

  void AddTo(CLI::App* command);
  // NOT_FOUND for a file that cannot be read.
  absl::Status Fill(v1::GenerateRequest* request) const;
};

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_DECODING_ARGS_H_
