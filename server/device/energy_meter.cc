#include "server/device/energy_meter.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

// The few of NVML's functions that are needed; all return 0 for success.
struct Nvml {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*device_by_bus_id)(const char* bus_id, void** device) = nullptr;
  int (*total_energy)(void* device, unsigned long long* millijoules) = nullptr;

  bool Load(void* library) {
    const auto load = [library](const char* name, auto* function) {
      *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
      return *function != nullptr;
    };
    return load("nvmlInit_v2", &init) && load("nvmlShutdown", &shutdown) &&
           load("nvmlDeviceGetHandleByPciBusId_v2", &device_by_bus_id) &&
           load("nvmlDeviceGetTotalEnergyConsumption", &total_energy);
  }
};

class GpuEnergyMeter final : public EnergyMeter {
 public:
  GpuEnergyMeter(Nvml nvml, void* device, uint64_t start) : nvml_(nvml), device_(device), last_(start), start_(start) {}
  ~GpuEnergyMeter() override { nvml_.shutdown(); }

  std::optional<double> Joules() override ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    unsigned long long now = 0;
    if (nvml_.total_energy(device_, &now) != 0) return std::nullopt;
    // It starts at zero when the driver is loaded anew.
    last_ = std::max<uint64_t>(last_, now);
    return static_cast<double>(last_ - start_) / 1e3;
  }

 private:
  const Nvml nvml_;
  void* const device_;
  absl::Mutex mutex_;
  uint64_t last_ ABSL_GUARDED_BY(mutex_);  // millijoules
  const uint64_t start_;
};

// The one number in a file of the kernel's.
std::optional<uint64_t> ReadNumber(const fs::path& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

// A processor's counter in microjoules, which starts again at zero after `range`.
struct Package {
  fs::path counter;
  uint64_t range = 0, last = 0;
};

class CpuEnergyMeter final : public EnergyMeter {
 public:
  explicit CpuEnergyMeter(std::vector<Package> packages) : packages_(std::move(packages)) {}

  std::optional<double> Joules() override ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    for (Package& package : packages_) {
      const std::optional<uint64_t> now = ReadNumber(package.counter);
      if (!now) return std::nullopt;  // what the others told stays for the next time
      joules_ += static_cast<double>(*now >= package.last ? *now - package.last : *now + package.range - package.last) / 1e6;
      package.last = *now;
    }
    return joules_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<Package> packages_ ABSL_GUARDED_BY(mutex_);
  double joules_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Whether a zone is a whole processor: not one of its parts, nor the platform, which would count the same twice.
bool IsPackage(const fs::path& zone) {
  if (!absl::StartsWith(zone.filename().string(), "intel-rapl:")) return false;  // AMD's, too
  std::string name;
  return std::getline(std::ifstream(zone / "name"), name) && absl::StartsWith(name, "package");
}

}  // namespace

std::unique_ptr<EnergyMeter> OpenGpuEnergyMeter(const std::string& pci_bus_id, const std::string& library) {
  void* const handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (handle == nullptr) return nullptr;
  // The library stays open: it is in use by CUDA anyhow.
  Nvml nvml;
  if (!nvml.Load(handle) || nvml.init() != 0) return nullptr;
  void* device = nullptr;
  unsigned long long start = 0;
  if (nvml.device_by_bus_id(pci_bus_id.c_str(), &device) == 0 && nvml.total_energy(device, &start) == 0) {
    return std::make_unique<GpuEnergyMeter>(nvml, device, start);
  }
  nvml.shutdown();
  return nullptr;
}

std::unique_ptr<EnergyMeter> OpenCpuEnergyMeter(const std::string& powercap) {
  std::vector<Package> packages;
  std::error_code error;
  for (fs::directory_iterator it(powercap, error), end; !error && it != end; it.increment(error)) {
    if (!IsPackage(it->path())) continue;
    Package package{it->path() / "energy_uj"};
    const std::optional<uint64_t> start = ReadNumber(package.counter);
    const std::optional<uint64_t> range = ReadNumber(it->path() / "max_energy_range_uj");
    if (!start || !range) return nullptr;  // a part of the energy would pass for the whole
    package.last = *start;
    package.range = *range;
    packages.push_back(std::move(package));
  }
  return packages.empty() ? nullptr : std::make_unique<CpuEnergyMeter>(std::move(packages));
}

}  // namespace attune
