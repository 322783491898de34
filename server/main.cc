#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/log.h"
#include "server/server.h"

namespace {

constexpr int kExitUsage = 2;
constexpr int kExitStartFailed = 1;
constexpr int kExitForced = 130;

struct Flags {
  attune::ServerOptions server;
  int threads = 0;
  std::string log_level = "info";
  double shutdown_grace = 30;
};

// The last part of HOST:PORT replaced by the port that was found.
std::string WithPort(const std::string& address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

void AddFlags(CLI::App* app, Flags* flags) {
  attune::ServerOptions& server = flags->server;
  const auto at_least = [](double low) { return CLI::Range(low, 1e18); };
  app->add_option("--data-dir", server.data_dir, "Where everything is kept; made if it is not there")
      ->envname("ATTUNE_DATA_DIR")
      ->required();
  app->add_option("--listen", server.listen, "gRPC address, HOST:PORT; port 0 picks a free one")
      ->envname("ATTUNE_LISTEN")
      ->capture_default_str();
  app->add_option("--http-listen", server.http_listen, "Address of /metrics, /healthz and /readyz")
      ->envname("ATTUNE_HTTP_LISTEN")
      ->capture_default_str();
  app->add_option("--device", server.device, "Where to compute")
      ->envname("ATTUNE_DEVICE")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app->add_option("--precision", server.precision, "Type to compute in")
      ->envname("ATTUNE_PRECISION")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}))
      ->capture_default_str();
  app->add_flag("--deterministic", server.deterministic,
                "On a GPU, the same training bit for bit each time, also on long sequences, which it slows down")
      ->envname("ATTUNE_DETERMINISTIC");
  app->add_option("--threads", flags->threads, "CPU threads; 0 is one per core")
      ->envname("ATTUNE_THREADS")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app->add_option("--import-root", server.import_roots,
                  "Folder that models may be imported from, besides DATA_DIR/import; may be repeated, or hold several "
                  "with ':' between them")
      ->envname("ATTUNE_IMPORT_ROOT")
      ->delimiter(':')
      ->allow_extra_args(false);
  app->add_option("--export-root", server.export_root, "Folder that models are exported to; default DATA_DIR/exports")
      ->envname("ATTUNE_EXPORT_ROOT");
  app->add_option("--log-level", flags->log_level, "Least important lines to log")
      ->envname("ATTUNE_LOG_LEVEL")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app->add_option("--max-concurrent-jobs", server.max_concurrent_jobs, "Tuning jobs that run at once")
      ->envname("ATTUNE_MAX_CONCURRENT_JOBS")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app->add_option("--decode-weights", server.decode_weights,
                  "Blocks in which decoding reads weights; those of a file that has some (GGUF's Q4, Q8_0) are kept:\n"
                  "int8, int4 and, on a GPU, fp8 are faster, and at load the log says what they cost in perplexity")
      ->envname("ATTUNE_DECODE_WEIGHTS")
      ->check(CLI::IsMember({"as-loaded", "int8", "fp8", "int4"}))
      ->capture_default_str();
  app->add_option("--decode-loras", server.decode_loras,
                  "On a GPU (Hopper or later) int8: steps of decoding in which no two answers share a LoRA read them in int8,\n"
                  "which is faster where many are served together; they take half as much memory again, and at load the log\n"
                  "says how far they are off")
      ->envname("ATTUNE_DECODE_LORAS")
      ->check(CLI::IsMember({"as-loaded", "int8"}))
      ->capture_default_str();
  app->add_flag("--batch-invariant", server.batch_invariant,
                "An answer is the same, bit for bit, whatever else is generated beside it; slower")
      ->envname("ATTUNE_BATCH_INVARIANT");
  app->add_option("--kv-tokens", server.kv_tokens, "Tokens that the KV cache holds, over all requests")
      ->envname("ATTUNE_KV_TOKENS")
      ->check(at_least(16))
      ->capture_default_str();
  app->add_option(
         "--swap-space", server.swap_space,
         "Bytes of host memory for the KV pages of answers that make way for others, e.g. 8G: these are copied\n"
         "there and back instead of being read again; 0: never (default: 0 on a CPU; with a GPU 4G, of the\n"
         "machine's memory an eighth at most)")
      ->envname("ATTUNE_SWAP_SPACE")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  app->add_flag("--prefix-cache,!--no-prefix-cache", server.prefix_cache,
                "Keep what was computed of prompts for others that begin alike (default: on)")
      ->envname("ATTUNE_PREFIX_CACHE");
  app->add_option("--prompt-logits", server.prompt_logits,
                  "Bytes of host memory, e.g. 256M, for what the model says after whole prompts: the first token of an answer to\n"
                  "the very same prompt needs no pass then; 0: none. Not with --no-prefix-cache, nor on a GPU with --batch-invariant")
      ->envname("ATTUNE_PROMPT_LOGITS")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->check(at_least(0))
      ->default_str("64M");
  app->add_option("--max-sequences", server.max_sequences, "Answers that are generated together")
      ->envname("ATTUNE_MAX_SEQUENCES")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option(
         "--adapter-memory", server.adapter_memory,
         "Bytes of LoRAs and soft prompts that stay loaded, e.g. 16G; those used longest ago make way. On a GPU\n"
         "they are set aside (default: 4G; of a GPU's memory an eighth at most)")
      ->envname("ATTUNE_ADAPTER_MEMORY")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  app->add_option("--training-share", server.training_share,
                  "Least share of the device's time for training while generation wants it too, 0 to 1\n"
                  "(default: 0.5; with --inter-token-target 0.05)")
      ->envname("ATTUNE_TRAINING_SHARE")
      ->check(CLI::Range(0.0, 1.0));
  app->add_option("--inter-token-target", server.inter_token_target,
                  "Seconds between an answer's tokens that generation can do with while a job trains, e.g. 0.05: the\n"
                  "job gets what this leaves, however little or much that is; 0: jobs get --training-share")
      ->envname("ATTUNE_INTER_TOKEN_TARGET")
      ->check(CLI::Range(0.0, 60.0))
      ->capture_default_str();
  app->add_option("--shutdown-grace", flags->shutdown_grace, "Seconds that requests get to finish after SIGTERM")
      ->envname("ATTUNE_SHUTDOWN_GRACE")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
}

