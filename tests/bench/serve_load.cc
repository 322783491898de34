// Load over gRPC, as clients make it. See --help, and tests/bench/run_load.py, which starts a server
// and compares runs.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "client/attune.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

struct Options {
  std::string server = "127.0.0.1:7070";
  std::string models;        // names, with commas between them
  double zipf = 1;           // the k-th model is asked for k^-zipf times as often as the first
  double rate = 0;           // requests a second that arrive, whoever is still busy; 0: closed loop
  int clients = 8;           // in a closed loop: each asks anew when it is answered
  int connections = 4;
  double seconds = 20, warmup = 3;
  int prompt_tokens = 128, new_tokens = 128, shared_tokens = 0;
  int vocabulary = 40000;    // token ids of prompts are 100 to this
  double first_target = 1, inter_target = 0.05;  // seconds: what counts as good
  uint64_t seed = 1;
  bool json = false;
};

// What became of a request. Times in seconds since the run began.
struct Request {
  double arrival = 0, first = 0, end = 0;
  std::vector<double> gaps;  // between pieces of text
  int tokens = 0;
  bool failed = false;
};

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

class Load {
 public:
  explicit Load(const Options& options) : options_(options), models_(absl::StrSplit(options.models, ',')) {
    double sum = 0;
    for (size_t i = 0; i < models_.size(); ++i) {
      sum += std::pow(static_cast<double>(i + 1), -options_.zipf);
      cumulative_.push_back(sum);
    }
  }

  absl::Status Connect() {
    for (int i = 0; i < options_.connections; ++i) {
      auto client = Client::Connect(options_.server);
      if (!client.ok()) return client.status();
      clients_.push_back(*std::move(client));
    }
    return clients_[0]->WaitForReady(absl::Seconds(30));
  }

  void Run() {
    start_ = absl::Now();
    const double all = options_.warmup + options_.seconds;
    std::vector<std::thread> threads;
    if (options_.rate > 0) {
      std::mt19937_64 random(options_.seed);
      std::exponential_distribution<double> gap(options_.rate);
      uint64_t number = 0;
      for (double at = gap(random); at < all; at += gap(random)) {
        absl::SleepFor(start_ + absl::Seconds(at) - absl::Now());
        threads.emplace_back([this, at, number] { Ask(number, at); });
        ++number;
      }
    } else {
      for (int c = 0; c < options_.clients; ++c) {
        threads.emplace_back([this, c, all] {
          for (uint64_t i = 0; Since() < all; ++i) Ask((static_cast<uint64_t>(c) << 32) + i, Since());
        });
      }
    }
    for (std::thread& thread : threads) thread.join();
  }

  nlohmann::json Report() const {
    absl::MutexLock lock(&mutex_);
    const double begin = options_.warmup, end = options_.warmup + options_.seconds;
    std::vector<double> first, gaps, whole;
    int64_t requests = 0, failed = 0, good = 0;
    double tokens = 0;
    for (const Request& r : requests_) {
      // Tokens are counted as they came, whether or not their request lies inside.
      const double span = std::max(r.end - r.first, 1e-9);
      const double inside = std::clamp(std::min(r.end, end) - std::max(r.first, begin), 0.0, span);
      tokens += r.failed ? 0 : r.tokens * inside / span;
      if (r.arrival < begin || r.arrival >= end) continue;
      ++requests;
      failed += r.failed;
      if (r.failed) continue;
      first.push_back(r.first - r.arrival);
      whole.push_back(r.end - r.arrival);
      gaps.insert(gaps.end(), r.gaps.begin(), r.gaps.end());
      good += r.first - r.arrival <= options_.first_target && Percentile(r.gaps, 0.99) <= options_.inter_target;
    }
    return {{"requests", requests},
            {"failed", failed},
            {"requests_per_second", static_cast<double>(requests) / options_.seconds},
            {"tokens_per_second", tokens / options_.seconds},
            {"first_token_p50", Percentile(first, 0.5)},
            {"first_token_p99", Percentile(first, 0.99)},
            {"inter_token_p50", Percentile(gaps, 0.5)},
            {"inter_token_p99", Percentile(gaps, 0.99)},
            {"request_p50", Percentile(whole, 0.5)},
            {"request_p99", Percentile(whole, 0.99)},
            {"goodput_requests_per_second", static_cast<double>(good) / options_.seconds}};
  }

 private:
  double Since() const { return absl::ToDoubleSeconds(absl::Now() - start_); }

