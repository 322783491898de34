#ifndef ATTUNE_SERVER_ADAPTERS_EXPORTER_H_
#define ATTUNE_SERVER_ADAPTERS_EXPORTER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/adapters/model_card.h"
#include "server/adapters/registry.h"

// No torch headers here: files that see gRPC include this one.
namespace attune {

class Residency;

// kDefault: kPeft for adapters, text_prompt.json for text prompts, kSafetensors else.
enum class ExportFormat { kDefault = 0, kPeft = 1, kSafetensors = 2, kGgufF16 = 3, kGgufQ8 = 4 };

struct ExportResult {
  std::string path;                // absolute
  std::vector<std::string> files;  // relative to `path`, sorted
  int64_t size_bytes = 0;
};

// Writes a model for other programs into a new folder below the registry's export
// root, whole or not at all, with a model card (README.md) that tells `facts`, too.
//   kPeft: an adapter in PEFT's files.
//   kSafetensors: a Hugging Face folder. A LoRA is merged into the weights: computed in
//   fp32, stored in the type in which they serve. The tokenizer's files are the imported
//   ones; out of a GGUF file they are made (byte-level BPE only).
//   kGgufF16, kGgufQ8: model.gguf, a LoRA merged likewise, matrices in F16 or Q8_0. Of models that were imported as GGUF,
//   or tuned from one, its keys, the tokenizer among them, are taken over; of others they are made (byte-level BPE only).
// `destination` is relative, its parts not hidden and not ".."; empty: the model's id.
// INVALID_ARGUMENT naming `destination`; ALREADY_EXISTS (EXPORT_EXISTS);
// FAILED_PRECONDITION (EXPORTS_DISABLED) without an export root, (EXPORT_UNSUPPORTED)
// for a format that the model cannot take.
absl::StatusOr<ExportResult> ExportModel(const ModelRegistry& registry, Residency* residency, const std::string& id,
                                         ExportFormat format, const std::string& destination,
                                         const ModelCardFacts& facts = {});

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_EXPORTER_H_
