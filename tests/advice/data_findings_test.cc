#include "server/advice/data_findings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace attune {
namespace {

using ::testing::HasSubstr;
using Severity = Finding::Severity;

// Texts of a dozen words that share none but their label's.
std::string Text(const std::string& topic, int i) {
  std::string text = topic;
  for (int word = 0; word < 12; ++word) absl::StrAppend(&text, " w", i, "x", word);
  return text;
}

DataView Topics(int rows) {
  DataView data;
  data.has_labels = true;
  for (int i = 0; i < rows; ++i) {
    const std::string label = i % 4 == 0 ? "trade" : "earn";
    data.train.push_back({label, Text(label, i)});
  }
  return data;
}

const Finding& Get(const std::vector<Finding>& findings, absl::string_view name) {
  const Finding* finding = FindFinding(findings, name);
  if (!finding) ADD_FAILURE() << "no finding " << name;
  static const Finding none;
  return finding ? *finding : none;
}

TEST(DataFindingsTest, GoodDataGivesNoWarning) {
  DataView data = Topics(400);
  for (int i = 0; i < 60; ++i) data.test.push_back({"earn", Text("test", 1000 + i)});
  data.example_tokens = {10, 20, 30};
  data.answer_tokens = {1, 2, 3};
  data.context_tokens = 64;
  const std::vector<Finding> findings = FindInData(data);
  for (const Finding& finding : findings) EXPECT_EQ(finding.severity, Severity::kInfo) << finding.text;
  EXPECT_EQ(Get(findings, kRows).value, 400);
  EXPECT_EQ(Get(findings, kTestRows).value, 60);
  EXPECT_EQ(Get(findings, kLabels).value, 2);
  EXPECT_DOUBLE_EQ(Get(findings, kLabelBalance).value, 0.75);
  EXPECT_EQ(Get(findings, kRarestLabel).value, 100);
  EXPECT_EQ(Get(findings, kAnswerTokens).value, 2);
  EXPECT_EQ(Get(findings, kLeakage).value, 0);
}

TEST(DataFindingsTest, RepeatsAreNoRowsOfTheirOwn) {
  DataView data = Topics(100);
  for (int i = 0; i < 20; ++i)
    data.train.push_back({data.train[i].label, "  " + data.train[i].text});  // white space aside
  for (int i = 0; i < 30; ++i) data.train.push_back({data.train[i + 40].label, data.train[i + 40].text + " more"});
  const std::vector<Finding> findings = FindInData(data);
  EXPECT_EQ(Get(findings, kRows).value, 130);
  EXPECT_DOUBLE_EQ(Get(findings, kDuplicates).value, 20.0 / 150);
  EXPECT_EQ(Get(findings, kDuplicates).severity, Severity::kWarning);
  EXPECT_LT(Get(findings, kDuplicates).lower, 20.0 / 150);
  EXPECT_DOUBLE_EQ(Get(findings, kNearDuplicates).value, 50.0 / 150);
}

TEST(DataFindingsTest, OneTextWithTwoLabelsIsAConflict) {
  DataView data = Topics(100);
  data.train[3].text = data.train[0].text;  // "earn" and "trade"
  const Finding conflict = Get(FindInData(data), kConflictingLabels);
  EXPECT_DOUBLE_EQ(conflict.value, 0.01);
  EXPECT_EQ(conflict.severity, Severity::kWarning);
}

TEST(DataFindingsTest, LeakageIsAProblem) {
  DataView data = Topics(200);
  for (int i = 0; i < 100; ++i) data.test.push_back({"earn", i < 10 ? data.train[i].text : Text("test", 1000 + i)});
  const Finding leakage = Get(FindInData(data), kLeakage);
  EXPECT_DOUBLE_EQ(leakage.value, 0.1);
  EXPECT_EQ(leakage.severity, Severity::kProblem);
  EXPECT_THAT(leakage.text, HasSubstr("10 of 100"));
}

TEST(DataFindingsTest, FewRowsRareLabelsAndLongRowsAreTold) {
  DataView data = Topics(20);
  data.train[0].label = "ship";
  data.example_tokens = {10, 100, 1000};
  data.context_tokens = 64;
  const std::vector<Finding> findings = FindInData(data);
  EXPECT_EQ(Get(findings, kRows).severity, Severity::kWarning);
  EXPECT_EQ(Get(findings, kTestRows).value, 4) << "a fifth is held out";
  EXPECT_EQ(Get(findings, kTestRows).severity, Severity::kWarning);
  EXPECT_THAT(Get(findings, kRarestLabel).text, HasSubstr("'ship', has 1 rows"));
  EXPECT_EQ(Get(findings, kExampleTokens).severity, Severity::kWarning);
  EXPECT_THAT(Get(findings, kExampleTokens).text, HasSubstr("66.7% are longer than 64 tokens"));
}

TEST(DataFindingsTest, FreeTextHasNoLabelFindings) {
  DataView data = Topics(50);
  data.has_labels = false;
  const std::vector<Finding> findings = FindInData(data);
  EXPECT_EQ(Get(findings, kLabels).value, 0);
  EXPECT_EQ(FindFinding(findings, kLabelBalance), nullptr);
  EXPECT_EQ(FindFinding(findings, kConflictingLabels), nullptr);
  EXPECT_TRUE(FindInData(DataView()).empty());
}

// Two groups far apart in a direction, under a large one that all share; row 5 has the other group's label.
TEST(DataFindingsTest, RowsAmongAnotherLabelsRowsAreSuspects) {
  DataView data;
  data.has_labels = true;
  EmbeddedRows embedded;
  for (int i = 0; i < 60; ++i) {
    const bool is_earn = i % 2 == 0;
    data.train.push_back({(is_earn != (i == 5)) ? "earn" : "trade", ""});
    embedded.rows.push_back(i);
    embedded.features.insert(embedded.features.end(), {100, is_earn ? 1.0f : -1.0f, 0.01f * static_cast<float>(i)});
  }
  const std::vector<Finding> noise = FindLabelNoiseIn(data, embedded);
  ASSERT_EQ(noise.size(), 1u);
  EXPECT_DOUBLE_EQ(noise[0].value, 1.0 / 60);
  EXPECT_EQ(noise[0].count, 60);
  EXPECT_THAT(noise[0].text, HasSubstr("look at rows 6."));
  EXPECT_EQ(noise[0].severity, Severity::kInfo);
}

TEST(DataFindingsTest, RareLabelsAreNoNoise) {
  DataView data;
  data.has_labels = true;
  EmbeddedRows embedded;
  for (int i = 0; i < 40; ++i) {
    data.train.push_back({i < 5 ? "rare" : i % 2 ? "earn" : "trade", ""});
    embedded.rows.push_back(i);
    embedded.features.insert(embedded.features.end(), {i % 2 ? 1.0f : -1.0f, i < 5 ? 0.5f : 0.0f});
  }
  const std::vector<Finding> noise = FindLabelNoiseIn(data, embedded);
  ASSERT_EQ(noise.size(), 1u);
  EXPECT_EQ(noise[0].count, 35) << "five rows cannot have ten neighbours of their own";
  EXPECT_EQ(noise[0].value, 0);
  embedded.rows.resize(8);
  embedded.features.resize(16);
  EXPECT_TRUE(FindLabelNoiseIn(data, embedded).empty());
}

}  // namespace
}  // namespace attune
