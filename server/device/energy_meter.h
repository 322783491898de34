#ifndef ATTUNE_SERVER_DEVICE_ENERGY_METER_H_
#define ATTUNE_SERVER_DEVICE_ENERGY_METER_H_

#include <memory>
#include <optional>
#include <string>

namespace attune {

// Tells the energy that a device has used: all of it, whoever had it computed. Thread-safe.
class EnergyMeter {
 public:
  virtual ~EnergyMeter() = default;
  // Joules since the meter was made; never fewer than before. Nothing: it could not be read this time.
  virtual std::optional<double> Joules() = 0;
};

// Of the NVIDIA GPU with this PCI bus id ("0000:1b:00.0"; DeviceBusId in model/device_bus_id.h tells that of CUDA's
// device 0, which CUDA_VISIBLE_DEVICES chooses), by NVML's counter of its total energy: board and memory, too. The
// driver advances it some ten times a second. Null where it does not tell: no `library`, which is opened at run
// time so that nothing need be linked, no such GPU, or one older than Volta.
std::unique_ptr<EnergyMeter> OpenGpuEnergyMeter(const std::string& pci_bus_id,
                                                const std::string& library = "libnvidia-ml.so.1");

// Of the machine's processors, by the RAPL counters of their packages: cores and caches, mostly without the memory.
// Null where the kernel has none, or does not let us read all of them (they are root's alone since Linux 5.10).
// The counters are small: one that wraps around twice between two calls, an hour apart say, counts once.
std::unique_ptr<EnergyMeter> OpenCpuEnergyMeter(const std::string& powercap = "/sys/class/powercap");

}  // namespace attune

#endif  // ATTUNE_SERVER_DEVICE_ENERGY_METER_H_
