#include "server/comparison/side_effects.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/parts.h"
#include "server/evaluation/measures/agreement.h"
#include "server/evaluation/measures/bootstrap.h"
#include "server/evaluation/measures/paraphrase.h"
#include "server/evaluation/measures/wilson.h"
#include "server/evaluation/probe/probe.h"

namespace attune {
namespace {

constexpr size_t kWindow = 64;             // requests under way at once
constexpr int kBeginningTokens = 16, kWrittenTokens = 32;  // of each text that the base model writes
constexpr int kTextsAParagraph = 2;
constexpr absl::Duration kPoll = absl::Milliseconds(100), kRetry = absl::Milliseconds(50);

absl::Status Stopped() { return absl::CancelledError("The comparison was stopped."); }

struct Pending {
  absl::Notification done;
  absl::StatusOr<ScoreResult> result = absl::UnknownError("not yet");
};

// Waits for a score, asking again where the engine's queue was full.
absl::StatusOr<ScoreResult> Await(Engine* engine, const ScoreParams& params, std::shared_ptr<Pending> pending,
                                  const std::function<bool()>& go_on) {
  while (true) {
    while (!pending->done.WaitForNotificationWithTimeout(kPoll)) {
      if (!go_on()) return Stopped();
    }
    if (pending->result.ok() || !IsQueueFull(pending->result.status())) return std::move(pending->result);
    absl::SleepFor(kRetry);
    if (!go_on()) return Stopped();
    pending = std::make_shared<Pending>();
    engine->ScoreAsync(params, [pending](absl::StatusOr<ScoreResult> result) {
      pending->result = std::move(result);
      pending->done.Notify();
    });
  }
}

// Scores all, many at a time, and hands the results out in order.
absl::Status ScoreAll(Engine* engine, const std::vector<ScoreParams>& all, const GoOn& go_on,
                      const std::function<void(size_t, const ScoreResult&)>& on_result) {
  std::vector<std::shared_ptr<Pending>> pending(all.size());
  const int64_t total = static_cast<int64_t>(all.size());
  size_t submitted = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    for (; submitted < all.size() && submitted < i + kWindow; ++submitted) {
      pending[submitted] = std::make_shared<Pending>();
      engine->ScoreAsync(all[submitted], [one = pending[submitted]](absl::StatusOr<ScoreResult> result) {
        one->result = std::move(result);
        one->done.Notify();
      });
    }
    const int64_t done = static_cast<int64_t>(i);
    ATTUNE_ASSIGN_OR_RETURN(ScoreResult result, Await(engine, all[i], pending[i], [&] { return go_on(done, total); }));
    on_result(i, result);
    pending[i] = nullptr;
  }
  return absl::OkStatus();
}

// Of a text by itself, as a request's plain prompt is tokenised.
std::vector<int32_t> Tokens(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> tokens = tokenizer.Encode(text, /*parse_special=*/false);
  if (tokenizer.add_bos() && tokenizer.bos_id() >= 0) tokens.insert(tokens.begin(), tokenizer.bos_id());
  return tokens;
}

// Begins to write on; waits while the engine's queue is full.
absl::StatusOr<std::unique_ptr<Generation>> BeginText(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                      const std::vector<int32_t>& prompt, uint64_t seed,
                                                      const std::function<bool()>& go_on) {
  GenerateParams params;
  params.model = std::move(model);
  params.prompt = prompt;
  params.max_tokens = kWrittenTokens;
  params.ignore_eos = true;
  params.sampling.temperature = 1;
  params.sampling.seed = seed;
  while (true) {
    absl::StatusOr<std::unique_ptr<Generation>> generation = engine->Generate(params);
    if (generation.ok() || !IsQueueFull(generation.status())) return generation;
    absl::SleepFor(kRetry);
    if (!go_on()) return Stopped();
  }
}

absl::StatusOr<std::vector<int32_t>> Written(Generation* generation) {
  std::vector<int32_t> tokens;
  GenerationUpdate update;
  while (generation->Next(&update)) {
    if (update.has_token) tokens.push_back(update.token.id);
  }
  if (!generation->status().ok()) return generation->status();
  return tokens;
}

Measure MeanOf(absl::string_view name, const std::vector<double>& values) {
  if (values.empty()) return {std::string(name)};
  const Interval interval = BootstrapMean(values, BootstrapOptions());
  return {std::string(name), interval.value, interval.lower, interval.upper, static_cast<int64_t>(values.size())};
}

}  // namespace

absl::StatusOr<std::vector<double>> AnswerProbe(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                const GoOn& go_on) {
  const std::vector<ProbeItem>& items = BuiltInProbe();
  std::vector<ScoreParams> asked;
  for (const ProbeItem& item : items) {
    ScoreParams params;
    params.model = model;
    params.prompt = Tokens(model->tokenizer(), item.prompt);
    for (const std::string& choice : item.choices) {
      params.continuations.push_back(model->tokenizer().Encode(choice, /*parse_special=*/false));
    }
    asked.push_back(std::move(params));
  }
  std::vector<double> right(items.size());
  ATTUNE_RETURN_IF_ERROR(ScoreAll(engine, asked, go_on, [&](size_t i, const ScoreResult& result) {
    const auto best = std::max_element(result.continuations.begin(), result.continuations.end(),
                                       [](const auto& a, const auto& b) { return a.logprob < b.logprob; });
    right[i] = best - result.continuations.begin() == items[i].answer;
  }));
  return right;
}

