#ifndef ATTUNE_SERVER_SERVER_H_
#define ATTUNE_SERVER_SERVER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace attune {

struct ServerOptions {
  std::string data_dir;                          // made if it is not there
  std::string listen = "127.0.0.1:7700";         // gRPC, HOST:PORT; port 0 picks a free one
  std::string http_listen = "127.0.0.1:7780";    // metrics and health; likewise
  std::string device = "auto";                   // "auto", "cpu", "cuda"
  std::string precision = "auto";                // "auto", "float32", "bfloat16"
  bool deterministic = false;                    // on a GPU: no kernel that adds in any order
  std::vector<std::string> import_roots;         // besides DATA_DIR/import
  std::string export_root;                       // empty: DATA_DIR/exports
  int max_concurrent_jobs = 1;
  int64_t kv_tokens = 65536;                     // capacity of the KV cache
  // Bytes of host memory for KV pages of answers that make way for others; unset: none on a CPU; with a GPU 4 GiB, and
  // of the machine's memory an eighth at most.
  std::optional<int64_t> swap_space;
  bool prefix_cache = true;                      // prompts that begin alike share what was computed
  int64_t prompt_logits = int64_t{64} << 20;     // bytes of host memory for what follows whole prompts
  int max_sequences = 64;                        // generated together
  // Bytes of adapters that stay loaded; unset: 4 GiB, and of a GPU's memory an eighth at most.
  std::optional<int64_t> adapter_memory;
  std::string decode_weights = "as-loaded";  // or int8, fp8, int4
  std::string decode_loras = "as-loaded";    // or int8
  bool batch_invariant = false;              // generation's numbers do not depend on the batch
  // Of the device's time while generation wants it too; unset: a half, or little where there is a target.
  std::optional<double> training_share;
  double inter_token_target = 0;                  // seconds; 0: training only gets its share
};

inline constexpr char kServerVersion[] = "0.1.0";

// The whole of attuned in one object: opens the data directory, wires the modules
// and serves. Thread-safe.
class Server {
 public:
  // Serves when it returns. FAILED_PRECONDITION (DATA_DIR_LOCKED) if another server
  // uses the data directory; UNAVAILABLE (LISTEN_FAILED); the errors of
  // ChooseComputeTarget and of opening the stores.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  // Shuts down without grace if Shutdown was not called.
  virtual ~Server() = default;

  virtual int grpc_port() const = 0;
  virtual int http_port() const = 0;

  // Refuses new work, lets requests that run go on for `grace`, saves a checkpoint of
  // running jobs and hands them back to the queue, ends streams, closes. Blocks until
  // done. May be called again.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_SERVER_H_
