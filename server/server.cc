#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/clock.h"
#include "common/database.h"
#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "server/adapters/alias_store.h"
#include "server/adapters/exporter.h"
#include "server/adapters/inspect.h"
#include "server/adapters/registry.h"
#include "server/adapters/residency.h"
#include "server/advice/advisor.h"
#include "server/card_facts.h"
#include "server/comparison/comparison_manager.h"
#include "server/comparison/comparison_store.h"
#include "server/data/dataset_store.h"
#include "server/data_dir_lock.h"
#include "server/device/arbiter.h"
#include "server/device/energy_meter.h"
#include "server/device/energy_share.h"
#include "server/engine/engine.h"
#include "server/evaluation/prompt_search/runner.h"
#include "server/job_counts.h"
#include "server/job_router.h"
#include "server/jobs/job_store.h"
#include "server/jobs/manager.h"
#include "server/metrics/http_server.h"
#include "server/metrics/metrics.h"
#include "server/model/compute_target.h"
#include "server/model/device_bus_id.h"
#include "server/rpc/alias_service.h"
#include "server/rpc/advice_service.h"
#include "server/rpc/cancel_watcher.h"
#include "server/rpc/check.h"
#include "server/rpc/comparison_service.h"
#include "server/rpc/dataset_service.h"
#include "server/rpc/engine_metrics.h"
#include "server/rpc/evaluation_service.h"
#include "server/rpc/generation_service.h"
#include "server/rpc/model_provider.h"
#include "server/rpc/model_service.h"
#include "server/rpc/tuning_service.h"
#include "server/tuning/runner.h"

namespace attune {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;
constexpr int64_t kAdapterBytes = int64_t{4} << 30;  // without --adapter-memory
constexpr int64_t kSwapBytes = int64_t{4} << 30;     // without --swap-space, where there is a GPU
// Without --training-share: for jobs beside generation, and where an inter-token target says what they get.
constexpr double kTrainingShare = 0.5, kLeastTrainingShare = 0.05;
// Calls that are no generation get at least this long to end by themselves.
constexpr absl::Duration kLeastCallGrace = absl::Seconds(1);

class ServerImpl final : public Server {
 public:
  explicit ServerImpl(const ServerOptions& options) : options_(options) {}
  ~ServerImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Start() {
    ATTUNE_RETURN_IF_ERROR(MakeDirectories(options_.data_dir));
    ATTUNE_ASSIGN_OR_RETURN(lock_, DataDirLock::Take(options_.data_dir));
    ATTUNE_ASSIGN_OR_RETURN(target_, ChooseComputeTarget(options_.device, options_.precision));
    target_.decode_weights = ParseDecodeWeights(options_.decode_weights);
    target_.int8_loras = options_.decode_loras == "int8";
    target_.batch_invariant = options_.batch_invariant;
    ATTUNE_RETURN_IF_ERROR(CheckServingOptions(target_));
    PrepareDevice(target_, options_.deterministic);
    metrics_ = std::make_unique<Metrics>(Metrics::Options{200, kServerVersion, DescribeComputeTarget(target_)});
    // First, so that /healthz answers and /readyz says 503 while the rest opens.
    ATTUNE_RETURN_IF_ERROR(StartHttp());
    ATTUNE_RETURN_IF_ERROR(OpenStores());
    ATTUNE_RETURN_IF_ERROR(StartDevice());
    ATTUNE_RETURN_IF_ERROR(StartJobs());
    StartComparisons();
    MakeAdvisor();
    MakeServices();
    metrics_->SetGaugeReader([this] { return ReadGauges(); });
    ATTUNE_RETURN_IF_ERROR(StartGrpc());
    SetServing(true);
    LogInfo("server.ready", {{"grpc_port", absl::StrCat(grpc_port_)},
                             {"http_port", absl::StrCat(http_port())},
                             {"device", DescribeComputeTarget(target_)},
                             {"data_dir", options_.data_dir}});
    return absl::OkStatus();
  }

  int grpc_port() const override { return grpc_port_; }
  int http_port() const override { return http_ ? http_->port() : 0; }

