#ifndef ATTUNE_SERVER_ADAPTERS_LORA_CODES_H_
#define ATTUNE_SERVER_ADAPTERS_LORA_CODES_H_

#include "server/adapters/adapter.h"

// LoRAs in int8 for decoding: kernels for rows of which each has another LoRA wait for these matrices' bytes. A has a scale for each rank,
// and so has B, absmax each; both are multiplied into what lies between the two products, so that reading them costs nothing.
namespace attune {

// Gives the layers' modules codes, on the matrices' device, and counts their bytes as the adapter's: all modules or, if there is
// one that no kernel reads by codes, or whose codes would hardly be smaller, none. REQUIRES: adapter->lora. Throws what libtorch throws.
void AddLoraCodes(Adapter* adapter);

// How far the updates B A by the codes are from those by the matrices, all of them together: the Frobenius norm of the difference
// as a share of that of the updates; 0 if there are no codes, or all updates are zero. Waits for the device. Throws what libtorch throws.
double LoraCodesError(const LoraAdapter& lora);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_LORA_CODES_H_
