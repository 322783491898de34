#ifndef ATTUNE_SERVER_ADAPTERS_GGUF_EXPORT_H_
#define ATTUNE_SERVER_ADAPTERS_GGUF_EXPORT_H_

#include <string>

#include "absl/status/status.h"
#include "server/model/base_model.h"
#include "server/model/weights/gguf.h"

namespace attune {

// Writes `weights` as a GGUF file. If the folder `from` holds one, the new file is like it, but for them: its keys, tokenizer
// among them, its tensors' names and the order of their rows. If it is a Hugging Face folder (of its files only the
// tokenizer's are read) keys and tensors are what llama.cpp has for `config`; the file is read back, and what would be read
// otherwise than it was meant is refused. Matrices are stored in `type`, F16 or Q8_0 (F16 where rows are no
// multiple of 32), vectors in F32. FAILED_PRECONDITION (EXPORT_UNSUPPORTED) for values beyond F16, for a tensor of
// that file which is none of the weights, and for models and tokenizers that a GGUF file cannot say, by name; `path` may
// then be there.
absl::Status ExportGguf(const std::string& from, const ModelConfig& config, const DecoderWeights& weights, GgmlType type,
                        const std::string& path);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_GGUF_EXPORT_H_