  void Shutdown(absl::Duration grace) override {
    absl::MutexLock lock(&shutdown_mutex_);
    if (shut_down_) return;
    shut_down_ = true;
    const absl::Time deadline = absl::Now() + grace;
    if (grpc_) LogInfo("server.draining", {{"grace", absl::FormatDuration(grace)}});
    SetServing(false);
    // Before what it works with.
    if (comparisons_) comparisons_->Shutdown();
    // Generation drains while jobs save their checkpoints: neither waits for the other.
    std::thread drain([&] {
      if (engine_) engine_->Shutdown(std::max(deadline - absl::Now(), absl::ZeroDuration()));
    });
    if (jobs_) jobs_->Shutdown();
    drain.join();
    if (grpc_) {
      const absl::Duration left = std::max(deadline - absl::Now(), kLeastCallGrace);
      grpc_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(left));
      grpc_->Wait();
    }
    // Nothing may read the modules' figures any more when they go.
    http_.reset();
    if (grpc_) LogInfo("server.stopped", {});
  }

 private:
  std::string Path(absl::string_view name) const { return absl::StrCat(options_.data_dir, "/", name); }

  void SetServing(bool serving) {
    ready_ = serving;
    grpc::HealthCheckServiceInterface* health = grpc_ ? grpc_->GetHealthCheckService() : nullptr;
    if (health == nullptr) return;
    health->SetServingStatus(serving);
    for (const char* service : {"TuningService", "DatasetService", "ModelService", "GenerationService",
                                "EvaluationService", "ComparisonService", "AliasService", "AdviceService"}) {
      health->SetServingStatus(absl::StrCat("attune.v1.", service), serving);
    }
  }

  absl::Status StartHttp() {
    HttpServer::Options options;
    options.address = options_.http_listen;
    options.metrics = [this] { return metrics_->Render(); };
    options.ready = [this] { return ready_.load(); };
    ATTUNE_ASSIGN_OR_RETURN(http_, HttpServer::Start(std::move(options)));
    return absl::OkStatus();
  }

  absl::Status OpenStores() {
    ATTUNE_ASSIGN_OR_RETURN(database_, Database::Open(Path("attune.db")));
    ATTUNE_ASSIGN_OR_RETURN(datasets_, DatasetStore::Open(Path("datasets"), database_.get(), clock_));
    ModelRegistry::Options registry;
    registry.import_roots = options_.import_roots;
    registry.import_roots.push_back(Path("import"));
    registry.export_root = options_.export_root.empty() ? Path("exports") : options_.export_root;
    registry.inspect = [](const std::string& directory) { return InspectModel(directory); };
    registry.inspect_adapter = [](const std::string& directory, const std::string& base_directory) {
      return InspectAdapter(directory, base_directory);
    };
    ATTUNE_RETURN_IF_ERROR(MakeDirectories(Path("import")));
    ATTUNE_RETURN_IF_ERROR(MakeDirectories(registry.export_root));
    ATTUNE_RETURN_IF_ERROR(MakeDirectories(Path("jobs")));
    ATTUNE_ASSIGN_OR_RETURN(models_,
                            ModelRegistry::Open(Path("models"), database_.get(), clock_, std::move(registry)));
    ATTUNE_ASSIGN_OR_RETURN(aliases_, AliasStore::Open(database_.get(), clock_));
    ATTUNE_ASSIGN_OR_RETURN(job_store_, JobStore::Open(database_.get(), clock_));
    ATTUNE_ASSIGN_OR_RETURN(comparison_store_, ComparisonStore::Open(database_.get(), clock_));
    job_counts_ = std::make_unique<JobCounts>(job_store_.get());
    return absl::OkStatus();
  }

