#include "server/evaluation/evaluator.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "server/evaluation/calibration.h"
#include "server/evaluation/choices.h"
#include "server/evaluation/example_retrieval.h"
#include "server/evaluation/tally.h"
#include "server/tokenizer/stream_decoder.h"

namespace attune {
namespace {

constexpr size_t kMostScored = 1024;                               // answers under way: each takes a page of the cache
constexpr int64_t kEmbeddedAhead = 16;                             // examples, where the prompt depends on them
constexpr absl::Duration kPollInterval = absl::Milliseconds(100);  // how often progress is told while waiting
constexpr absl::Duration kRetryInterval = absl::Milliseconds(50);  // after the engine's queue was full

// Where the engine leaves a score. Shared with its callback, which may come after
// the evaluation has been given up.
struct PendingScore {
  absl::Notification done;
  absl::StatusOr<ScoreResult> result = absl::UnknownError("not yet");
};

// One row on its way.
struct Item {
  const Row* row = nullptr;
  int64_t index = 0;
  std::vector<int32_t> prompt, answer;
  std::vector<uint8_t> has_loss;  // of the answer
  std::string expected;           // for exact match
  std::shared_ptr<PendingScore> score;
  std::unique_ptr<Generation> generation;  // null if not asked for
};

const std::string& FirstSet(const std::string& a, const std::string& b, const std::string& c) {
  return !a.empty() ? a : !b.empty() ? b : c;
}

// What a text prompt's calibration and its retrieved examples go with.
bool UsesOwnTemplates(const EvaluationOptions& options, const ServedModel& model, const DatasetInfo& data) {
  return options.prompt_template.empty() && options.completion_template.empty() && model.info.dataset_kind == data.kind;
}

double MeanLogprob(const ScoredContinuation& answer, const std::vector<uint8_t>& has_loss) {
  double sum = 0;
  int64_t count = 0;
  for (size_t i = 0; i < answer.tokens.size() && i < has_loss.size(); ++i) {
    if (!has_loss[i]) continue;
    sum += answer.tokens[i].logprob;
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

class Evaluation {
 public:
  Evaluation(Engine* engine, std::shared_ptr<const ServedModel> model, const EvaluationOptions& options,
             ExampleRenderer renderer, std::shared_ptr<const TextPrompt> retrieving, ChoiceSet choices,
             std::vector<double> offsets, const std::function<bool(int64_t, int64_t)>& on_progress)
      : engine_(engine),
        model_(std::move(model)),
        options_(options),
        renderer_(std::move(renderer)),
        retrieving_(std::move(retrieving)),
        choices_(std::move(choices)),
        offsets_(std::move(offsets)),
        on_progress_(on_progress) {}

  absl::StatusOr<EvaluationResult> Run(const std::vector<Row>& rows, int64_t total) {
    const absl::Time start = absl::Now();
    total_ = total;
    std::deque<Item> window;
    const size_t most = std::clamp<size_t>(kMostScored / (choices_.labels().size() + 1), 2,
                                           static_cast<size_t>(std::max<int64_t>(2, options_.most_under_way)));
    int64_t next = 0;
    while (next < total || !window.empty()) {
      while (next < total && window.size() < most) {
        ATTUNE_RETURN_IF_ERROR(EmbedAhead(rows, next));
        ATTUNE_ASSIGN_OR_RETURN(std::optional<Item> item, Prepare(rows[next], next));
        ++next;
        if (!item) {
          ++done_;
          continue;
        }
        ATTUNE_RETURN_IF_ERROR(Submit(&*item));
        window.push_back(*std::move(item));
      }
      if (!window.empty()) {
        ATTUNE_RETURN_IF_ERROR(Harvest(&window.front()));
        window.pop_front();
        ++done_;
      }
      ATTUNE_RETURN_IF_ERROR(Report());
    }
    if (tally_.examples() == 0) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "NO_USABLE_EXAMPLES",
                       "No example fits the length limit, so nothing can be measured.");
    }
    EvaluationResult result = tally_.Result();
    result.seconds = absl::ToDoubleSeconds(absl::Now() - start);
    return result;
  }

 private:
  absl::Status Report() {
    if (on_progress_(done_, total_)) return absl::OkStatus();
    return absl::CancelledError("The evaluation was stopped.");
  }

  // Where examples are retrieved: has the embeddings of this row and the next ones.
  absl::Status EmbedAhead(const std::vector<Row>& rows, int64_t next) {
    if (!retrieving_ || !queries_.empty()) return absl::OkStatus();
    std::vector<const Columns*> inputs;
    for (int64_t i = next; i < std::min(total_, next + kEmbeddedAhead); ++i) inputs.push_back(&rows[i].columns);
    const auto go_on = [this](int64_t, int64_t) { return on_progress_(done_, total_); };
    ATTUNE_ASSIGN_OR_RETURN(std::vector<std::vector<float>> queries,
                            EmbedQueries(engine_, model_, *retrieving_, inputs, go_on));
    queries_.assign(std::make_move_iterator(queries.begin()), std::make_move_iterator(queries.end()));
    return absl::OkStatus();
  }

  // The next row's own renderer; empty where all have the same.
  absl::StatusOr<std::optional<ExampleRenderer>> OwnRenderer(const Row& row) {
    if (!retrieving_) return std::optional<ExampleRenderer>();
    const std::vector<float> query = std::move(queries_.front());
    queries_.pop_front();
    return RendererFor(*model_, *retrieving_, renderer_.options(), row.columns, query,
                       ExampleOf(*retrieving_->pool, row.columns));
  }

  // Empty for a row that cannot be measured because it does not fit.
  absl::StatusOr<std::optional<Item>> Prepare(const Row& row, int64_t index) {
    ATTUNE_ASSIGN_OR_RETURN(const std::optional<ExampleRenderer> own, OwnRenderer(row));
    const ExampleRenderer& renderer = own ? *own : renderer_;
    absl::StatusOr<Example> example = renderer.Render(row, index);
    if (absl::IsOutOfRange(example.status())) return std::optional<Item>();
    if (!example.ok()) return example.status();
    // Something must come before the answer; of plain text that is the first token.
    const int64_t split = std::max<int64_t>(1, example->prompt_tokens);
    if (split >= static_cast<int64_t>(example->tokens.size())) return std::optional<Item>();
    Item item;
    item.row = &row;
    item.index = index;
    item.prompt.assign(example->tokens.begin(), example->tokens.begin() + split);
    item.answer.assign(example->tokens.begin() + split, example->tokens.end());
    item.has_loss.assign(example->has_loss.begin() + split, example->has_loss.end());
    // What an assistant calls is compared as the template writes it.
    const ChatTurn* const said = renderer.options().kind == DatasetKind::kChat ? LastAnswerTurn(row.messages) : nullptr;
    item.expected = said != nullptr && said->more.empty() ? said->content : std::move(example->completion);
    const int64_t room = std::max<int64_t>(choices_.longest(), options_.exact_match ? 1 : 0);
    if (split + room > model_->context_tokens()) {
      const int64_t answer = std::max<int64_t>(room, item.answer.size());
      absl::StatusOr<std::vector<int32_t>> shorter = renderer.RenderPrompt(row, answer, nullptr);
      if (absl::IsOutOfRange(shorter.status())) return std::optional<Item>();
      if (!shorter.ok()) return shorter.status();
      item.prompt = *std::move(shorter);
    }
    return std::optional<Item>(std::move(item));
  }

  // Waits while the engine's queue is full.
  absl::Status Submit(Item* item) {
    SubmitScore(item);
    if (!options_.exact_match) return absl::OkStatus();
    GenerateParams params;
    params.model = model_;
    params.priority = options_.priority;
    params.tenant = options_.tenant;
    params.prompt = item->prompt;
    const int64_t room = model_->context_tokens() - static_cast<int64_t>(item->prompt.size());
    params.max_tokens = static_cast<int>(std::min<int64_t>(options_.max_tokens, room));
    params.sampling.temperature = options_.temperature;
    params.sampling.seed = options_.seed * 1'000'003 + static_cast<uint64_t>(item->index);
    while (true) {
      absl::StatusOr<std::unique_ptr<Generation>> generation = engine_->Generate(params);
      if (generation.ok()) {
        item->generation = *std::move(generation);
        return absl::OkStatus();
      }
      if (!IsQueueFull(generation.status())) return generation.status();
      absl::SleepFor(kRetryInterval);
      ATTUNE_RETURN_IF_ERROR(Report());
    }
  }

  void SubmitScore(Item* item) {
    ScoreParams params;
    params.model = model_;
    params.priority = options_.priority;
    params.tenant = options_.tenant;
    params.prompt = item->prompt;
    params.continuations.push_back(item->answer);
    params.continuations.insert(params.continuations.end(), choices_.continuations().begin(),
                                choices_.continuations().end());
    item->score = std::make_shared<PendingScore>();
    engine_->ScoreAsync(std::move(params), [score = item->score](absl::StatusOr<ScoreResult> result) {
      score->result = std::move(result);
      score->done.Notify();
    });
  }

  absl::Status Harvest(Item* item) {
    while (true) {
      while (!item->score->done.WaitForNotificationWithTimeout(kPollInterval)) ATTUNE_RETURN_IF_ERROR(Report());
      if (item->score->result.ok()) break;
      if (!IsQueueFull(item->score->result.status())) return item->score->result.status();
      absl::SleepFor(kRetryInterval);
      ATTUNE_RETURN_IF_ERROR(Report());
      SubmitScore(item);
    }
    const std::vector<ScoredContinuation>& scored = item->score->result->continuations;
    if (scored.size() != choices_.labels().size() + 1) return absl::InternalError("The engine scored too few answers.");
    tally_.AddExample();
    tally_.AddAnswer(scored[0], item->has_loss);
    ExampleOutcome outcome;
    outcome.row = item->index;
    outcome.prompt_tokens = static_cast<int64_t>(item->prompt.size());
    outcome.logprob = MeanLogprob(scored[0], item->has_loss);
    if (choices_.empty()) outcome.expected = std::string(absl::StripAsciiWhitespace(item->expected));
    if (!choices_.empty()) {
      ATTUNE_ASSIGN_OR_RETURN(outcome.expected, choices_.LabelOf(*item->row));
      Choose(scored, &outcome);
      tally_.AddLabel(outcome.expected, outcome.predicted);
    }
    if (item->generation) ATTUNE_RETURN_IF_ERROR(HarvestGeneration(item, &outcome));
    if (options_.on_example) options_.on_example(outcome);
    return absl::OkStatus();
  }

  // The likeliest choice; the first of `scored` is the expected answer.
  void Choose(const std::vector<ScoredContinuation>& scored, ExampleOutcome* outcome) const {
    const std::vector<double> scores = LabelScores(absl::MakeConstSpan(scored).subspan(1), offsets_);
    const size_t best = Likeliest(scores);
    double sum = 0;
    for (double score : scores) sum += std::exp(score - scores[best]);
    outcome->predicted = choices_.labels()[best];
    outcome->is_right = outcome->predicted == outcome->expected;
    outcome->confidence = 1 / sum;
    double squares = 0;
    for (double score : scores) squares += std::exp(2 * (score - scores[best]));
    outcome->repeat = squares / (sum * sum);
  }

  absl::Status HarvestGeneration(Item* item, ExampleOutcome* outcome) {
    StreamDecoder decoder(model_->tokenizer_view, {});
    std::string text;
    GenerationUpdate update;
    while (item->generation->Next(&update)) {
      if (update.has_token) text += decoder.Add(update.token.id);
      ATTUNE_RETURN_IF_ERROR(Report());
    }
    ATTUNE_RETURN_IF_ERROR(item->generation->status());
    if (update.finish == FinishReason::kCancelled) return absl::CancelledError("The server stopped the generation.");
    text += decoder.Finish();
    const bool is_right = absl::StripAsciiWhitespace(text) == absl::StripAsciiWhitespace(item->expected);
    tally_.AddExactMatch(is_right);
    if (choices_.empty()) {
      outcome->predicted = std::string(absl::StripAsciiWhitespace(text));
      outcome->is_right = is_right;
    }
    item->generation.reset();
    return absl::OkStatus();
  }

  Engine* const engine_;
  const std::shared_ptr<const ServedModel> model_;
  const EvaluationOptions& options_;
  const ExampleRenderer renderer_;
  const std::shared_ptr<const TextPrompt> retrieving_;  // null: every row is rendered by `renderer_`
  const ChoiceSet choices_;
  const std::vector<double> offsets_;  // of the labels; empty: none
  const std::function<bool(int64_t, int64_t)>& on_progress_;
  std::deque<std::vector<float>> queries_;  // of the next rows
  Tally tally_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

RenderOptions RenderOptionsFor(const EvaluationOptions& options, const ServedModel& model, const DatasetInfo& data) {
  // Templates of another kind of row would not fit these columns.
  const bool same_kind = model.info.dataset_kind == data.kind;
  const std::string none;
  RenderOptions render;
  render.kind = data.kind;
  render.prompt_template =
      FirstSet(options.prompt_template, same_kind ? model.info.prompt_template : none, data.prompt_template);
  render.completion_template = FirstSet(options.completion_template, same_kind ? model.info.completion_template : none,
                                        data.completion_template);
  int64_t limit = options.max_sequence_tokens > 0 ? options.max_sequence_tokens : model.info.max_sequence_tokens;
  render.max_tokens = limit > 0 ? std::min(limit, model.context_tokens()) : model.context_tokens();
  return render;
}

absl::StatusOr<EvaluationResult> Evaluate(Engine* engine, std::shared_ptr<const ServedModel> model,
                                          const DatasetStore& datasets, const EvaluationOptions& options,
                                          const std::function<bool(int64_t, int64_t)>& on_progress) {
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, datasets.Get(options.dataset));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> rows, datasets.ReadRows(options.dataset));
  return EvaluateRows(engine, std::move(model), info, rows, options, on_progress);
}

absl::StatusOr<EvaluationResult> EvaluateRows(Engine* engine, std::shared_ptr<const ServedModel> model,
                                              const DatasetInfo& data, const std::vector<Row>& rows,
                                              const EvaluationOptions& options,
                                              const std::function<bool(int64_t, int64_t)>& on_progress) {
  RenderOptions render = RenderOptionsFor(options, *model, data);
  const std::vector<Row> none;
  ATTUNE_ASSIGN_OR_RETURN(ChoiceSet choices,
                          ChoiceSet::Make(model->tokenizer(), render.kind, render.completion_template, options.choices,
                                          options.derive_choices ? rows : none));
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer,
                          ExampleRenderer::Create(model->tokenizer_view, model->chat_template(), render));
  int64_t total = static_cast<int64_t>(rows.size());
  if (options.max_examples > 0) total = std::min(total, options.max_examples);
  std::vector<double> offsets;
  std::shared_ptr<const TextPrompt> retrieving;
  if (UsesOwnTemplates(options, *model, data)) {
    offsets = OffsetsFor(model->label_offsets, choices.labels());
    retrieving = model->retrieving_prompt;
  }
  Evaluation evaluation(engine, std::move(model), options, std::move(renderer), std::move(retrieving),
                        std::move(choices), std::move(offsets), on_progress);
  return evaluation.Run(rows, total);
}

}  // namespace attune
