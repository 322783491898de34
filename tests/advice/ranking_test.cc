#include "server/advice/ranking.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/match.h"
#include "server/advice/retrospect.h"
#include "tests/advice/evidence_sample.h"

namespace attune {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A place from 0; -1: not there.
int PlaceOf(const Ranking& ranking, ContenderKind kind) {
  for (size_t i = 0; i < ranking.recommendations.size(); ++i) {
    if (ranking.recommendations[i].kind == kind) return static_cast<int>(i);
  }
  return -1;
}
int PlaceOf(const Evidence& evidence, const Needs& needs, ContenderKind kind) {
  return PlaceOf(Rank(PriorRules(), evidence, needs), kind);
}

const Recommendation& Get(const Ranking& ranking, ContenderKind kind) {
  return ranking.recommendations[PlaceOf(ranking, kind)];
}

// The reason that rests on `evidence`; an empty one if there is none.
Reason ReasonFor(const Recommendation& recommendation, const std::string& evidence) {
  for (const Reason& reason : recommendation.reasons) {
    for (const std::string& name : reason.evidence) {
      if (name == evidence) return reason;
    }
  }
  return {};
}

// Base model and prompts do well: training wins a little.
Evidence Easy() {
  Evidence evidence = SampleEvidence();
  evidence.zero_shot = WilsonInterval(108, 120);
  evidence.few_shot = WilsonInterval(112, 120);
  evidence.task_distance = 0.3;
  return evidence;
}

TEST(RankingTest, RanksEveryMethodWithReasonsTiedToEvidence) {
  const Ranking ranking = Rank(PriorRules(), SampleEvidence(), Needs());
  EXPECT_EQ(ranking.recommendations.size(), SampleEvidence().costs.size());
  EXPECT_EQ(ranking.recommendations[0].kind, ContenderKind::kLora);
  EXPECT_EQ(ranking.recommendations.back().kind, ContenderKind::kZeroShot);
  for (const Recommendation& one : ranking.recommendations) {
    EXPECT_FALSE(one.reasons.empty());
    EXPECT_TRUE(one.meets_needs);
    for (const Reason& reason : one.reasons) {
      EXPECT_FALSE(reason.text.empty());
      EXPECT_FALSE(reason.evidence.empty()) << reason.text;
    }
  }
  EXPECT_THAT(ranking.text, HasSubstr("LoRA"));
  EXPECT_TRUE(ReasonFor(Get(ranking, ContenderKind::kTextPrompt), "task_distance").is_against);
  EXPECT_FALSE(ReasonFor(Get(ranking, ContenderKind::kLora), "task_distance").is_against);
}

TEST(RankingTest, MethodsWithoutCostAreLeftOut) {
  Evidence evidence = SampleEvidence();
  evidence.costs.erase(ContenderKind::kLora);
  EXPECT_EQ(PlaceOf(evidence, Needs(), ContenderKind::kLora), -1);
  evidence.costs.clear();
  const Ranking nothing = Rank(PriorRules(), evidence, Needs());
  EXPECT_TRUE(nothing.recommendations.empty());
  EXPECT_EQ(nothing.verdict, AdviceVerdict::kNotEnoughToTell);
}

TEST(RankingTest, WhatDoesNotFitTheDeviceIsLast) {
  Evidence evidence = SampleEvidence();
  evidence.costs[ContenderKind::kLora].why_not = "it needs 99 GiB";
  const Ranking ranking = Rank(PriorRules(), evidence, Needs());
  EXPECT_EQ(ranking.recommendations.back().kind, ContenderKind::kLora);
  EXPECT_FALSE(ranking.recommendations.back().meets_needs);
  EXPECT_THAT(ReasonFor(ranking.recommendations.back(), "device_seconds").text, HasSubstr("it needs 99 GiB"));
}

TEST(RankingTest, KeepingSkillsPutsWeightsLast) {
  Evidence evidence = SampleEvidence();
  evidence.rows = 50'000;
  const int all = static_cast<int>(evidence.costs.size());
  EXPECT_LT(PlaceOf(evidence, Needs(), ContenderKind::kFull), all - 2);
  const Needs needs{.keep_skills = true};
  EXPECT_GE(PlaceOf(evidence, needs, ContenderKind::kFull), all - 2);
  EXPECT_GE(PlaceOf(evidence, needs, ContenderKind::kPartial), all - 2);
  const Ranking ranking = Rank(PriorRules(), evidence, needs);
  EXPECT_TRUE(ReasonFor(Get(ranking, ContenderKind::kFull), "needs.keep_skills").is_against);
  EXPECT_FALSE(ReasonFor(Get(ranking, ContenderKind::kLora), "needs.keep_skills").is_against);
}

TEST(RankingTest, AnAccuracyThatIsReachedMakesCostDecide) {
  Evidence evidence = Easy();
  EXPECT_GT(PlaceOf(evidence, Needs(), ContenderKind::kZeroShot), 2);
  const Ranking ranking = Rank(PriorRules(), evidence, Needs{.accuracy = 0.8});
  EXPECT_EQ(ranking.recommendations[0].kind, ContenderKind::kZeroShot) << "it does, for nothing";
  EXPECT_THAT(ReasonFor(ranking.recommendations[0], "needs.accuracy").text, HasSubstr("reaches the 0.8"));
}

TEST(RankingTest, WhatCannotReachTheAccuracyBreaksTheNeed) {
  const Ranking ranking = Rank(PriorRules(), SampleEvidence(), Needs{.accuracy = 0.95});
  EXPECT_FALSE(Get(ranking, ContenderKind::kZeroShot).meets_needs);
  EXPECT_TRUE(Get(ranking, ContenderKind::kLora).meets_needs);
  EXPECT_TRUE(ReasonFor(Get(ranking, ContenderKind::kZeroShot), "needs.accuracy").is_against);
  EXPECT_THAT(ReasonFor(Get(ranking, ContenderKind::kLora), "needs.accuracy").text, HasSubstr("may reach it or not"));
}

TEST(RankingTest, DeadlineAndBudgetPutTheSlowBehind) {
  Evidence evidence = SampleEvidence();
  evidence.costs[ContenderKind::kLora].device_seconds = 7200;
  Ranking ranking = Rank(PriorRules(), evidence, Needs{.deadline_seconds = 1800});
  EXPECT_NE(ranking.recommendations[0].kind, ContenderKind::kLora);
  EXPECT_GE(PlaceOf(ranking, ContenderKind::kLora), 8);
  EXPECT_THAT(ReasonFor(Get(ranking, ContenderKind::kLora), "needs.deadline").text, HasSubstr("about 2 hours"));
  EXPECT_FALSE(ReasonFor(Get(ranking, ContenderKind::kIa3), "needs.deadline").is_against);

  ranking = Rank(PriorRules(), evidence, Needs{.budget = 3, .price_per_device_hour = 2});
  EXPECT_FALSE(Get(ranking, ContenderKind::kLora).meets_needs);
  EXPECT_DOUBLE_EQ(Get(ranking, ContenderKind::kLora).price, 4);
  EXPECT_THAT(ReasonFor(Get(ranking, ContenderKind::kLora), "needs.budget").text,
              HasSubstr("4.00, more than the 3.00"));
  EXPECT_TRUE(
      Rank(PriorRules(), evidence, Needs{.budget = 5, .price_per_device_hour = 2}).recommendations[0].meets_needs);
}

TEST(RankingTest, AShortLifePutsPromptsFirstWhereTheyAreNear) {
  const Evidence evidence = Easy();
  const auto is_prompt = [](ContenderKind kind) { return !ChangesWeights(kind); };
  EXPECT_FALSE(is_prompt(Rank(PriorRules(), evidence, Needs()).recommendations[0].kind));
  const Ranking brief = Rank(PriorRules(), evidence, Needs{.lifetime_days = 3});
  EXPECT_TRUE(is_prompt(brief.recommendations[0].kind));
  EXPECT_TRUE(is_prompt(brief.recommendations[1].kind));
  EXPECT_THAT(ReasonFor(brief.recommendations[0], "needs.lifetime").text, HasSubstr("3 days"));
  // Not where training brings 40 points.
  EXPECT_FALSE(is_prompt(Rank(PriorRules(), SampleEvidence(), Needs{.lifetime_days = 3}).recommendations[0].kind));
  const Ranking years = Rank(PriorRules(), evidence, Needs{.lifetime_days = 720});
  EXPECT_FALSE(ReasonFor(Get(years, ContenderKind::kLora), "needs.lifetime").is_against);
}

TEST(RankingTest, ManyTenantsPutSmallAdaptersFirst) {
  Evidence evidence = SampleEvidence();
  evidence.costs[ContenderKind::kFull].device_seconds = 1;  // full tuning at its best
  evidence.rows = 1'000'000;
  EXPECT_EQ(PlaceOf(evidence, Needs(), ContenderKind::kFull), 0);
  EXPECT_GT(PlaceOf(evidence, Needs{.tenants = 3}, ContenderKind::kFull), 0);
  const Ranking many = Rank(PriorRules(), evidence, Needs{.tenants = 50});
  EXPECT_FALSE(Get(many, ContenderKind::kFull).meets_needs);
  EXPECT_THAT(ReasonFor(Get(many, ContenderKind::kFull), "needs.tenants").text, HasSubstr("Each of 50 tenants"));
  EXPECT_FALSE(ReasonFor(Get(many, ContenderKind::kLora), "needs.tenants").is_against);
}

TEST(RankingTest, LatencyPutsLongPromptsBehind) {
  const Evidence evidence = SampleEvidence();
  const Ranking ranking = Rank(PriorRules(), evidence, Needs{.request_milliseconds = 40});
  EXPECT_FALSE(Get(ranking, ContenderKind::kTextPrompt).meets_needs);
  EXPECT_FALSE(Get(ranking, ContenderKind::kHybrid).meets_needs);
  EXPECT_TRUE(Get(ranking, ContenderKind::kLora).meets_needs);
  EXPECT_THAT(ReasonFor(Get(ranking, ContenderKind::kTextPrompt), "needs.latency").text,
              HasSubstr("about 60 ms, above the 40 ms"));
}

TEST(RankingTest, NoMethodForAllNeedsIsTold) {
  const Ranking ranking = Rank(PriorRules(), SampleEvidence(), Needs{.accuracy = 0.95, .deadline_seconds = 1});
  EXPECT_FALSE(ranking.recommendations[0].meets_needs);
  EXPECT_THAT(ranking.text, HasSubstr("No method meets all needs"));
}

// ---- not enough to tell

TEST(RankingTest, TooLittleEvidenceIsNotEnoughToTell) {
  const auto verdict = [](const Evidence& evidence) { return Rank(PriorRules(), evidence, Needs()).verdict; };
  EXPECT_NE(verdict(SampleEvidence()), AdviceVerdict::kNotEnoughToTell);
  Evidence few_rows = SampleEvidence();
  few_rows.rows = 39;
  const Ranking ranking = Rank(PriorRules(), few_rows, Needs());
  EXPECT_EQ(ranking.verdict, AdviceVerdict::kNotEnoughToTell);
  EXPECT_THAT(ranking.text, StartsWith("Not enough data to tell: only 39 rows"));
  EXPECT_THAT(ranking.settlement.text, HasSubstr("Collect rows first: 40"));
  Evidence few_tests = SampleEvidence();
  few_tests.test_rows = 7;
  EXPECT_EQ(verdict(few_tests), AdviceVerdict::kNotEnoughToTell);
  Evidence no_probe = SampleEvidence();
  no_probe.zero_shot.reset();
  no_probe.few_shot.reset();
  EXPECT_EQ(verdict(no_probe), AdviceVerdict::kNotEnoughToTell);
  for (const Recommendation& one : Rank(PriorRules(), no_probe, Needs()).recommendations)
    EXPECT_EQ(one.confidence, Confidence::kLow);
}

TEST(RankingTest, AClearLeadIsToldEvenWithFewRows) {
  Evidence evidence = SampleEvidence();
  evidence.rows = 39;
  const MethodCost none = evidence.costs[ContenderKind::kZeroShot], lora = evidence.costs[ContenderKind::kLora];
  evidence.costs = {{ContenderKind::kZeroShot, none}, {ContenderKind::kLora, lora}};
  evidence.zero_shot = WilsonInterval(2, 120);
  evidence.labels = 2;
  const Ranking ranking = Rank(PriorRules(), evidence, Needs());
  EXPECT_EQ(ranking.verdict, AdviceVerdict::kRecommended);
  EXPECT_TRUE(ranking.settlement.contenders.empty());
}

TEST(RankingTest, AWideOverlapOfGoodEvidenceIsATieThatACompareSettles) {
  const Ranking ranking = Rank(PriorRules(), SampleEvidence(), Needs());
  ASSERT_EQ(ranking.verdict, AdviceVerdict::kTied);
  ASSERT_THAT(ranking.settlement.contenders,
              ElementsAre(ranking.recommendations[0].kind, ranking.recommendations[1].kind));
  EXPECT_EQ(ranking.settlement.rows, 300);
  const double both = ranking.recommendations[0].device_seconds + ranking.recommendations[1].device_seconds;
  EXPECT_NEAR(ranking.settlement.device_seconds, both * 0.75 * 2 * 1.25, 1e-9);
  EXPECT_THAT(ranking.text, HasSubstr("To settle it, compare LoRA and"));
  EXPECT_THAT(ranking.text, HasSubstr("on 300 rows: about"));
}

TEST(RankingTest, TimesArePlain) {
  EXPECT_EQ(AboutTime(0.2), "about 1 s");
  EXPECT_EQ(AboutTime(99), "about 99 s");
  EXPECT_EQ(AboutTime(360), "about 6 minutes");
  EXPECT_EQ(AboutTime(9000), "about 2.5 hours");
  EXPECT_EQ(AboutTime(864000), "about 10 days");
}

TEST(RankingTest, StoredComparisonsRaiseConfidenceAndAreNamed) {
  const Comparison outcome = SampleOutcome("c", {{ContenderKind::kZeroShot, 0.3}, {ContenderKind::kFull, 0.95}});
  const RuleTable table = Calibrate(PriorRules(), std::vector<PastComparison>(4, PastComparison{outcome, 135'000'000}));
  Evidence evidence = SampleEvidence();
  evidence.rows = 4000;
  EXPECT_EQ(Get(Rank(PriorRules(), evidence, Needs()), ContenderKind::kFull).confidence, Confidence::kMedium);
  const Ranking taught = Rank(table, evidence, Needs());
  EXPECT_EQ(Get(taught, ContenderKind::kFull).confidence, Confidence::kHigh);
  EXPECT_THAT(ReasonFor(Get(taught, ContenderKind::kFull), "past_comparisons").text, HasSubstr("4 stored comparisons"));
}

// ---- looking back

TEST(RetrospectTest, SaysWhereItWasRight) {
  const Comparison outcome = SampleOutcome(
      "moods", {{ContenderKind::kZeroShot, 0.3}, {ContenderKind::kIa3, 0.8}, {ContenderKind::kLora, 0.93}});
  const auto found = LookBack(PriorRules(), EvidenceOf(outcome, 135'000'000), Needs(), outcome);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->comparison, "moods");
  EXPECT_EQ(found->named, ContenderKind::kLora);
  EXPECT_EQ(found->best, ContenderKind::kLora);
  EXPECT_TRUE(found->was_right);
  EXPECT_EQ(found->ranges, 2);
  EXPECT_EQ(found->ranges_held, 2);
  EXPECT_THAT(found->text, HasSubstr("That was right"));
  EXPECT_THAT(found->text, HasSubstr("2 of 2 expected ranges held"));
}