  absl::Status StartDevice() {
    Arbiter::Options arbiter;
    const double share = options_.inter_token_target > 0 ? kLeastTrainingShare : kTrainingShare;
    arbiter.training_share = options_.training_share.value_or(share);
    arbiter.memory_bytes = DeviceMemoryBytes(target_);
    // A GPU's memory does not stretch: what adapters may come to take is nobody else's.
    const bool is_gpu = target_.device == ComputeTarget::Device::kCuda;
    const int64_t usual = is_gpu ? std::min(kAdapterBytes, arbiter.memory_bytes / 8) : kAdapterBytes;
    const int64_t adapter_memory = options_.adapter_memory.value_or(usual);
    if (is_gpu && adapter_memory >= arbiter.memory_bytes) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "OUT_OF_MEMORY_BUDGET",
                       absl::StrCat("--adapter-memory ", adapter_memory, " leaves nothing of the device's ",
                                    arbiter.memory_bytes, " bytes."));
    }
    if (is_gpu) arbiter.memory_bytes -= adapter_memory;
    arbiter_ = std::make_unique<Arbiter>(clock_, arbiter);
    energy_meter_ = is_gpu ? OpenGpuEnergyMeter(DeviceBusId()) : OpenCpuEnergyMeter();
    energy_ = std::make_unique<EnergyShare>(energy_meter_.get(), clock_);
    residency_ = std::make_unique<Residency>(models_.get(), target_, adapter_memory, &arbiter_->memory());
    engine_metrics_ = std::make_unique<EngineMetrics>(metrics_.get());
    EngineOptions engine;
    engine.max_sequences = options_.max_sequences;
    engine.kv_tokens = options_.kv_tokens;
    ATTUNE_ASSIGN_OR_RETURN(engine.swap_bytes, SwapBytes());
    swap_bytes_ = engine.swap_bytes;
    engine.prefix_cache = options_.prefix_cache;
    engine.prompt_logits_bytes = options_.prompt_logits;
    engine.inter_token_target = absl::Seconds(options_.inter_token_target);
    engine_ = MakeEngine(engine, target_, arbiter_.get(), clock_, engine_metrics_.get());
    return absl::OkStatus();
  }

  // On a CPU the KV cache is in the same memory, where a larger one does more good.
  absl::StatusOr<int64_t> SwapBytes() const {
    const int64_t machine = DeviceMemoryBytes(ComputeTarget{});
    const bool is_gpu = target_.device == ComputeTarget::Device::kCuda;
    const int64_t bytes = options_.swap_space.value_or(is_gpu ? std::min(kSwapBytes, machine / 8) : 0);
    if (bytes < machine) return bytes;
    return MakeError(absl::StatusCode::kFailedPrecondition, "OUT_OF_MEMORY_BUDGET",
                     absl::StrCat("--swap-space ", bytes, " leaves nothing of the machine's ", machine, " bytes."));
  }

  absl::Status StartJobs() {
    TuningRunnerDeps deps;
    deps.datasets = datasets_.get();
    deps.registry = models_.get();
    deps.residency = residency_.get();
    deps.arbiter = arbiter_.get();
    deps.energy = energy_.get();
    deps.clock = clock_;
    deps.target = target_;
    deps.checkpoint_directory = Path("jobs");
    deps.on_step = [this](const std::string& base_model, int64_t tokens, double seconds, double loss) {
      metrics_->TrainingStep(base_model, tokens, seconds, loss);
    };
    training_ = MakeTuningRunner(deps);
    PromptSearchDeps search;
    search.models = [this](absl::string_view id) { return residency_->Acquire(id); };
    search.datasets = datasets_.get();
    search.registry = models_.get();
    search.engine = engine_.get();
    search.energy = energy_.get();
    search.checkpoint_directory = Path("jobs");
    prompt_search_ = MakePromptSearchRunner(std::move(search));
    router_ = std::make_unique<JobRouter>(training_.get(), prompt_search_.get());
    jobs_ = std::make_unique<JobManager>(job_store_.get(), router_.get(), clock_, JobOptions());
    return jobs_->Start();
  }

  JobManager::Options JobOptions() {
    JobManager::Options options;
    options.max_concurrent_jobs = options_.max_concurrent_jobs;
    options.total_memory = [this] { return arbiter_->memory().total(); };
    options.free_memory = [this] { return arbiter_->memory().available(); };
    options.reserve_memory = [this](int64_t bytes) -> absl::StatusOr<std::shared_ptr<void>> {
      ATTUNE_ASSIGN_OR_RETURN(MemoryBudget::Reservation held, arbiter_->memory().Reserve(bytes, "a tuning job"));
      return std::make_shared<MemoryBudget::Reservation>(std::move(held));
    };
    options.delete_files = [this](const Job& job) {
      job_counts_->Changed();
      return RemoveAll(Path(absl::StrCat("jobs/", job.spec.id)));
    };
    options.on_transition = [this](const Job& job, JobState from, JobState to) {
      job_counts_->Changed();
      if (from != JobState::kQueued || to != JobState::kPreparing) return;
      metrics_->JobStarted(MethodName(job.spec.method), absl::ToDoubleSeconds(clock_->Now() - job.queue_time));
    };
    return options;
  }

  void StartComparisons() {
    ComparisonDeps deps;
    deps.store = comparison_store_.get();
    deps.jobs = jobs_.get();
    deps.datasets = datasets_.get();
    deps.models = models_.get();
    deps.engine = engine_.get();
    deps.clock = clock_;
    deps.acquire = [this](absl::string_view id) { return residency_->Acquire(id); };
    deps.delete_model = [this](absl::string_view id) { return DeleteModel(id); };
    comparisons_ = std::make_unique<ComparisonManager>(deps);
    comparisons_->Start();
  }

  void MakeAdvisor() {
    AdvisorDeps deps;
    deps.comparisons = comparison_store_.get();
    deps.jobs = jobs_.get();
    deps.datasets = datasets_.get();
    deps.models = models_.get();
    deps.engine = engine_.get();
    deps.acquire = [this](absl::string_view id) { return residency_->Acquire(id); };
    deps.delete_model = [this](absl::string_view id) { return DeleteModel(id); };
    advisor_ = std::make_unique<Advisor>(deps);
    advisor_->RemoveLeftOvers();
  }

  // One of a comparison's or an advice's own.
  absl::Status DeleteModel(absl::string_view id) {
    ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> users, job_store_->ActiveUsersOfModel(id));
    ATTUNE_RETURN_IF_ERROR(CheckUnused("model", "MODEL_IN_USE", "tuning_jobs", users));
    ATTUNE_ASSIGN_OR_RETURN(users, comparison_store_->ActiveNamersOfModel(id));
    ATTUNE_RETURN_IF_ERROR(CheckUnused("model", "MODEL_IN_USE", "comparisons", users));
    ATTUNE_RETURN_IF_ERROR(models_->Delete(id, ""));
    residency_->Drop(id);
    metrics_->ForgetModel(id);
    return absl::OkStatus();
  }

  absl::StatusOr<ExportOutcome> Export(const ExportRequest& request) {
    ATTUNE_ASSIGN_OR_RETURN(const ModelInfo info, models_->Get(request.model));
    ATTUNE_ASSIGN_OR_RETURN(ExportResult result,
                            ExportModel(*models_, residency_.get(), request.model,
                                        static_cast<ExportFormat>(request.format), request.destination,
                                        CardFacts(info, *job_store_, *comparison_store_)));
    return ExportOutcome{result.path, result.files, result.size_bytes};
  }

  void MakeServices() {
    const ModelProvider provider = MakeModelProvider(aliases_.get(), metrics_.get(),
                                                     [this](absl::string_view id) { return residency_->Acquire(id); });
    tuning_service_ = std::make_unique<TuningService>(TuningService::Deps{
        jobs_.get(), job_store_.get(), datasets_.get(), models_.get(), &cancel_watcher_, metrics_.get()});
    dataset_service_ = std::make_unique<DatasetService>(
        DatasetService::Deps{datasets_.get(), job_store_.get(), comparison_store_.get(), provider, metrics_.get()});
    ModelService::Deps model;
    model.models = models_.get();
    model.comparison_store = comparison_store_.get();
    model.job_store = job_store_.get();
    model.drop = [this](absl::string_view id) { residency_->Drop(id); };
    model.export_model = [this](const ExportRequest& request) { return Export(request); };
    model.served = provider;
    model.engine = engine_.get();
    model.metrics = metrics_.get();
    model_service_ = std::make_unique<ModelService>(std::move(model));
    generation_service_ = std::make_unique<GenerationService>(
        GenerationService::Deps{provider, engine_.get(), &cancel_watcher_, metrics_.get()});
    evaluation_service_ = std::make_unique<EvaluationService>(
        EvaluationService::Deps{provider, datasets_.get(), engine_.get(), metrics_.get()});
    comparison_service_ = std::make_unique<ComparisonService>(
        ComparisonService::Deps{comparisons_.get(), &cancel_watcher_, metrics_.get()});
    alias_service_ =
        std::make_unique<AliasService>(AliasService::Deps{aliases_.get(), job_store_.get(), metrics_.get()});
    advice_service_ = std::make_unique<AdviceService>(AdviceService::Deps{advisor_.get(), metrics_.get()});
  }

  absl::Status StartGrpc() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options_.listen, grpc::InsecureServerCredentials(), &grpc_port_);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.SetMaxSendMessageSize(kMaxMessageBytes);
    // Else two servers could share a port unnoticed.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // Finds clients that vanished without closing, and lets clients look for us.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
    for (grpc::Service* service : std::initializer_list<grpc::Service*>{
             tuning_service_.get(), dataset_service_.get(), model_service_.get(), generation_service_.get(),
             evaluation_service_.get(), comparison_service_.get(), alias_service_.get(), advice_service_.get()}) {
      builder.RegisterService(service);
    }
    grpc_ = builder.BuildAndStart();
    if (grpc_ != nullptr && grpc_port_ > 0) return absl::OkStatus();
    return MakeError(absl::StatusCode::kUnavailable, "LISTEN_FAILED",
                     absl::StrCat("Cannot listen for gRPC on ", options_.listen,
                                  ": the address is taken or not this machine's."));
  }

  Metrics::Gauges ReadGauges() {
    const EngineStats stats = engine_->stats();
    Metrics::Gauges gauges;
    gauges.requests_running = stats.running;
    gauges.requests_waiting = stats.waiting;
    gauges.kv_cache_usage =
        stats.kv_pages_total > 0 ? static_cast<double>(stats.kv_pages_used) / stats.kv_pages_total : 0;
    gauges.swap_total = swap_bytes_;
    gauges.swap_used = stats.swap_bytes_used;
    gauges.device_memory_total = arbiter_->memory().total();
    gauges.device_memory_reserved = arbiter_->memory().used();
    gauges.resident_adapters = residency_->resident_adapters();
    gauges.resident_bytes = residency_->resident_bytes();
    gauges.generation_seconds = arbiter_->Seconds(WorkClass::kGeneration);
    gauges.training_seconds = arbiter_->Seconds(WorkClass::kTraining);
    if (energy_meter_) gauges.energy_joules = energy_meter_->Joules();
    gauges.jobs = job_counts_->Get();
    return gauges;
  }

  const ServerOptions options_;
  const Clock* const clock_ = &Clock::Real();
  ComputeTarget target_;
  int64_t swap_bytes_ = 0;
  std::atomic<bool> ready_{false};
  int grpc_port_ = 0;

  // In the order of use: each may point to those above it and goes before them.
  std::unique_ptr<DataDirLock> lock_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<DatasetStore> datasets_;
  std::unique_ptr<ModelRegistry> models_;
  std::unique_ptr<AliasStore> aliases_;
  std::unique_ptr<JobStore> job_store_;
  std::unique_ptr<ComparisonStore> comparison_store_;
  std::unique_ptr<JobCounts> job_counts_;
  std::unique_ptr<Arbiter> arbiter_;
  std::unique_ptr<EnergyMeter> energy_meter_;  // null: the device does not tell
  std::unique_ptr<EnergyShare> energy_;
  std::unique_ptr<Residency> residency_;
  std::unique_ptr<EngineMetrics> engine_metrics_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<JobRunner> training_, prompt_search_;
  std::unique_ptr<JobRouter> router_;
  std::unique_ptr<JobManager> jobs_;
  std::unique_ptr<ComparisonManager> comparisons_;
  std::unique_ptr<Advisor> advisor_;
  CancelWatcher cancel_watcher_;
  std::unique_ptr<TuningService> tuning_service_;
  std::unique_ptr<DatasetService> dataset_service_;
  std::unique_ptr<ModelService> model_service_;
  std::unique_ptr<GenerationService> generation_service_;
  std::unique_ptr<EvaluationService> evaluation_service_;
  std::unique_ptr<ComparisonService> comparison_service_;
  std::unique_ptr<AliasService> alias_service_;
  std::unique_ptr<AdviceService> advice_service_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<HttpServer> http_;

  absl::Mutex shutdown_mutex_;
  bool shut_down_ ABSL_GUARDED_BY(shutdown_mutex_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  auto server = std::make_unique<ServerImpl>(options);
  ATTUNE_RETURN_IF_ERROR(server->Start());
  return server;
}

}  // namespace attune
