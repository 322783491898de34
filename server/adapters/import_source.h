#ifndef ATTUNE_SERVER_ADAPTERS_IMPORT_SOURCE_H_
#define ATTUNE_SERVER_ADAPTERS_IMPORT_SOURCE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace attune {

// A model's files on the server's disk, named and allowed but not yet read.
struct ImportSource {
  std::string name;                          // of the file or folder, without ".gguf"
  std::map<std::string, std::string> files;  // name in the model's folder to path, links resolved
  bool is_adapter = false;                   // in PEFT's files
};

// Finds the model at `path`: a GGUF file, a folder with one, a Hugging Face folder
// with safetensors, or a folder with PEFT's adapter_config.json and adapter_model.safetensors; only the
// files that describe the model are taken.
// PERMISSION_DENIED (OUTSIDE_IMPORT_ROOT) if the path, or a file that a link in the
// folder leads to, is below none of `roots`; INVALID_ARGUMENT (PICKLE_REFUSED),
// (NO_MODEL); NOT_FOUND (FILE_NOT_FOUND).
absl::StatusOr<ImportSource> FindImportSource(const std::string& path, const std::vector<std::string>& roots);

// Copies the files into the folder `directory`, which must be empty.
absl::Status CopyImportSource(const ImportSource& source, const std::string& directory);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_IMPORT_SOURCE_H_