// SIGTERM and SIGINT come by sigwait only; threads made from now on inherit that.
sigset_t BlockSignals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

int Wait(const sigset_t& signals) {
  int signal = 0;
  while (sigwait(&signals, &signal) != 0) {
  }
  return signal;
}

// OpenMP reads its environment when the program is loaded, before main: so the program
// is loaded once more where that differs from what is wanted.
void UseThreads(int threads, char** argv) {
  const std::string wanted = std::to_string(threads);
  const char* now = std::getenv("OMP_NUM_THREADS");
  if (now != nullptr && now == wanted) return;
  setenv("OMP_NUM_THREADS", wanted.c_str(), /*overwrite=*/1);
  execv("/proc/self/exe", argv);
  attune::LogWarning("server.threads_not_set", {{"threads", wanted}});
}

int Serve(const Flags& flags) {
  const sigset_t signals = BlockSignals();
  absl::StatusOr<std::unique_ptr<attune::Server>> server = attune::Server::Start(flags.server);
  if (!server.ok()) {
    const std::string reason = attune::GetErrorDetails(server.status()).reason;
    std::fprintf(stderr, "attuned: %s%s\n", std::string(server.status().message()).c_str(),
                 reason.empty() ? "" : absl::StrCat(" [", reason, "]").c_str());
    return kExitStartFailed;
  }
  std::printf("attuned listening grpc=%s http=%s\n", WithPort(flags.server.listen, (*server)->grpc_port()).c_str(),
              WithPort(flags.server.http_listen, (*server)->http_port()).c_str());
  std::fflush(stdout);

  attune::LogInfo("server.signal", {{"signal", strsignal(Wait(signals))}});
  std::thread([signals] {
    Wait(signals);
    attune::LogWarning("server.forced_exit", {});
    _exit(kExitForced);
  }).detach();
  (*server)->Shutdown(absl::Seconds(flags.shutdown_grace));
  server->reset();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("attuned tunes language models and serves them over gRPC.", "attuned");
  app.set_version_flag("--version", absl::StrCat("attuned ", attune::kServerVersion));
  const char* config = std::getenv("ATTUNE_CONFIG");
  app.set_config("--config", config == nullptr ? "" : config,
                 "TOML file with these options, e.g. data-dir = \"/var/lib/attune\"; the command line goes before it, "
                 "and it before the environment ($ATTUNE_CONFIG names it too)");
  app.footer("Every option can be given in the environment: --data-dir as ATTUNE_DATA_DIR, and so on.");
  if (config != nullptr && access(config, R_OK) != 0) {
    std::fprintf(stderr, "attuned: cannot read %s, which ATTUNE_CONFIG names\n", config);
    return kExitUsage;
  }
  Flags flags;
  AddFlags(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : kExitUsage;
  }
  attune::LogLevel level = attune::LogLevel::kInfo;
  attune::ParseLogLevel(flags.log_level, &level);
  attune::SetLogLevel(level);
  if (flags.threads > 0) UseThreads(flags.threads, argv);
  return Serve(flags);
}
