// How the command writes numbers, tables, progress and JSON, and reads text.
#include "client/cli/output.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "absl/time/clock.h"
#include "attune/v1/model.pb.h"
#include "client/cli/progress.h"
#include "client/cli/text.h"
#include "common/file.h"

namespace attune::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

TEST(OutputTest, Sizes) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1.0 KiB");
  EXPECT_EQ(FormatBytes(12'600), "12.3 KiB");
  EXPECT_EQ(FormatBytes((int64_t{1} << 20) - 1), "1.0 MiB");
  EXPECT_EQ(FormatBytes(int64_t{5} << 30), "5.0 GiB");
}

TEST(OutputTest, Counts) {
  EXPECT_EQ(FormatCount(950), "950");
  EXPECT_EQ(FormatCount(1234), "1.2k");
  EXPECT_EQ(FormatCount(999'990), "1.0M");
  EXPECT_EQ(FormatCount(134'515'008), "134.5M");
}

TEST(OutputTest, Durations) {
  EXPECT_EQ(FormatEnergy(640), "640 J");
  EXPECT_EQ(FormatEnergy(12'345), "12.3 kJ");
  EXPECT_EQ(FormatSeconds(0.43), "0.4s");
  EXPECT_EQ(FormatSeconds(9.99), "10s");
  EXPECT_EQ(FormatSeconds(92), "1m32s");
  EXPECT_EQ(FormatSeconds(7500), "2h05m");
  EXPECT_EQ(FormatSeconds(3 * 86400 + 4 * 3600), "3d04h");
}

TEST(OutputTest, Ages) {
  const absl::Time now = absl::FromUnixSeconds(1'000'000);
  auto age = [&](int64_t seconds) {
    google::protobuf::Timestamp time;
    time.set_seconds(1'000'000 - seconds);
    return FormatAge(time, now);
  };
  EXPECT_EQ(age(5), "5s ago");
  EXPECT_EQ(age(-5), "0s ago");
  EXPECT_EQ(age(119), "1m ago");
  EXPECT_EQ(age(7200), "2h ago");
  EXPECT_EQ(age(900'000), "10d ago");
  EXPECT_EQ(FormatAge({}, now), "");
}

TEST(OutputTest, NumbersAndIntervals) {
  EXPECT_EQ(FormatNumber(0.4123), "0.412");
  EXPECT_EQ(FormatNumber(0), "0.000");
  EXPECT_EQ(FormatNumber(2e-5), "2e-05");
  v1::Proportion p;
  p.set_value(0.912);
  p.set_lower(0.8839);
  p.set_upper(0.934);
  EXPECT_EQ(FormatProportion(p), "0.912 [0.884, 0.934]");
}

TEST(OutputTest, TextFromElsewhereCannotSteerTheTerminal) {
  EXPECT_EQ(Printable("a\x1b[2Jb"), "a?[2Jb");
  EXPECT_EQ(Quoted("a\n\"\x1b\\"), "\"a\\n\\\"\\x1b\\\\\"");
}

TEST(OutputTest, TableAlignsTextLeftAndNumbersRight) {
  Table table({"ID", "ROWS", "NAME"});
  table.Add({"topics", "5", "Zeitung für alle"});
  table.Add({"r8", "5485", ""});
  std::ostringstream out;
  table.Print(out);
  EXPECT_EQ(out.str(),
            "ID      ROWS  NAME\n"
            "topics     5  Zeitung für alle\n"
            "r8      5485  -\n");
}

TEST(OutputTest, CellsStayOnOneLine) {
  Table table({"A", "B"});
  table.Add({"x\ny", "z"});
  std::ostringstream out;
  table.Print(out);
  EXPECT_EQ(out.str(), "A    B\nx y  z\n");
}

TEST(OutputTest, FieldsWithoutValueAreLeftOut) {
  std::ostringstream out;
  PrintFields(out, {{"name", "m"}, {"a long name without value", ""}, {"size", "1 B"}});
  EXPECT_EQ(out.str(), "name  m\nsize  1 B\n");
}

TEST(OutputTest, JsonKeepsFieldNamesAndZeros) {
  v1::Model model;
  model.set_name("models/m");
  std::ostringstream out;
  PrintJsonLine(out, model);
  const std::string json = out.str();
  EXPECT_THAT(json, HasSubstr("\"name\":\"models/m\""));
  EXPECT_THAT(json, HasSubstr("\"size_bytes\":\"0\""));
  EXPECT_EQ(std::count(json.begin(), json.end(), '\n'), 1);
  v1::Model back;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, &back).ok());
  EXPECT_EQ(back.name(), "models/m");
}

TEST(ProgressTest, Bar) {
  EXPECT_EQ(FormatBar(0, 4), "[....]");
  EXPECT_EQ(FormatBar(0.5, 4), "[##..]");
  EXPECT_EQ(FormatBar(1, 4), "[####]");
  EXPECT_EQ(FormatBar(7, 4), "[####]");
}

v1::JobProgress Progress() {
  v1::JobProgress p;
  p.set_step(120);
  p.set_total_steps(400);
  p.set_train_loss(0.4119);
  p.set_tokens_per_second(1234);
  p.set_eta_seconds(92);
  return p;
}

TEST(ProgressTest, JobLine) {
  EXPECT_EQ(FormatJobProgress("r8", v1::TuningJob::RUNNING, Progress(), 100),
            "r8  RUNNING [######..............] 120/400  loss 0.412  1.2k tok/s  1m32s left");
}

TEST(ProgressTest, JobLineLeavesOutWhatIsUnknown) {
  EXPECT_EQ(FormatJobProgress("r8", v1::TuningJob::PREPARING, {}, 100), "r8  PREPARING");
  v1::JobProgress p = Progress();
  p.set_eta_seconds(-1);
  p.set_tokens_per_second(0);
  EXPECT_EQ(FormatJobProgress("r8", v1::TuningJob::RUNNING, p, 50), "r8  RUNNING [###.......] 120/400  loss 0.412");
  p.set_total_steps(0);
  EXPECT_EQ(FormatJobProgress("r8", v1::TuningJob::RUNNING, p, 50), "r8  RUNNING  step 120  loss 0.412");
}

TEST(ProgressTest, PausedJobHasNoSpeed) {
  EXPECT_THAT(FormatJobProgress("r8", v1::TuningJob::PAUSED, Progress(), 100), Not(HasSubstr("left")));
}

TEST(ProgressTest, JobLineNeverExceedsTheWidth) {
  for (int width = 0; width < 120; ++width) {
    EXPECT_LE(FormatJobProgress("a-long-job-name", v1::TuningJob::RUNNING, Progress(), width).size(), width);
  }
}

TEST(ProgressTest, EvaluationSaysWhetherItIsTheBest) {
  v1::JobProgress p = Progress();
  p.set_validation_loss(0.3);
  p.set_best_validation_loss(0.3);
  p.set_validation_token_accuracy(0.93);
  EXPECT_EQ(FormatEvaluation(p), "step 120/400  validation loss 0.300  token accuracy 0.930  best so far");
  p.set_best_validation_loss(0.2);
  EXPECT_THAT(FormatEvaluation(p), Not(HasSubstr("best")));
}

TEST(ProgressTest, PlainLinesKeepAPace) {
  std::ostringstream out;
  ProgressWriter writer(out, false);
  const absl::Time start = absl::FromUnixSeconds(100);
  writer.Update("one", start);
  writer.Update("two", start + absl::Milliseconds(1999));
  writer.Print("event");
  writer.Update("three", start + absl::Seconds(2));
  EXPECT_EQ(out.str(), "one\nevent\nthree\n");
}

TEST(ProgressTest, TerminalRedrawsOneLine) {
  std::ostringstream out;
  {
    ProgressWriter writer(out, true);
    writer.Update("one", absl::Now());
    writer.Update("two", absl::Now());
    writer.Print("event");
    writer.Update("three", absl::Now());
  }
  EXPECT_EQ(out.str(), "\rone\x1b[K\rtwo\x1b[K\r\x1b[Kevent\n\rthree\x1b[K\r\x1b[K");
}

TEST(TextTest, Escapes) {
  EXPECT_EQ(Unescape("Text: {{text}}\\nLabel:\\t"), "Text: {{text}}\nLabel:\t");
  EXPECT_EQ(Unescape("a\\\\n \\d \\"), "a\\n \\d \\");
}

TEST(TextTest, TemplateFromFile) {
  const std::string path = ::testing::TempDir() + "attune_template_test.txt";
  ASSERT_TRUE(WriteFileDurably(path, "Text: {{text}}\nLabel:\\n\n").ok());
  EXPECT_EQ(ReadTemplate("@" + path).value(), "Text: {{text}}\nLabel:\\n");
  std::remove(path.c_str());
  EXPECT_TRUE(absl::IsNotFound(ReadTemplate("@" + path).status()));
  EXPECT_EQ(ReadTemplate("a\\nb").value(), "a\nb");
}

TEST(TextTest, Pairs) {
  EXPECT_THAT(ParsePairs({"a=1", "b=x=y", "c="}, "--var").value(),
              ElementsAre(Pair("a", "1"), Pair("b", "x=y"), Pair("c", "")));
  EXPECT_FALSE(ParsePairs({"a"}, "--var").ok());
  EXPECT_FALSE(ParsePairs({"=1"}, "--var").ok());
  EXPECT_FALSE(ParsePairs({"a=1", "a=2"}, "--var").ok());
}

}  // namespace
}  // namespace attune::cli
