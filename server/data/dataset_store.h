#ifndef ATTUNE_SERVER_DATA_DATASET_STORE_H_
#define ATTUNE_SERVER_DATA_DATASET_STORE_H_

#include <cstdint>
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
#include "common/file.h"
#include "server/data/dataset.h"

namespace attune {

// Datasets on disk: DIR/{id}/rows.{jsonl,csv,tsv} as uploaded, described by a row of
// the table `datasets`. The file is synced and renamed before the row is inserted,
// so a dataset is there whole or not at all; Open removes what a crash left
// half-written. Thread-safe. An Upload must not outlive its store.
class DatasetStore {
 public:
  struct UploadOptions {
    DatasetInfo info;  // id (empty: made up), templates, format, mapping, display name, labels
    bool skip_bad_rows = false;
    std::string sha256;      // empty: not checked
    std::string request_id;  // empty: not idempotent
    int64_t max_bytes = int64_t{1} << 31;
  };

  // An upload in progress. Destroyed without Commit it leaves nothing. Not thread-safe.
  class Upload {
   public:
    virtual ~Upload() = default;
    // RESOURCE_EXHAUSTED (DATASET_TOO_LARGE) past max_bytes.
    virtual absl::Status Append(absl::string_view chunk) = 0;
    // Checks, stores and describes. INVALID_ARGUMENT (BAD_ROWS) lists the first
    // bad rows with line numbers unless skip_bad_rows; DATA_LOSS (CHECKSUM_MISMATCH);
    // ALREADY_EXISTS (DATASET_EXISTS). With a request_id seen before: the dataset it made.
    virtual absl::StatusOr<DatasetInfo> Commit() = 0;
  };

  // `database` and `clock` must outlive the store.
  static absl::StatusOr<std::unique_ptr<DatasetStore>> Open(const std::string& directory, Database* database,
                                                            const Clock* clock);

  // INVALID_ARGUMENT for bad ids, templates or labels; ALREADY_EXISTS early if the id is taken.
  absl::StatusOr<std::unique_ptr<Upload>> BeginUpload(UploadOptions options);
  absl::StatusOr<DatasetInfo> Get(absl::string_view id) const;
  // Newest first, below `before_position`, at most `limit`.
  absl::StatusOr<std::vector<DatasetInfo>> List(int limit, int64_t before_position) const;
  absl::Status Delete(absl::string_view id);
  // All good rows, in order.
  // DATA_LOSS (DATASET_FILE_MISSING) if somebody took the file away.
  absl::StatusOr<std::vector<Row>> ReadRows(absl::string_view id) const;

 private:
  class UploadImpl;
  class FinishedUpload;
  DatasetStore(std::string directory, Database* database, const Clock* clock)
      : directory_(std::move(directory)), database_(database), clock_(clock) {}

  absl::Status RemoveLeftovers() const;
  std::string Folder(absl::string_view id) const;
  // The dataset that an upload with this request_id made; NOT_FOUND if none did.
  absl::StatusOr<DatasetInfo> FindRequest(const std::string& request_id) const;
  // Makes what `folder` holds the dataset `info`. If the request or the id was used
  // meanwhile: what that made, or ALREADY_EXISTS.
  absl::StatusOr<DatasetInfo> Publish(const std::string& folder, const std::string& request_id, DatasetInfo info)
      ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string directory_;
  Database* const database_;
  const Clock* const clock_;
  mutable absl::Mutex mutex_;  // held while a folder and its database row come or go together
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_DATASET_STORE_H_