TEST(RetrospectTest, WithinOneIntervalIsRightAndBeyondIsWrong) {
  const auto look = [](double lora, double ia3) {
    const Comparison outcome =
        SampleOutcome("c", {{ContenderKind::kZeroShot, 0.3}, {ContenderKind::kIa3, ia3}, {ContenderKind::kLora, lora}});
    return *LookBack(PriorRules(), EvidenceOf(outcome, 135'000'000), Needs(), outcome);
  };
  const Retrospective near = look(0.88, 0.9);
  EXPECT_EQ(near.best, ContenderKind::kIa3);
  EXPECT_TRUE(near.was_right);
  EXPECT_GT(near.named_quality, near.best_lower);
  EXPECT_THAT(near.text, HasSubstr("so the advice was right"));
  const Retrospective wrong = look(0.5, 0.9);
  EXPECT_EQ(wrong.named, ContenderKind::kLora);
  EXPECT_FALSE(wrong.was_right);
  EXPECT_THAT(wrong.text, HasSubstr("so the advice was wrong"));
  EXPECT_EQ(wrong.ranges_held, 1) << "LoRA was expected to do better";
}

TEST(RetrospectTest, NothingIsLearnedFromWhatFailedOrMeasuredOneMethod) {
  Comparison outcome = SampleOutcome("c", {{ContenderKind::kZeroShot, 0.3}, {ContenderKind::kLora, 0.9}});
  outcome.state = ComparisonState::kCancelled;
  EXPECT_TRUE(absl::IsFailedPrecondition(LookBack(PriorRules(), Evidence(), Needs(), outcome).status()));
  outcome.state = ComparisonState::kSucceeded;
  outcome.contenders.pop_back();
  outcome.contenders.push_back({.kind = ContenderKind::kHandPrompt});
  EXPECT_TRUE(absl::IsFailedPrecondition(LookBack(PriorRules(), Evidence(), Needs(), outcome).status()));
}

TEST(RetrospectTest, TheComparisonItselfTeachesNothingAboutItself) {
  const PastComparison a{SampleOutcome("a", {}), 1}, b{SampleOutcome("b", {}), 1};
  const std::vector<PastComparison> others = Without({a, b}, "a");
  ASSERT_EQ(others.size(), 1u);
  EXPECT_EQ(others[0].comparison.spec.id, "b");
}

}  // namespace
}  // namespace attune
