#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PREPARED_PROMPT_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PREPARED_PROMPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/example.h"
#include "server/engine/engine.h"
#include "server/evaluation/choices.h"
#include "server/evaluation/prompt_search/candidate.h"
#include "server/evaluation/prompt_search/search_data.h"

namespace attune {

// A candidate, ready to be put to the model. Immutable.
class PreparedPrompt {
 public:
  // `model` and `data` must outlive it. INVALID_ARGUMENT (BAD_TEMPLATE).
  static absl::StatusOr<PreparedPrompt> Make(const ServedModel& model, const SearchData& data, Candidate candidate);

  const Candidate& candidate() const { return candidate_; }
  const TextPrompt& text() const { return text_; }
  const std::string& key() const { return key_; }
  // Whether each row gets examples of its own.
  bool retrieves() const { return text_.retrieved > 0; }
  // What `text` takes of every request, tokens; at most, where it retrieves.
  int64_t tokens() const { return tokens_; }
  // The longest request with its answer: rows are cut to this, as they are when it serves.
  int64_t max_tokens() const { return renderer_.options().max_tokens; }

  // What is to be scored of a row: the labels, or the expected answer. OUT_OF_RANGE if it does
  // not fit. Where the prompt retrieves, `query` and `left_out` are as in RendererFor.
  absl::StatusOr<ScoreParams> ParamsFor(const Row& row, const std::vector<float>& query = {},
                                        int64_t left_out = -1) const;
  // A row with every variable set to `text`, for calibration.
  absl::StatusOr<Row> ContentFreeRow(const std::string& text) const;

  // The row's score by the search's metric. `offsets` are the labels' (empty: none).
  absl::StatusOr<double> ScoreOf(const Row& row, const ScoreResult& result, const std::vector<double>& offsets) const;

 private:
  PreparedPrompt(const ServedModel* model, const SearchData* data, Candidate candidate, TextPrompt text,
                 ExampleRenderer renderer, ChoiceSet choices);

  const ServedModel* model_;
  const SearchData* data_;
  Candidate candidate_;
  TextPrompt text_;
  std::string key_;
  ExampleRenderer renderer_;  // of all rows, but not where it retrieves
  ChoiceSet choices_;
  int64_t tokens_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PREPARED_PROMPT_H_
