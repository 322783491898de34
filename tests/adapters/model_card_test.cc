#include "server/adapters/model_card.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace attune {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ModelInfo Lora() {
  ModelInfo info;
  info.id = "r8-lora";
  info.kind = ModelKind::kLora;
  info.base_model = "smollm2";
  info.tuning_job = "cmp-r8-lora-1";
  info.dataset_kind = DatasetKind::kPromptCompletion;
  info.prompt_template = "Text: {{text}}\nTopic:";
  info.completion_template = " {{label}}";
  info.max_sequence_tokens = 64;
  info.architecture = {"llama", 30, 576, 1536, 9, 3, 49152, 2048, 134'515'008};
  info.metrics = {{"validation_loss", 0.25}};
  return info;
}

TEST(ModelCardTest, TellsMethodDataFiguresAndLimits) {
  ModelCardFacts facts;
  facts.dataset = "r8-train";
  facts.validation_dataset = "r8-validation";
  facts.train_examples = 900;
  facts.validation_examples = 100;
  facts.cut_examples = 7;
  facts.left_out_examples = 1;
  facts.settings = {{"rank", "16"}, {"learning rate", "0.0002"}};
  facts.cost = {{"time in steps and evaluations", "94 s"}};
  facts.compared = ModelCardFacts::Compared{
      "r8", "Rank 1 of 3, the winner", "Take lora: it is the best.", {{"Quality", "97.8%", "97.2–98.4%", "Right labels."}}};
  facts.forgetting = "1.3 points lost.";
  EXPECT_EQ(ModelCard(Lora(), facts, "peft"), R"(---
library_name: peft
base_model: "smollm2"
pipeline_tag: text-generation
tags: [attune]
---

# r8-lora

- Method: LoRA
- Base model: smollm2
- Tuning job: cmp-r8-lora-1
- Network: llama, 30 layers, hidden size 576, 134515008 parameters, context 2048 tokens

## Data

- Rows: prompts with completions
- Dataset: r8-train, 900 examples to train, 100 to validate (of r8-validation)
- Prompt template: "Text: {{text}}\nTopic:"
- Completion template: " {{label}}"
- Longest example: 64 tokens

## Settings

| what | value |
|---|---|
| rank | 16 |
| learning rate | 0.0002 |

## Cost of tuning

| what | value |
|---|---|
| time in steps and evaluations | 94 s |

## Metrics

| metric | value | of |
|---|---|---|
| validation_loss | 0.25 | answer tokens of the validation examples (preferences: pairs), nats each; lower is better |

## Comparison with other methods

Rank 1 of 3, the winner (comparison r8).

> Take lora: it is the best.

| figure | value | 95% interval | what it is |
|---|---|---|---|
| Quality | 97.8% | 97.2–98.4% | Right labels. |

## Limits

- Context: 2048 tokens for prompt and answer.
- Length: tuned on at most 64 tokens an example; longer prompts cut: 7; left out for their answers' length: 1. Longer inputs were not tried.
- Form: tuned with the prompt template above alone; prompts of another form were not tried.
- Other skills: 1.3 points lost.
)");
}

TEST(ModelCardTest, WhatIsNotKnownIsNotTold) {
  const std::string card = ModelCard(Lora(), {}, "peft");
  for (const char* section : {"## Settings", "## Cost", "## Comparison", "Dataset:"}) EXPECT_THAT(card, Not(HasSubstr(section)));
  EXPECT_THAT(card, HasSubstr("- Longest example: 64 tokens"));
  EXPECT_THAT(card, HasSubstr("Other skills: what the model has forgotten of what its base model knew was not measured."));
}

TEST(ModelCardTest, EachKindHasItsLimits) {
  ModelInfo info = Lora();
  info.kind = ModelKind::kSoftPrompt;
  EXPECT_THAT(ModelCard(info, {}, "peft"), HasSubstr("2048 tokens for prompt and answer, the virtual tokens included."));
  info.kind = ModelKind::kTextPrompt;
  EXPECT_THAT(ModelCard(info, {}, "transformers"), HasSubstr("Other skills: the base model's weights are as they were."));
  ModelInfo base;
  base.id = "smollm2";
  EXPECT_THAT(ModelCard(base, {}, "transformers"), Not(HasSubstr("## Limits")));
}

TEST(ModelCardTest, NoTextBreaksOutOfItsCell) {
  ModelCardFacts facts;
  facts.settings = {{"parameters", "a|b\n# c"}};
  facts.compared = ModelCardFacts::Compared{"r8", "Rank 1 of 1", "one\n\n# two", {}};
  const std::string card = ModelCard(Lora(), facts, "peft");
  EXPECT_THAT(card, HasSubstr("| parameters | a\\|b # c |\n"));
  EXPECT_THAT(card, HasSubstr("> one  # two\n"));
  EXPECT_THAT(card, Not(HasSubstr("\n# two")));
}

}  // namespace
}  // namespace attune
