#include "server/comparison/report/report_html.h"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_missing.h"
#include "server/comparison/report/report_names.h"
#include "tests/comparison/report_sample.h"

namespace attune {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kNow = absl::FromUnixSeconds(1'773'100'000);

std::string Page(const Comparison& comparison) { return ReportHtml(comparison, kNow); }

int Count(const std::string& page, const std::string& text) {
  int count = 0;
  for (size_t at = page.find(text); at != std::string::npos; at = page.find(text, at + 1)) ++count;
  return count;
}

// The text after the first end tag that does not fit, or that is missing at the end; empty if all fit.
std::string FirstUnbalanced(const std::string& page) {
  static const std::set<std::string> kVoid = {"meta", "br", "hr", "img", "link", "col", "input"};
  static const std::regex tag(R"re(<(/?)([a-zA-Z][a-zA-Z0-9]*)((?:\s+[a-zA-Z][a-zA-Z0-9-]*="[^"<]*")*)\s*(/?)>)re");
  const std::string body = page.substr(page.find('\n') + 1);  // without the DOCTYPE
  std::vector<std::string> open;
  size_t expected = 0;
  for (auto it = std::sregex_iterator(body.begin(), body.end(), tag); it != std::sregex_iterator(); ++it) {
    const std::smatch& match = *it;
    const auto at = static_cast<size_t>(match.position());
    // A "<" that no tag explains.
    const size_t stray = body.find('<', expected);
    if (stray < at) return body.substr(stray, 80);
    expected = at + match.length();
    if (match[1].length() == 0) {
      if (match[4].length() == 0 && kVoid.count(match[2]) == 0) open.push_back(match[2]);
    } else {
      if (open.empty() || open.back() != match[2]) return body.substr(at, 80);
      open.pop_back();
    }
  }
  if (body.find('<', expected) != std::string::npos) return body.substr(body.find('<', expected), 80);
  return open.empty() ? "" : open.back();
}

// Ids must be unique, and what refers to one must find it.
void ExpectSoundIds(const std::string& page) {
  static const std::regex id(R"re( id="([^"]*)")re");
  std::set<std::string> ids;
  for (auto it = std::sregex_iterator(page.begin(), page.end(), id); it != std::sregex_iterator(); ++it) {
    EXPECT_TRUE(ids.insert((*it)[1]).second) << (*it)[1];
  }
}

void ExpectSound(const std::string& page) {
  EXPECT_EQ(FirstUnbalanced(page), "");
  ExpectSoundIds(page);
  static const std::regex no_number(R"re(\b(nan|inf|infinity)\b)re", std::regex::icase);
  EXPECT_FALSE(std::regex_search(page, no_number));
  EXPECT_TRUE(absl::StartsWith(page, "<!DOCTYPE html>\n<html lang=\"en\">"));
  // Nothing from elsewhere, and nothing that runs.
  for (const char* outside : {"http://", "https://", "<script", "<img", "<link", "url(", "@import", " onload="}) {
    EXPECT_THAT(page, Not(HasSubstr(outside)));
  }
}

TEST(ReportHtmlTest, LearningCurvesAndFreeTextHaveTheirPlace) {
  Comparison comparison = SampleComparison();
  comparison.metric = QualityMetric::kRougeL;
  comparison.choices.clear();
  comparison.spec.learning_curve = true;
  comparison.spec.judge_model = "judge<1>";
  for (Contender& contender : comparison.contenders) {
    if (contender.kind != ContenderKind::kLora) continue;
    Trial done;
    done.state = Trial::State::kDone;
    done.validation = {"quality", 0.625, 0.5, 0.75, 50};
    Trial failed;
    failed.state = Trial::State::kFailed;
    failed.error = "out of <memory>";
    contender.curve = {{1234, done}, {2468, failed}};
    contender.Set({std::string(kRougeL), 0.4375, 0.4, 0.5, 100});
    contender.Set({std::string(kTwiceTheData), 0.813, 0.78, 0.84, 0});
    contender.Set(Figure(kTrainingMemory, 2.5e9));
  }
  const std::string page = Page(comparison);
  ExpectSound(page);
  EXPECT_THAT(page, HasSubstr("id=\"curves\""));
  EXPECT_THAT(page, HasSubstr("1,234 rows"));
  EXPECT_THAT(page, HasSubstr("out of &lt;memory&gt;"));
  EXPECT_THAT(page, HasSubstr("twice as many"));
  EXPECT_THAT(page, HasSubstr("81.3%"));
  EXPECT_THAT(page, HasSubstr("ROUGE-L"));
  EXPECT_THAT(page, HasSubstr("2.50 GB"));
  EXPECT_THAT(page, HasSubstr("--learning-curve"));
  EXPECT_THAT(page, HasSubstr("--metric rouge-l"));
  EXPECT_THAT(page, HasSubstr("judge&lt;1&gt;"));
}

TEST(ReportHtmlTest, SampleHasEveryContenderMeasureAndVerdict) {
  const Comparison comparison = SampleComparison();
  const std::string page = Page(comparison);
  ExpectSound(page);
  for (const Contender& contender : comparison.contenders) {
    EXPECT_THAT(page, HasSubstr(std::string(ContenderTitle(contender.kind))));
    EXPECT_THAT(page, HasSubstr(contender.note));
    EXPECT_THAT(page, HasSubstr(contender.model));
  }
  for (const MeasureInfo& info : MeasureInfos()) {
    if (IsMeasured(comparison, info.name)) EXPECT_THAT(page, HasSubstr(std::string(info.title)));
  }
  EXPECT_THAT(page, Not(HasSubstr("ROUGE-L"))) << "what nobody measured is not explained";
  EXPECT_THAT(page, Not(HasSubstr("id=\"curves\"")));
  EXPECT_THAT(page, HasSubstr(absl::StrReplaceAll(comparison.verdict, {{"'", "&#39;"}})));
  EXPECT_THAT(page, HasSubstr("Take <strong>LoRA</strong>"));
  EXPECT_THAT(page, HasSubstr("97.8%</span> <span class=\"range\">97.2–98.4%"));
  EXPECT_THAT(page, HasSubstr("4,388 to train"));
}

// For tests/integration/report_test.py, which looks at it in a browser.
TEST(ReportHtmlTest, WritesTheSampleWhereAsked) {
  const char* path = std::getenv("ATTUNE_REPORT_SAMPLE");
  if (path == nullptr) GTEST_SKIP() << "ATTUNE_REPORT_SAMPLE names no file";
  std::ofstream file(path, std::ios::binary);
  file << Page(SampleComparison());
  file.close();
  ASSERT_TRUE(file.good());
}

TEST(ReportHtmlTest, SaysWhatIsBestBehindAndTied) {
  const std::string page = Page(SampleComparison());
  EXPECT_THAT(page, HasSubstr("<strong>98.1%</strong> <span class=\"best\">best</span>"));
  EXPECT_EQ(Count(page, "≈ tied"), 2);
  EXPECT_EQ(Count(page, "▼ behind"), 6);
  EXPECT_THAT(page, HasSubstr("p = 0.0004"));
  EXPECT_THAT(page, HasSubstr("Failed: out of memory"));
  EXPECT_THAT(page, HasSubstr("Stopped early: 8 points behind"));
}

TEST(ReportHtmlTest, MissingFiguresHaveAReason) {
  Comparison comparison = SampleComparison();
  std::string page = Page(comparison);
  EXPECT_THAT(page, HasSubstr("the method failed"));
  EXPECT_THAT(page, HasSubstr("the model itself is not changed"));
  EXPECT_THAT(page, HasSubstr("nothing is trained"));
  EXPECT_THAT(page, Not(HasSubstr("left out on request")));
  comparison.spec.skip_side_effects = true;
  for (Contender& contender : comparison.contenders)
    contender.measures.resize(std::min<size_t>(contender.measures.size(), 4));
  EXPECT_THAT(Page(comparison), HasSubstr("side effects were left out on request"));
}

TEST(ReportHtmlTest, PriceIsAColumnAndTheAxisWhereTold) {
  Comparison comparison = SampleComparison();
  EXPECT_THAT(Page(comparison), HasSubstr("Quality against training time"));
  EXPECT_THAT(Page(comparison), Not(HasSubstr("data-label=\"Price\"")));
  comparison.spec.price_per_device_hour = 2.5;
  for (Contender& contender : comparison.contenders) {
    if (const Measure* seconds = contender.Find(kSearchSeconds))
      AddMeasure(&contender, kPrice, seconds->value * 2.5 / 3600);
  }
  const std::string page = Page(comparison);
  ExpectSound(page);
  EXPECT_THAT(page, HasSubstr("Quality against price"));
  EXPECT_THAT(page, HasSubstr("data-label=\"Price\""));
  EXPECT_THAT(page, HasSubstr("--price 2.5"));
}

TEST(ReportHtmlTest, ExamplesAreAtMostTwentyAndMarked) {
  Comparison comparison = SampleComparison();
  for (int i = 0; i < 30; ++i)
    comparison.disagreements.push_back({absl::StrCat("prompt ", i), "yes", {{"lora", " yes\n"}, {"full", ""}}});
  const std::string page = Page(comparison);
  ExpectSound(page);
  EXPECT_EQ(Count(page, "<article>"), 20);
  EXPECT_THAT(page, HasSubstr("✓</span> right</td><th scope=\"row\"><bdi>LoRA</bdi></th><td><bdi>yes</bdi>"));
  EXPECT_THAT(
      page,
      HasSubstr(
          "✗</span> wrong</td><th scope=\"row\"><bdi>Full fine-tuning</bdi></th><td><span class=\"note\">(no answer)"));
}

TEST(ReportHtmlTest, CommandRepeatsTheComparison) {
  Comparison comparison = SampleComparison();
  comparison.spec.seed = 7;
  const std::string page = Page(comparison);
  EXPECT_THAT(page, HasSubstr("--base smollm2-135m-instruct"));
  EXPECT_THAT(page,
              HasSubstr("--methods zero-shot,hand-prompt,text-prompt,soft-prompt,prefix,ia3,lora,partial,full,hybrid"));
  for (const char* option : {"--trials 2", "--seed 7", "--test-fraction 0.2", "--epochs 2", "--batch-size 32",
                             "--template &#39;Classify the story.\\n\\n{text}\\n\\nTopic:&#39; "}) {
    EXPECT_THAT(page, HasSubstr(option));
  }
}

TEST(ReportHtmlTest, HostileTextIsHarmless) {
  const std::string evil =
      "</script><script>alert(1)</script>\"' onload=\"x\" &amp; <b>\x01\x1b[2J\x7f\xff\xc0\xaf\xed\xa0\x80\xe2\x80\xae"
      "abc\xd7\xa9" +
      std::string("\0z", 2);
  Comparison comparison = SampleComparison();
  comparison.spec.id = comparison.spec.display_name = comparison.spec.base_model = comparison.spec.dataset = evil;
  comparison.spec.validation_dataset = comparison.spec.test_dataset = comparison.spec.hand_prompt = evil;
  comparison.spec.data.prompt_template = comparison.spec.data.completion_template = evil;
  comparison.spec.hyperparameters.precision = evil;
  comparison.verdict = comparison.state_reason = evil;
  comparison.error = JobError{evil, evil};
  for (Contender& contender : comparison.contenders) {
    contender.note = contender.model = contender.prompt_template = evil;
    for (Trial& trial : contender.trials) trial.settings = trial.error = trial.model = evil;
    contender.measures.push_back({evil, 1, 1, 1, 1});
  }
  comparison.disagreements = {{evil + std::string(10'000, 'x') + "END", evil, {{evil, evil}}}};
  const std::string page = Page(comparison);
  EXPECT_EQ(FirstUnbalanced(page), "");
  for (const char* bad : {"<script", "<b>", "\x01", "\x1b", "\x7f", "\xff", "\xc0\xaf", "\xed\xa0\x80", "\xe2\x80\xae",
                          "END", " onload=\"x"}) {
    EXPECT_THAT(page, Not(HasSubstr(bad)));
  }
  EXPECT_EQ(page.find('\0'), std::string::npos);
  EXPECT_THAT(page, HasSubstr("&lt;/script&gt;"));
  EXPECT_THAT(page, HasSubstr("&amp;amp;"));
  EXPECT_THAT(page, HasSubstr("\xd7\xa9"));  // letters of any script stay
}

TEST(ReportHtmlTest, EmptyComparison) {
  const std::string page = Page({});
  ExpectSound(page);
  EXPECT_THAT(page, HasSubstr("No result yet"));
  EXPECT_THAT(page, HasSubstr("No method has been set up yet"));
}

TEST(ReportHtmlTest, RunningWithoutResults) {
  Comparison comparison = SampleComparison();
  comparison.state = ComparisonState::kRunning;
  comparison.state_reason = "searching settings of LoRA, 1 of 2";
  comparison.end_time.reset();
  comparison.winner = -1;
  comparison.verdict.clear();
  comparison.disagreements.clear();
  const std::vector<Contender> all = std::move(comparison.contenders);
  comparison.contenders.clear();
  for (const Contender& one : all) {
    comparison.contenders.emplace_back();
    comparison.contenders.back().kind = one.kind;
  }
  comparison.contenders[6].state = Contender::State::kSearching;
  comparison.contenders[6].trials.resize(2);
  comparison.contenders[6].trials[0].state = Trial::State::kRunning;
  const std::string page = Page(comparison);
  ExpectSound(page);
  EXPECT_THAT(page, HasSubstr("still running"));
  EXPECT_THAT(page, HasSubstr("searching settings of LoRA, 1 of 2"));
  EXPECT_THAT(page, HasSubstr("its turn has not come yet"));
  EXPECT_THAT(page, HasSubstr("being tried"));
  EXPECT_THAT(page, HasSubstr("running for 27 h 47 min"));
  EXPECT_THAT(page, Not(HasSubstr("id=\"cost\"")));
}

TEST(ReportHtmlTest, AllFailed) {
  Comparison comparison = SampleComparison();
  comparison.state = ComparisonState::kFailed;
  comparison.error = JobError{"ALL_CONTENDERS_FAILED", "no contender could be measured"};
  comparison.winner = -1;
  comparison.verdict.clear();
  for (Contender& contender : comparison.contenders) {
    contender.state = Contender::State::kFailed;
    contender.note = absl::StrCat("no memory for ", ContenderName(contender.kind));
    contender.measures.clear();
    contender.rank = 0;
  }
  const std::string page = Page(comparison);
  ExpectSound(page);
  EXPECT_THAT(page, HasSubstr("No method can be recommended"));
  EXPECT_THAT(page, HasSubstr("no contender could be measured"));
  for (const Contender& contender : comparison.contenders) EXPECT_THAT(page, HasSubstr(contender.note));
}

TEST(ReportHtmlTest, OneContender) {
  Comparison comparison = SampleComparison();
  comparison.contenders = {SampleContender(ContenderKind::kLora, 1, 0.9, 0.01, 60)};
  comparison.winner = 0;
  const std::string page = Page(comparison);
  ExpectSound(page);
  EXPECT_THAT(page, HasSubstr("id=\"plot-wide\""));
  EXPECT_THAT(page, Not(HasSubstr("class=\"best\">best")));  // there is nothing to be better than
}

TEST(ReportHtmlTest, TenContendersWithLongNames) {
  Comparison comparison = SampleComparison();
  comparison.spec.display_name = std::string(600, 'W');
  for (Contender& contender : comparison.contenders) {
    contender.model = std::string(300, 'm');
    contender.note = std::string(300, 'n');
  }
  ExpectSound(Page(comparison));
}

// Equal, zero, negative and unbounded figures, and indices that lead nowhere.
TEST(ReportHtmlTest, OddFigures) {
  const double odd[] = {0,
                        -1,
                        1,
                        1e-300,
                        1e300,
                        std::nan(""),
                        std::numeric_limits<double>::infinity(),
                        -std::numeric_limits<double>::infinity()};
  for (double value : odd) {
    Comparison comparison = SampleComparison();
    comparison.winner = 99;
    for (Contender& contender : comparison.contenders) {
      contender.best_trial = 99;
      contender.p_value = value;
      for (Measure& measure : contender.measures) measure = {measure.name, value, -value, value * 2, 5};
      for (Trial& trial : contender.trials)
        trial.validation = {"", value, value, value, 1}, trial.device_seconds = value;
    }
    ExpectSound(Page(comparison));
  }
}

TEST(ReportHtmlTest, UnbalancedTagsAreNoticed) {
  EXPECT_EQ(FirstUnbalanced("<!DOCTYPE html>\n<p><b>x</b></p><br><i/>"), "");
  EXPECT_NE(FirstUnbalanced("<!DOCTYPE html>\n<p><b>x</p></b>"), "");
  EXPECT_NE(FirstUnbalanced("<!DOCTYPE html>\n<p>"), "");
  EXPECT_NE(FirstUnbalanced("<!DOCTYPE html>\n<p>1 < 2</p>"), "");
  EXPECT_NE(FirstUnbalanced("<!DOCTYPE html>\n<p a=\"\"b\">x</p>"), "");
}

}  // namespace
}  // namespace attune
