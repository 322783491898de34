#include "server/metrics/metrics.h"

#include <regex>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace attune {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Metrics::Options TestOptions() {
  Metrics::Options options;
  options.version = "1.2.3";
  options.device = "cpu";
  return options;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The bucket bounds of a histogram's first series.
std::string Bounds(const std::string& text, const std::string& name) {
  std::string out;
  std::smatch match;
  const std::regex bucket(name + R"re(_bucket\{.*le="([^"]+)".*)re");
  for (const std::string& line : Lines(text)) {
    if (std::regex_match(line, match, bucket)) absl::StrAppend(&out, match[1].str(), " ");
  }
  return out;
}

void UseEverything(Metrics* metrics) {
  metrics->RpcFinished("TuningService", "GetTuningJob", "OK", 0.01);
  metrics->EngineStep(3, 0.02);
  metrics->FirstToken("m", 0.1, 0.2, 0.3);
  metrics->InterToken("m", 0.04);
  metrics->RequestFinished("m", "stop", 10, 5, 0.2, 0.5);
  metrics->Preempted();
  metrics->Swapped(1, 4096, 2048);
  metrics->LetIn(100, 64);
  metrics->KnownPrompt();
  metrics->Drafted(10, 7);
  metrics->PutOff(0.002);
  metrics->TrainingStep("m", 1000, 2, 1.5);
  metrics->JobStarted("lora", 3);
  metrics->DatasetStored(7, 2);
}

TEST(MetricsTest, CountsUnderTheDocumentedNames) {
  Metrics metrics(TestOptions());
  UseEverything(&metrics);
  std::string text = metrics.Render();
  for (const char* line : {
           "attune_prompt_tokens_total{model_name=\"m\"} 10",
           "attune_generation_tokens_total{model_name=\"m\"} 5",
           "attune_num_preemptions_total 1",
           "attune_num_swapped_out_total 1",
           "attune_swapped_bytes_total{direction=\"out\"} 4096",
           "attune_swapped_bytes_total{direction=\"in\"} 2048",
           "attune_prefix_cache_queries_total 100",
           "attune_prefix_cache_hits_total 64",
           "attune_known_prompts_total 1",
           "attune_time_to_first_token_seconds_count{model_name=\"m\"} 1",
           "attune_inter_token_latency_seconds_count{model_name=\"m\"} 1",
           "attune_e2e_request_latency_seconds_sum{model_name=\"m\"} 0.5",
           "attune_request_queue_time_seconds_sum{model_name=\"m\"} 0.1",
           "attune_request_prefill_time_seconds_sum{model_name=\"m\"} 0.2",
           "attune_request_decode_time_seconds_sum{model_name=\"m\"} 0.2",
           "attune_request_prompt_tokens_sum{model_name=\"m\"} 10",
           "attune_request_generation_tokens_sum{model_name=\"m\"} 5",
           "attune_training_loss{model_name=\"m\"} 1.5",
           "attune_training_tokens_total{model_name=\"m\"} 1000",
           "attune_training_tokens_per_second{model_name=\"m\"} 500",
           "attune_training_step_seconds_count{model_name=\"m\"} 1",
           "attune_job_queue_wait_seconds_sum{method=\"lora\"} 3",
           "attune_batch_size_sum 3",
           "attune_dataset_rows_total{result=\"accepted\"} 7",
           "attune_dataset_rows_total{result=\"skipped\"} 2",
       }) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat(line, "\n")));
  }
  EXPECT_THAT(text, HasSubstr("attune_request_success_total{"));
  EXPECT_THAT(text, HasSubstr("finished_reason=\"stop\""));
  EXPECT_THAT(text, HasSubstr("version=\"1.2.3\""));
}

TEST(MetricsTest, HasTheBucketsThatDashboardsExpect) {
  Metrics metrics(TestOptions());
  UseEverything(&metrics);
  std::string text = metrics.Render();
  EXPECT_EQ(Bounds(text, "attune_time_to_first_token_seconds"),
            "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 +Inf ");
  EXPECT_EQ(Bounds(text, "attune_e2e_request_latency_seconds"),
            "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 +Inf ");
}

