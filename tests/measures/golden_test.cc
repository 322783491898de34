// Compares with golden.json, which tests/interop/measures_reference.py makes with the packages that others use.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/evaluation/measures/agreement.h"
#include "server/evaluation/measures/bleu.h"
#include "server/evaluation/measures/calibration.h"
#include "server/evaluation/measures/chrf.h"
#include "server/evaluation/measures/classification.h"
#include "server/evaluation/measures/exact_match.h"
#include "server/evaluation/measures/label_balance.h"
#include "server/evaluation/measures/label_noise.h"
#include "server/evaluation/measures/learning_curve.h"
#include "server/evaluation/measures/percentile.h"
#include "server/evaluation/measures/random.h"
#include "server/evaluation/measures/rank_correlation.h"
#include "server/evaluation/measures/rouge.h"
#include "server/evaluation/measures/significance.h"
#include "server/evaluation/measures/token_f1.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {
namespace {

using nlohmann::json;
using ::testing::Pointwise;

constexpr double kTolerance = 1e-6;

// The cases of one kind.
const json& Golden(const char* kind) {
  static const json* const golden = [] {
    std::ifstream in(std::string(ATTUNE_SOURCE_DIR) + "/tests/measures/golden.json");
    return new json(json::parse(in));
  }();
  return golden->at(kind);
}

std::vector<double> Doubles(const json& values) { return values.get<std::vector<double>>(); }
std::vector<std::string> Strings(const json& values) { return values.get<std::vector<std::string>>(); }

MATCHER(IsNear, "") { return std::abs(std::get<0>(arg) - std::get<1>(arg)) < kTolerance; }

TEST(GoldenTest, Texts) {
  ASSERT_GE(Golden("text").size(), 30);
  for (const json& item : Golden("text")) {
    const std::string answer = item["answer"];
    SCOPED_TRACE(answer);
    const std::vector<std::string> references = Strings(item["references"]);
    EXPECT_EQ(NormalizeAnswer(answer), item["normalized"]);
    EXPECT_EQ(ExactMatch(answer, references, AnswerForm::kNormalized), item["exact"]);
    EXPECT_NEAR(TokenF1(answer, references), item["f1"], kTolerance);
    const RougeScore rouge = RougeL(answer, references);
    EXPECT_THAT((std::vector<double>{rouge.precision, rouge.recall, rouge.f1}),
                Pointwise(IsNear(), Doubles(item["rouge_l"])));
    EXPECT_NEAR(ChrfScore(CountChrf(answer, references)), item["chrf"], kTolerance);
    EXPECT_EQ(Tokenize13a(answer), Strings(item["tokens_13a"]));
  }
}

TEST(GoldenTest, Corpora) {
  for (const json& item : Golden("corpora")) {
    BleuStatistics bleu;
    ChrfStatistics chrf;
    for (const json& pair : item["pairs"]) {
      bleu += CountBleu(pair[0].get<std::string>(), Strings(pair[1]));
      chrf += CountChrf(pair[0].get<std::string>(), Strings(pair[1]));
    }
    EXPECT_NEAR(BleuScore(bleu), item["bleu"], kTolerance);
    EXPECT_NEAR(ChrfScore(chrf), item["chrf"], kTolerance);
  }
}

TEST(GoldenTest, Classification) {
  for (const json& item : Golden("classification")) {
    Confusion confusion;
    for (size_t i = 0; i < item["expected"].size(); ++i) {
      confusion.Add(item["expected"][i].get<std::string>(), item["predicted"][i].get<std::string>());
    }
    EXPECT_NEAR(confusion.Accuracy(), item["accuracy"], kTolerance);
    EXPECT_NEAR(confusion.MacroF1(), item["macro_f1"], kTolerance);
    const std::vector<LabelScore> labels = confusion.Labels();
    ASSERT_EQ(labels.size(), item["labels"].size());
    for (size_t i = 0; i < labels.size(); ++i) {
      EXPECT_EQ(labels[i].label, item["labels"][i]);
      EXPECT_NEAR(labels[i].precision, item["precision"][i], kTolerance);
      EXPECT_NEAR(labels[i].recall, item["recall"][i], kTolerance);
      EXPECT_NEAR(labels[i].f1, item["f1"][i], kTolerance);
      for (size_t j = 0; j < labels.size(); ++j) {
        const auto it = confusion.counts().find({labels[i].label, labels[j].label});
        EXPECT_EQ(it == confusion.counts().end() ? 0 : it->second, item["confusion"][i][j]);
      }
    }
  }
}

TEST(GoldenTest, Calibration) {
  for (const json& item : Golden("calibration")) {
    std::vector<Judgement> judgements;
    for (size_t i = 0; i < item["correct"].size(); ++i) {
      judgements.push_back({item["confidence"][i], item["correct"][i]});
    }
    EXPECT_NEAR(ExpectedCalibrationError(judgements, item["bins"]), item["ece"], kTolerance);
    EXPECT_NEAR(BrierScore(judgements), item["brier"], kTolerance);
  }
}

TEST(GoldenTest, Intervals) {
  for (const json& item : Golden("wilson")) {
    const Proportion p = WilsonInterval(item[0], item[1]);
    EXPECT_NEAR(p.lower, item[2], kTolerance);
    EXPECT_NEAR(p.upper, item[3], kTolerance);
  }
}

TEST(GoldenTest, Significance) {
  for (const json& item : Golden("mcnemar")) EXPECT_NEAR(McNemarExact(item[0], item[1]), item[2], kTolerance) << item;
  for (const json& item : Golden("permutation")) {
    std::vector<double> differences;
    for (size_t i = 0; i < item["first"].size(); ++i) {
      differences.push_back(item["first"][i].get<double>() - item["second"][i].get<double>());
    }
    EXPECT_NEAR(PermutationTest(differences, 5000, 1), item["p"], kTolerance);
  }
  EXPECT_THAT(HolmAdjust(Doubles(Golden("holm")["p"])), Pointwise(IsNear(), Doubles(Golden("holm")["adjusted"])));
}

TEST(GoldenTest, Ranks) {
  for (const json& item : Golden("kendall")) {
    EXPECT_NEAR(KendallTau(Doubles(item["a"]), Doubles(item["b"])).value(), item["tau"], kTolerance);
  }
  const json& item = Golden("percentiles");
  EXPECT_THAT(Percentiles(Doubles(item["values"]), Doubles(item["percents"])),
              Pointwise(IsNear(), Doubles(item["results"])));
}

TEST(GoldenTest, Agreement) {
  for (const json& item : Golden("fleiss")) {
    const auto groups = item["groups"].get<std::vector<AnswerGroup>>();
    EXPECT_NEAR(FleissKappa(groups).value(), item["kappa"], kTolerance);
  }
}

TEST(GoldenTest, Labels) {
  EXPECT_NEAR(MeasureLabelBalance(Strings(Golden("entropy")["labels"])).entropy, Golden("entropy")["bits"], kTolerance);
  for (const json& item : Golden("label_noise")) {
    const auto features = item["features"].get<std::vector<float>>();
    const auto labels = item["labels"].get<std::vector<int32_t>>();
    const LabelNoise noise = FindLabelNoise(features, labels, item["neighbors"]).value();
    EXPECT_THAT(noise.disagreement, Pointwise(IsNear(), Doubles(item["disagreement"])));
  }
}

TEST(GoldenTest, Curves) {
  for (const json& item : Golden("curves")) {
    std::vector<CurvePoint> points;
    for (const json& point : item["points"]) points.push_back({point[0], point[1], point[2]});
    const LearningCurve curve = FitLearningCurve(points).value();
    EXPECT_NEAR(curve.limit, item["limit"], 1e-4);
    EXPECT_NEAR(curve.rate, item["rate"], 1e-4);
    EXPECT_NEAR(curve.Quality(item["at"]), item["quality"], 1e-5);
  }
}

TEST(GoldenTest, RandomBits) {
  for (const json& item : Golden("random")) {
    const std::string seed = item["seed"], stream = item["stream"];
    CounterRandom random(std::stoull(seed), std::stoull(stream));
    for (const json& bits : item["bits"]) EXPECT_EQ(std::to_string(random.Bits()), bits);
  }
}

}  // namespace
}  // namespace attune
