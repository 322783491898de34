#ifndef ATTUNE_SERVER_DATA_DIR_LOCK_H_
#define ATTUNE_SERVER_DATA_DIR_LOCK_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace attune {

// The right to use a data directory: at most one process has it. The operating
// system takes it back from a process that dies, however it dies.
class DataDirLock {
 public:
  // FAILED_PRECONDITION (DATA_DIR_LOCKED), naming the process that has it.
  static absl::StatusOr<std::unique_ptr<DataDirLock>> Take(const std::string& data_dir);
  ~DataDirLock();
  DataDirLock(const DataDirLock&) = delete;
  DataDirLock& operator=(const DataDirLock&) = delete;

 private:
  explicit DataDirLock(int file) : file_(file) {}
  const int file_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_DIR_LOCK_H_
