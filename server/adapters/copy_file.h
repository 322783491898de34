#ifndef ATTUNE_SERVER_ADAPTERS_COPY_FILE_H_
#define ATTUNE_SERVER_ADAPTERS_COPY_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace attune {

// Copies a regular file; `to` must not exist. Shares the disk blocks where the file
// system can, else copies inside the kernel where it can. `from` itself must not be a
// symbolic link, a device or a pipe. Not synced: PublishDirectory does that. What a
// failed call wrote stays, for the caller to remove with its folder.
absl::Status CopyFile(const std::string& from, const std::string& to);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_COPY_FILE_H_