Measure ProbeAccuracyOf(const std::vector<double>& right) {
  const int64_t count = static_cast<int64_t>(right.size());
  const Proportion share = WilsonInterval(static_cast<int64_t>(std::accumulate(right.begin(), right.end(), 0.0)), count);
  return {std::string(kProbeAccuracy), share.value, share.lower, share.upper, count};
}

Measure ForgettingOf(const std::vector<double>& base, const std::vector<double>& tuned) {
  std::vector<double> lost(base.size());
  for (size_t i = 0; i < base.size(); ++i) lost[i] = base[i] - tuned[i];
  return MeanOf(kForgetting, lost);
}

absl::StatusOr<OwnText> WriteOwnText(Engine* engine, std::shared_ptr<const ServedModel> base, const GoOn& go_on) {
  OwnText text;
  const std::vector<std::string>& paragraphs = BuiltInProbeText();
  const int64_t total = static_cast<int64_t>(paragraphs.size()) * kTextsAParagraph;
  std::vector<std::unique_ptr<Generation>> running;
  for (size_t i = 0; i < paragraphs.size(); ++i) {
    std::vector<int32_t> prompt = Tokens(base->tokenizer(), paragraphs[i]);
    prompt.resize(std::min<size_t>(prompt.size(), kBeginningTokens));
    for (int copy = 0; copy < kTextsAParagraph; ++copy) {
      const uint64_t seed = i * kTextsAParagraph + copy;
      ATTUNE_ASSIGN_OR_RETURN(running.emplace_back(),
                              BeginText(engine, base, prompt, seed, [&] { return go_on(0, total); }));
      text.prompts.push_back(prompt);
    }
  }
  for (const std::unique_ptr<Generation>& generation : running) {
    if (!go_on(static_cast<int64_t>(text.continuations.size()), total)) return Stopped();
    ATTUNE_ASSIGN_OR_RETURN(text.continuations.emplace_back(), Written(generation.get()));
  }
  // By the same road as the tuned model's, so that rounding is the same.
  std::vector<ScoreParams> asked;
  for (size_t i = 0; i < text.prompts.size(); ++i) asked.push_back({base, text.prompts[i], {text.continuations[i]}});
  ATTUNE_RETURN_IF_ERROR(ScoreAll(engine, asked, go_on, [&](size_t, const ScoreResult& result) {
    text.logprobs.emplace_back();
    for (const TokenInfo& token : result.continuations[0].tokens) text.logprobs.back().push_back(token.logprob);
  }));
  return text;
}

absl::StatusOr<Measure> DivergenceFrom(Engine* engine, const OwnText& text, std::shared_ptr<const ServedModel> tuned,
                                       const GoOn& go_on) {
  std::vector<ScoreParams> asked;
  for (size_t i = 0; i < text.prompts.size(); ++i) asked.push_back({tuned, text.prompts[i], {text.continuations[i]}});
  std::vector<double> differences;  // by text, per token
  ATTUNE_RETURN_IF_ERROR(ScoreAll(engine, asked, go_on, [&](size_t i, const ScoreResult& result) {
    const std::vector<TokenInfo>& tokens = result.continuations[0].tokens;
    double sum = 0;
    for (size_t t = 0; t < tokens.size(); ++t) sum += text.logprobs[i][t] - tokens[t].logprob;
    differences.push_back(sum / static_cast<double>(tokens.size()));
  }));
  return MeanOf(kDivergence, differences);
}

absl::StatusOr<Variants> MakeVariants(const Task& task, int64_t most, uint64_t seed) {
  Variants variants{task, {}};
  variants.task.rows.clear();
  for (size_t i = 0; i < task.rows.size() && static_cast<int64_t>(i) < most; ++i) {
    const Row& row = task.rows[i];
    ATTUNE_ASSIGN_OR_RETURN(const std::optional<std::string> input, InputColumn(task.data, row));
    if (!input) continue;
    std::vector<Row> same = {row};
    for (const Paraphrase& paraphrase : ListParaphrases(row.columns.at(*input), seed + i)) {
      same.push_back(row);
      same.back().columns.at(*input) = paraphrase.text;
    }
    if (same.size() < 2) continue;
    for (Row& one : same) {
      variants.task.rows.push_back(std::move(one));
      variants.group.push_back(static_cast<int64_t>(i));
    }
  }
  return variants;
}

Measure ConsistencyOf(const Variants& variants, const Answers& answers) {
  std::map<int64_t, AnswerGroup> groups;
  for (size_t i = 0; i < variants.group.size(); ++i) {
    if (!answers.expected[i].empty()) groups[variants.group[i]].push_back(answers.predicted[i]);
  }
  std::vector<double> agreement;
  for (const auto& [row, group] : groups) {
    if (group.size() > 1) agreement.push_back(PairwiseAgreement(group));
  }
  return MeanOf(kConsistency, agreement);
}

Measure OverfittingOf(const Measure& train, const Measure& validation) {
  const double difference = train.value - validation.value;
  const double below = std::hypot(train.value - train.lower, validation.upper - validation.value);
  const double above = std::hypot(train.upper - train.value, validation.value - validation.lower);
  return {std::string(kOverfitting), difference, difference - below, difference + above,
          std::min(train.count, validation.count)};
}

}  // namespace attune
