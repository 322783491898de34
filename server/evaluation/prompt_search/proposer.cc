#include "server/evaluation/prompt_search/proposer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "common/file.h"
#include "common/utf8.h"
#include "server/evaluation/prompt_search/instruction_text.h"
#include "server/evaluation/question.h"
#include "server/tokenizer/stream_decoder.h"

namespace attune {
namespace {

constexpr int kMostTokens = 80;                                    // of an instruction
constexpr size_t kMostShownBytes = 300;                            // of a row's input
constexpr absl::Duration kRetryInterval = absl::Milliseconds(50);  // after the engine's queue was full

std::string Shortened(const std::string& text) {
  if (text.size() <= kMostShownBytes) return text;
  return absl::StrCat(text.substr(0, CharacterStartBefore(text, kMostShownBytes)), "...");
}

}  // namespace

absl::StatusOr<std::string> Proposer::Describe(const std::vector<int64_t>& train_rows) const {
  const PromptFormat& format = host_.data->formats[0];
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate input, PromptTemplate::Parse(format.input_template));
  std::string out;
  for (int64_t index : train_rows) {
    std::string shown;
    for (const std::string& name : input.variables()) {
      const auto it = host_.data->train[index].columns.find(name);
      if (it != host_.data->train[index].columns.end()) absl::StrAppend(&shown, shown.empty() ? "" : " ", it->second);
    }
    absl::StrAppend(&out, "Input: ", Shortened(shown), "\nAnswer: ", Shortened(host_.data->train_answers[index]),
                    "\n\n");
  }
  return out;
}

absl::StatusOr<std::vector<std::string>> Proposer::FromExamples(const std::vector<int64_t>& train_rows, int count) {
  if (train_rows.empty()) return std::vector<std::string>();
  ATTUNE_ASSIGN_OR_RETURN(std::string rows, Describe(train_rows));
  return Ask(absl::StrCat("Here are inputs with the right answers.\n\n", rows,
                          "Write one short instruction that tells someone who sees only an input how to give the right "
                          "answer. Write the instruction alone."),
             count);
}

absl::StatusOr<std::vector<std::string>> Proposer::FromErrors(const std::string& instruction,
                                                              const std::vector<int64_t>& train_rows, int count) {
  ATTUNE_ASSIGN_OR_RETURN(std::string rows, Describe(train_rows));
  return Ask(absl::StrCat("This instruction is given: ", instruction.empty() ? "(none)" : instruction,
                          "\n\nWith it, inputs such as these are answered wrongly. The right answers are:\n\n", rows,
                          "Write a better instruction, one that leads to these answers. Write the instruction alone."),
             count);
}

absl::StatusOr<std::vector<std::string>> Proposer::Ask(const std::string& question, int count) {
  Sha256 hash;
  hash.Update(absl::StrCat(count, ":", question));
  const std::string key = hash.Finish();
  if (const auto known = host_.memo->written.find(key); known != host_.memo->written.end()) {
    return CleanInstructions(known->second);
  }
  GenerateParams params;
  params.model = host_.model;
  ATTUNE_ASSIGN_OR_RETURN(params.prompt, QuestionTokens(*host_.model, question, "Instruction:"));
  const int64_t tokens = static_cast<int64_t>(params.prompt.size()) + kMostTokens;
  const bool fits = tokens <= host_.model->context_tokens();
  if (!fits || !HasBudget(*host_.settings, *host_.memo, count - 1, tokens * count)) return std::vector<std::string>();
  params.n = count;
  params.max_tokens = kMostTokens;
  params.sampling.temperature = 0.9;
  params.sampling.top_p = 0.95;
  params.sampling.seed = host_.settings->seed;
  params.priority = kBackgroundPriority;
  params.tenant = host_.tenant;
  const absl::Time start = absl::Now();
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> written, Generate(params));
  host_.memo->calls += count;
  host_.memo->tokens += tokens * count;
  host_.memo->seconds += absl::ToDoubleSeconds(absl::Now() - start);
  std::vector<std::string> instructions = CleanInstructions(written);
  host_.memo->written[key] = std::move(written);
  ATTUNE_RETURN_IF_ERROR(host_.on_call());
  return instructions;
}

absl::StatusOr<std::vector<std::string>> Proposer::Generate(const GenerateParams& params) {
  std::vector<StreamDecoder> decoders(params.n, StreamDecoder(host_.model->tokenizer_view, {}));
  std::vector<std::string> written(params.n);
  if (host_.stop_request() != StopRequest::kNone) return SearchStopped();
  absl::StatusOr<std::unique_ptr<Generation>> generation = host_.engine->Generate(params);
  while (IsQueueFull(generation.status())) {
    if (host_.stop_request() != StopRequest::kNone) return SearchStopped();
    absl::SleepFor(kRetryInterval);
    generation = host_.engine->Generate(params);
  }
  if (!generation.ok()) return AwaitStop(host_, generation.status());
  GenerationUpdate update;
  while ((*generation)->Next(&update)) {
    if (host_.stop_request() != StopRequest::kNone) return SearchStopped();
    if (update.finish == FinishReason::kCancelled)
      return AwaitStop(host_, absl::CancelledError("The server stopped it."));
    if (update.has_token) written[update.index] += decoders[update.index].Add(update.token.id);
  }
  if (!(*generation)->status().ok()) return AwaitStop(host_, (*generation)->status());
  for (size_t i = 0; i < written.size(); ++i) written[i] += decoders[i].Finish();
  return written;
}

}  // namespace attune
