#ifndef ATTUNE_SERVER_ADAPTERS_GGUF_EXPORT_H_
#define ATTUNE_SERVER_ADAPTERS_GGUF_EXPORT_H_

#include <string>

#include "absl/status/status.h"
#include "server/model/base_model.h"
#include "server/model/weights/gguf.h"

namespace attune {

// Writes `weights` as a GGUF file that is like the one in the folder `from`, but for them: its keys, tokenizer among them, its
// tensors' names and the order of their rows. Matrices are stored in `type`, F16 or Q8_0 (F16 where rows are no
// multiple of 32), vectors in F32. FAILED_PRECONDITION (EXPORT_UNSUPPORTED) for values beyond F16, and for a tensor of
// that file which is none of the weights.
absl::Status ExportGguf(const std::string& from, const ModelConfig& config, const DecoderWeights& weights, GgmlType type,
                        const std::string& path);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_GGUF_EXPORT_H_
