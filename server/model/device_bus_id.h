#ifndef ATTUNE_SERVER_MODEL_DEVICE_BUS_ID_H_
#define ATTUNE_SERVER_MODEL_DEVICE_BUS_ID_H_

#include <string>

namespace attune {

// The PCI bus id, "0000:1b:00.0", of the GPU that is computed on: the first that CUDA_VISIBLE_DEVICES lets CUDA see.
// Empty without one.
std::string DeviceBusId();

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_DEVICE_BUS_ID_H_
