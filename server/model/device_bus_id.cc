#include "server/model/device_bus_id.h"

#include <cuda_runtime_api.h>

namespace attune {

std::string DeviceBusId() {
  char bus_id[32] = "";
  return cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, 0) == cudaSuccess ? bus_id : "";
}

}  // namespace attune