  v1::GenerateRequest Make(uint64_t number) const {
    std::mt19937_64 random(options_.seed * 1000003 + number);
    const double draw = std::uniform_real_distribution<double>(0, cumulative_.back())(random);
    const size_t model = std::upper_bound(cumulative_.begin(), cumulative_.end(), draw) - cumulative_.begin();
    v1::GenerateRequest request;
    request.set_model(absl::StrCat("models/", models_[std::min(model, models_.size() - 1)]));
    request.set_max_tokens(options_.new_tokens);
    request.set_ignore_eos(true);
    request.mutable_sampling()->set_temperature(0);
    auto* ids = request.mutable_prompt()->mutable_token_ids();
    std::uniform_int_distribution<int> token(100, options_.vocabulary - 1);
    std::mt19937_64 shared(options_.seed);
    for (int i = 0; i < options_.prompt_tokens; ++i) ids->add_ids(token(i < options_.shared_tokens ? shared : random));
    return request;
  }

  void Ask(uint64_t number, double arrival) {
    Request result;
    result.arrival = arrival;
    double last = 0;
    const absl::Status status = clients_[number % clients_.size()]->StreamGenerate(
        Make(number), [&](const v1::StreamGenerateResponse& piece) {
          const double now = Since();
          if (result.first == 0) {
            result.first = now;
          } else {
            result.gaps.push_back(now - last);
          }
          last = now;
          if (piece.has_usage()) result.tokens = piece.usage().completion_tokens();
          return true;
        });
    result.end = Since();
    result.failed = !status.ok();
    if (result.failed && !complained_.exchange(true)) std::cerr << "a request failed: " << status << "\n";
    absl::MutexLock lock(&mutex_);
    requests_.push_back(std::move(result));
  }

  const Options options_;
  const std::vector<std::string> models_;
  std::vector<double> cumulative_;
  std::vector<std::unique_ptr<Client>> clients_;
  absl::Time start_;
  std::atomic<bool> complained_ = false;
  mutable absl::Mutex mutex_;
  std::vector<Request> requests_ ABSL_GUARDED_BY(mutex_);
};

void Print(const nlohmann::json& r, const Options& options) {
  auto ms = [&](const char* key) { return 1000 * r.at(key).get<double>(); };
  std::cout << absl::StrFormat(
      "%d requests (%d failed), %.2f a second; %.1f tokens/s\n"
      "first token    p50 %8.1f ms, p99 %8.1f ms\n"
      "between pieces p50 %8.1f ms, p99 %8.1f ms\n"
      "whole request  p50 %8.1f ms, p99 %8.1f ms\n"
      "goodput %.2f requests/s (first token within %g s, p99 between pieces within %g s)\n",
      r.at("requests").get<int>(), r.at("failed").get<int>(), r.at("requests_per_second").get<double>(),
      r.at("tokens_per_second").get<double>(), ms("first_token_p50"), ms("first_token_p99"), ms("inter_token_p50"),
      ms("inter_token_p99"), ms("request_p50"), ms("request_p99"), r.at("goodput_requests_per_second").get<double>(),
      options.first_target, options.inter_target);
}

int Main(int argc, char** argv) {
  Options o;
  CLI::App app("Streams answers from a server to many clients and says how fast they came.\n"
               "Closed loop (--clients) or Poisson arrivals (--rate); models drawn from a Zipf distribution.");
  app.add_option("--server", o.server, "Address")->capture_default_str();
  app.add_option("--models", o.models, "Names, with commas between them, most asked for first")->required();
  app.add_option("--zipf", o.zipf, "The k-th model is asked for k^-ZIPF times as often as the first")->capture_default_str();
  app.add_option("--rate", o.rate, "Requests that arrive a second; 0: closed loop")->capture_default_str();
  app.add_option("--clients", o.clients, "In a closed loop: that each wait for their answer")->capture_default_str();
  app.add_option("--connections", o.connections, "gRPC connections")->capture_default_str();
  app.add_option("--seconds", o.seconds, "To measure")->capture_default_str();
  app.add_option("--warmup", o.warmup, "Seconds before that")->capture_default_str();
  app.add_option("--prompt-tokens", o.prompt_tokens, "Of each request")->capture_default_str();
  app.add_option("--shared-tokens", o.shared_tokens, "Of these, the first so many are the same in all")->capture_default_str();
  app.add_option("--new-tokens", o.new_tokens, "Of each answer")->capture_default_str();
  app.add_option("--vocabulary", o.vocabulary, "Prompts' token ids are below this")->capture_default_str();
  app.add_option("--first-target", o.first_target, "Seconds to the first token of a good request")->capture_default_str();
  app.add_option("--inter-target", o.inter_target, "Seconds between its pieces, at most, 99 in 100")->capture_default_str();
  app.add_option("--seed", o.seed, "Same seed, same requests")->capture_default_str();
  app.add_flag("--json", o.json, "Print one line of JSON");
  CLI11_PARSE(app, argc, argv);
  Load load(o);
  const absl::Status status = load.Connect();
  if (!status.ok()) {
    std::cerr << status << "\n";
    return 1;
  }
  load.Run();
  const nlohmann::json report = load.Report();
  o.json ? static_cast<void>(std::cout << report.dump() << "\n") : Print(report, o);
  return report.at("failed").get<int>() > 0;
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) { return attune::Main(argc, argv); }
