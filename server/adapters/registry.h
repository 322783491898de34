#ifndef ATTUNE_SERVER_ADAPTERS_REGISTRY_H_
#define ATTUNE_SERVER_ADAPTERS_REGISTRY_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/database.h"
#include "server/adapters/model_info.h"

namespace attune {

// Models on disk: DIR/{id}/ with a row of the table `models`. The files are synced
// and renamed before the row is inserted, so a model is there whole or not at all;
// Open removes what a crash left half-written. A base model's folder holds
// model.gguf, or the files of a Hugging Face directory; an adapter's
// holds PEFT's adapter_config.json and adapter_model.safetensors; full weights hold
// config.json and model.safetensors, with the tokenizer in the base model's folder; a
// text prompt's holds text_prompt.json.
// Aliases (alias_store.h) share the ids: where one stands and a model is needed, calls give
// FAILED_PRECONDITION (MODEL_IS_ALIAS) in place of NOT_FOUND. Thread-safe.
class ModelRegistry {
 public:
  struct Options {
    std::vector<std::string> import_roots;  // empty: imports are refused
    std::string export_root;
    // Checks a model's files (config, tensors, tokenizer all readable) and describes
    // the network; handed in, because it needs what this class need not know.
    std::function<absl::StatusOr<Architecture>(const std::string& directory)> inspect;
    // The same of an adapter's files, against those of its base model in another folder.
    std::function<absl::StatusOr<ModelKind>(const std::string& directory, const std::string& base_directory)>
        inspect_adapter;
  };
  struct ImportOptions {
    std::string source_path;
    std::string id;  // empty: from the file's name
    std::string base_model;  // id; of an adapter
    std::string display_name, description;
    std::map<std::string, std::string> labels;
    std::string request_id;
  };
  struct Changes {  // unset fields stay
    const std::string* display_name = nullptr;
    const std::string* description = nullptr;
    const std::map<std::string, std::string>* labels = nullptr;
  };

  static absl::StatusOr<std::unique_ptr<ModelRegistry>> Open(const std::string& directory, Database* database,
                                                             const Clock* clock, Options options);

  // PERMISSION_DENIED (OUTSIDE_IMPORT_ROOT) for a path that, with links resolved, is
  // under no import root; pickle files and files that are no part of a model are not
  // copied; ALREADY_EXISTS (MODEL_EXISTS, ALIAS_EXISTS); a bad file gives the reader's error. Adapters need a base model,
  // others must have none (INVALID_FIELD); FAILED_PRECONDITION (BASE_IS_ADAPTER), NOT_FOUND for one that is not there.
  absl::StatusOr<ModelInfo> Import(const ImportOptions& options);
  absl::StatusOr<ModelInfo> Get(absl::string_view id) const;
  // Newest first, below `before_position`, at most `limit`.
  absl::StatusOr<std::vector<ModelInfo>> List(int limit, int64_t before_position) const;
  // ABORTED (ETAG_MISMATCH) if `etag` is set and stale.
  absl::StatusOr<ModelInfo> Update(absl::string_view id, const Changes& changes, absl::string_view etag);
  // FAILED_PRECONDITION (MODEL_IN_USE) while another model is based on it, or an alias sends requests to it.
  absl::Status Delete(absl::string_view id, absl::string_view etag);

  // A fresh empty folder on the same disk for a model's files; removed at the next Open.
  absl::StatusOr<std::string> NewStagingDirectory();
  // Makes the files in `staging_directory` the model `info.id`: from now on it is
  // there for everybody. create_time, etag, size_bytes are set here. Publishing the
  // same id for the same tuning job again (after a crash) returns the first one, as does
  // a `request_id` that has made a model; empty: none. ALREADY_EXISTS (MODEL_EXISTS, ALIAS_EXISTS).
  absl::StatusOr<ModelInfo> Publish(ModelInfo info, const std::string& staging_directory,
                                    const std::string& request_id = "");

  // Where a model's files are. The folder stays while the model does.
  std::string Directory(absl::string_view id) const;
  const std::string& export_root() const { return options_.export_root; }

 private:
  ModelRegistry(std::string directory, Database* database, const Clock* clock, Options options)
      : directory_(std::move(directory)), database_(database), clock_(clock), options_(std::move(options)) {}
  absl::Status Recover();
  // Checks an adapter's files in `directory` and sets what follows from them and from the base model.
  absl::Status DescribeAdapter(const std::string& base_model, const std::string& directory, ModelInfo* info) const;
  absl::StatusOr<ModelInfo> PublishAs(ModelInfo info, const std::string& staging_directory,
                                      const std::string& request_id) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<ModelInfo> Insert(ModelInfo info, const std::string& staging_directory, const std::string& request_id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string directory_;
  Database* const database_;
  const Clock* const clock_;
  const Options options_;
  absl::Mutex mutex_;  // held while folders and rows appear or go, so that they do so together
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_REGISTRY_H_
