#ifndef ATTUNE_SERVER_ADAPTERS_MODEL_CARD_H_
#define ATTUNE_SERVER_ADAPTERS_MODEL_CARD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/adapters/model_info.h"

namespace attune {

// What a model's card tells that the model's own record does not hold: the exporter's caller gathers it from the job,
// the data and the comparison that it came of, as far as these are still there. What is empty is left out.
struct ModelCardFacts {
  using Lines = std::vector<std::pair<std::string, std::string>>;  // name and value, as people read them

  std::string dataset, validation_dataset;  // ids; without the latter a part of the former validates
  int64_t train_examples = 0, validation_examples = 0;
  int64_t cut_examples = 0, left_out_examples = 0;  // longer than the length limit: of the prompt, of the answer
  Lines settings;  // of the method and of training
  Lines cost;      // of tuning

  struct Figure {
    std::string title, value, interval, meaning;
  };
  // The comparison that made the model.
  struct Compared {
    std::string id;
    std::string standing;  // "Rank 1 of 5, the winner, by right labels on 2,189 test examples"
    std::string verdict;   // of the whole comparison, in plain words
    std::vector<Figure> figures;
  };
  std::optional<Compared> compared;
  // What was lost of other skills, in sentences; empty: not measured.
  std::string forgetting;
};

// The text of a README.md that tells a reader on Hugging Face's hub or on disk what the model is: method and settings,
// base model, data, figures with what they were measured on, and limits. `library` opens the files: "peft",
// "transformers" or "gguf".
std::string ModelCard(const ModelInfo& info, const ModelCardFacts& facts, absl::string_view library);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_MODEL_CARD_H_
