#include "server/comparison/side_effects.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "common/error.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/parts.h"
#include "server/data/example.h"
#include "server/evaluation/evaluator.h"
#include "server/evaluation/measures/agreement.h"
#include "server/evaluation/measures/bootstrap.h"
#include "server/evaluation/measures/memorization.h"
#include "server/evaluation/measures/paraphrase.h"
#include "server/evaluation/measures/wilson.h"
#include "server/evaluation/probe/probe.h"

namespace attune {
namespace {

constexpr int kBeginningTokens = 16, kWrittenTokens = 32;  // of each text that the base model writes
constexpr int kTextsAParagraph = 2;
constexpr size_t kMostContinued = 100;
constexpr int kDraws = 3;  // of a generated answer

// Of a text by itself, as a request's plain prompt is tokenised.
std::vector<int32_t> Tokens(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> tokens = tokenizer.Encode(text, /*parse_special=*/false);
  if (tokenizer.add_bos() && tokenizer.bos_id() >= 0) tokens.insert(tokens.begin(), tokenizer.bos_id());
  return tokens;
}

// The answer after its prompt; of plain text its second part after the first.
std::optional<ContinuationTest> RecitalOf(const Example& example) {
  const ContinuationOptions options;
  if (example.prompt_tokens == 0) return SplitForContinuation(example.tokens, options);
  const absl::Span<const int32_t> tokens(example.tokens);
  const int64_t answer = static_cast<int64_t>(tokens.size()) - example.prompt_tokens;
  if (answer < options.min_continuation_tokens) return std::nullopt;
  return ContinuationTest{tokens.subspan(0, example.prompt_tokens),
                          tokens.subspan(example.prompt_tokens, std::min(answer, options.continuation_tokens))};
}

ScoreParams ScoreOf(std::shared_ptr<const ServedModel> model, const OwnText& text, size_t i) {
  ScoreParams params;
  params.model = std::move(model);
  params.prompt = text.prompts[i];
  params.continuations = {text.continuations[i]};
  params.priority = kBackgroundPriority;
  return params;
}

}  // namespace

absl::StatusOr<std::vector<double>> AnswerProbe(Engine* engine, std::shared_ptr<const ServedModel> model,
                                                const GoOn& go_on) {
  const std::vector<ProbeItem>& items = BuiltInProbe();
  std::vector<ScoreParams> asked;
  for (const ProbeItem& item : items) {
    ScoreParams params;
    params.model = model;
    params.priority = kBackgroundPriority;
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
  return MeanOf(kProbeAccuracy, right);
}

Measure LossOf(absl::string_view name, const std::vector<double>& base, const std::vector<double>& tuned) {
  std::vector<double> lost(base.size());
  for (size_t i = 0; i < base.size(); ++i) lost[i] = base[i] - tuned[i];
  if (lost.empty()) return {std::string(name)};
  // Not MeanOf: differences that are all 0 or 1 are no share.
  const Interval interval = BootstrapMean(lost, BootstrapOptions());
  return {std::string(name), interval.value, interval.lower, interval.upper, static_cast<int64_t>(lost.size())};
}

absl::StatusOr<OwnText> WriteOwnText(Engine* engine, std::shared_ptr<const ServedModel> base, const GoOn& go_on) {
  OwnText text;
  const std::vector<std::string>& paragraphs = BuiltInProbeText();
  GenerateParams params;
  params.model = base;
  params.priority = kBackgroundPriority;
  params.max_tokens = kWrittenTokens;
  params.ignore_eos = true;
  params.sampling.temperature = 1;
  std::vector<GenerateParams> written;
  for (size_t i = 0; i < paragraphs.size() * kTextsAParagraph; ++i) {
    params.prompt = Tokens(base->tokenizer(), paragraphs[i / kTextsAParagraph]);
    params.prompt.resize(std::min<size_t>(params.prompt.size(), kBeginningTokens));
    params.sampling.seed = i;
    text.prompts.push_back(params.prompt);
    written.push_back(params);
  }
  ATTUNE_RETURN_IF_ERROR(GenerateAll(engine, written, go_on, [&](size_t, const std::vector<int32_t>& tokens) {
    text.continuations.push_back(tokens);
  }));
  // By the same road as the tuned model's, so that rounding is the same.
  std::vector<ScoreParams> asked;
  for (size_t i = 0; i < text.prompts.size(); ++i) asked.push_back(ScoreOf(base, text, i));
  ATTUNE_RETURN_IF_ERROR(ScoreAll(engine, asked, go_on, [&](size_t, const ScoreResult& result) {
    text.logprobs.emplace_back();
    for (const TokenInfo& token : result.continuations[0].tokens) text.logprobs.back().push_back(token.logprob);
  }));
  return text;
}

absl::StatusOr<Measure> DivergenceFrom(Engine* engine, const OwnText& text, std::shared_ptr<const ServedModel> tuned,
                                       const GoOn& go_on) {
  std::vector<ScoreParams> asked;
  for (size_t i = 0; i < text.prompts.size(); ++i) asked.push_back(ScoreOf(tuned, text, i));
  std::vector<double> differences;  // by text, per token
  ATTUNE_RETURN_IF_ERROR(ScoreAll(engine, asked, go_on, [&](size_t i, const ScoreResult& result) {
    const std::vector<TokenInfo>& tokens = result.continuations[0].tokens;
    double sum = 0;
    for (size_t t = 0; t < tokens.size(); ++t) sum += text.logprobs[i][t] - tokens[t].logprob;
    differences.push_back(sum / static_cast<double>(tokens.size()));
  }));
  return MeanOf(kDivergence, differences);
}

absl::StatusOr<Variants> MakeVariants(const EvalTask& task, int64_t most, uint64_t seed) {
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

absl::StatusOr<Measure> RecitedBy(Engine* engine, std::shared_ptr<const ServedModel> model, const EvalTask& task,
                                  const GoOn& go_on) {
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer,
                          ExampleRenderer::Create(model->tokenizer_view, model->chat_template(),
                                                  RenderOptionsFor(EvaluationOptions(), *model, task.data)));
  std::vector<Example> examples;  // what the tests view
  examples.reserve(task.rows.size());
  std::vector<ContinuationTest> tests;
  for (size_t i = 0; i < task.rows.size() && tests.size() < kMostContinued; ++i) {
    absl::StatusOr<Example> example = renderer.Render(task.rows[i], static_cast<int64_t>(i));
    if (absl::IsOutOfRange(example.status())) continue;
    if (!example.ok()) return example.status();
    examples.push_back(*std::move(example));
    if (const std::optional<ContinuationTest> test = RecitalOf(examples.back())) tests.push_back(*test);
  }
  std::vector<GenerateParams> asked;
  for (const ContinuationTest& test : tests) {
    GenerateParams params;
    params.model = model;
    params.priority = kBackgroundPriority;
    params.tenant = task.tenant;
    params.prompt.assign(test.prompt.begin(), test.prompt.end());
    params.max_tokens = static_cast<int>(test.continuation.size());
    params.ignore_eos = true;
    asked.push_back(std::move(params));
  }
  int64_t memorized = 0;
  ATTUNE_RETURN_IF_ERROR(GenerateAll(engine, asked, go_on, [&](size_t i, const std::vector<int32_t>& tokens) {
    memorized += IsMemorized(tests[i], tokens);
  }));
  const int64_t count = static_cast<int64_t>(tests.size());
  if (count == 0) return Measure{std::string(kMemorized)};
  const Proportion share = WilsonInterval(memorized, count);
  return Measure{std::string(kMemorized), share.value, share.lower, share.upper, count};
}

absl::StatusOr<Measure> ResampledBy(Engine* engine, std::shared_ptr<const ServedModel> model, EvalTask task,
                                    const std::string& prompt_template, const GoOn& go_on) {
  task.judge = nullptr;  // what counts is whether the answers are alike
  task.temperature = 1;
  std::vector<Answers> draws;
  const int count = task.choices.empty() ? kDraws : 1;
  for (int draw = 0; draw < count; ++draw) {
    task.seed = static_cast<uint64_t>(draw) + 1;
    ATTUNE_ASSIGN_OR_RETURN(draws.emplace_back(), Ask(engine, model, task, prompt_template, go_on));
  }
  std::vector<double> repeated;
  for (size_t row = 0; row < task.rows.size(); ++row) {
    if (draws[0].expected[row].empty()) continue;
    AnswerGroup group;
    for (const Answers& answers : draws) group.push_back(answers.predicted[row]);
    repeated.push_back(count > 1 ? PairwiseAgreement(group) : draws[0].repeat[row]);
  }
  return MeanOf(kResampled, repeated);
}

Measure OverfittingOf(const Measure& train, const Measure& validation) {
  const double difference = train.value - validation.value;
  const double below = std::hypot(train.value - train.lower, validation.upper - validation.value);
  const double above = std::hypot(train.upper - train.value, validation.value - validation.lower);
  return {std::string(kOverfitting), difference, difference - below, difference + above,
          std::min(train.count, validation.count)};
}

}  // namespace attune