TEST(MetricsTest, EveryLineParsesAndEveryFamilyHasHelp) {
  Metrics metrics(TestOptions());
  UseEverything(&metrics);
  const std::regex sample(
      R"re([a-z0-9_]+(\{[a-z_]+="([^"\\]|\\.)*"(,[a-z_]+="([^"\\]|\\.)*")*\})? ([-+]?[0-9.e+-]+|\+Inf|Nan))re");
  const std::regex comment(R"re(# (HELP|TYPE) (attune_[a-z0-9_]+) (.+))re");
  std::set<std::string> helped;
  int samples = 0;
  std::smatch match;
  for (const std::string& line : Lines(metrics.Render())) {
    if (std::regex_match(line, match, comment)) {
      if (match[1] == "HELP") helped.insert(match[2]);
      continue;
    }
    ASSERT_TRUE(std::regex_match(line, sample)) << line;
    ++samples;
    std::string name = line.substr(0, line.find_first_of("{ "));
    for (const char* suffix : {"_bucket", "_sum", "_count"}) {
      std::string stem = name.substr(0, name.size() - std::min(name.size(), std::string(suffix).size()));
      if (stem + suffix == name && helped.count(stem)) name = stem;
    }
    EXPECT_TRUE(helped.count(name)) << name;
  }
  EXPECT_GT(samples, 100);
}

TEST(MetricsTest, FurtherModelsShareOneName) {
  Metrics::Options options = TestOptions();
  options.max_model_names = 2;
  Metrics metrics(options);
  for (int i = 0; i < 10; ++i) metrics.InterToken(absl::StrCat("model-", i), 0.1);
  std::string text = metrics.Render();
  EXPECT_THAT(text, HasSubstr("attune_inter_token_latency_seconds_count{model_name=\"model-1\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("model-2")));
  EXPECT_THAT(text, HasSubstr("attune_inter_token_latency_seconds_count{model_name=\"other\"} 8\n"));
}

TEST(MetricsTest, ADeletedModelGivesItsPlaceBack) {
  Metrics::Options options = TestOptions();
  options.max_model_names = 1;
  Metrics metrics(options);
  metrics.RequestFinished("a", "stop", 1, 1, 0, 0);
  metrics.ForgetModel("a");
  EXPECT_THAT(metrics.Render(), Not(HasSubstr("model_name")));
  metrics.InterToken("b", 0.1);
  EXPECT_THAT(metrics.Render(), HasSubstr("{model_name=\"b\"} 1\n"));
}

TEST(MetricsTest, GaugesAreReadAtEachScrape) {
  Metrics metrics(TestOptions());
  int reads = 0;
  metrics.SetGaugeReader([&] {
    Metrics::Gauges gauges;
    gauges.requests_running = ++reads;
    gauges.kv_cache_usage = 0.25;
    gauges.swap_used = 7;
    gauges.device_memory_total = 1000;
    gauges.jobs[{"RUNNING", "lora"}] = 2 - reads;
    return gauges;
  });
  std::string text = metrics.Render();
  EXPECT_THAT(text, HasSubstr("attune_num_requests_running 1\n"));
  EXPECT_THAT(text, HasSubstr("attune_kv_cache_usage_perc 0.25\n"));
  EXPECT_THAT(text, HasSubstr("attune_swap_memory_bytes{kind=\"used\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("attune_device_memory_bytes{kind=\"total\"} 1000\n"));
  EXPECT_THAT(text, testing::ContainsRegex("attune_jobs.*RUNNING.* 1\n"));
  text = metrics.Render();
  EXPECT_THAT(text, HasSubstr("attune_num_requests_running 2\n"));
  EXPECT_THAT(text, testing::ContainsRegex("attune_jobs.*RUNNING.* 0\n"));
}

TEST(MetricsTest, EnergyHasASeriesOnlyWhereTheDeviceTells) {
  Metrics metrics(TestOptions());
  std::optional<double> joules;
  metrics.SetGaugeReader([&] {
    Metrics::Gauges gauges;
    gauges.energy_joules = joules;
    return gauges;
  });
  EXPECT_THAT(metrics.Render(), Not(HasSubstr("attune_device_energy_joules_total")));
  joules = 250.5;
  EXPECT_THAT(metrics.Render(), HasSubstr("attune_device_energy_joules_total 250.5\n"));
  joules = std::nullopt;  // a reading that failed
  EXPECT_THAT(metrics.Render(), HasSubstr("attune_device_energy_joules_total 250.5\n"));
}

}  // namespace
}  // namespace attune
