#ifndef ATTUNE_CLIENT_CLI_CONTEXT_H_
#define ATTUNE_CLIENT_CLI_CONTEXT_H_

#include <functional>
#include <istream>
#include <memory>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/attune.h"

// What every command of `attune` shares: streams, global options, the client,
// and how errors become messages and exit codes.
namespace attune::cli {

enum ExitCode {
  kExitOk = 0,
  kExitFailed = 1,       // the job or operation itself failed
  kExitUsage = 2,        // wrong options or values
  kExitNotFound = 3,     // no such model, dataset or job
  kExitConflict = 4,     // exists already, in use, or changed meanwhile
  kExitUnavailable = 5,  // server not reachable, or too slow
  kExitOther = 6,        // anything else; Ctrl-C while watching
};

// State of one run of the command.
class Context {
 public:
  Context(std::ostream& out, std::ostream& err, std::istream& in) : out(out), err(err), in(in) {}

  std::ostream& out;
  std::ostream& err;
  std::istream& in;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool in_is_terminal = false;

  // Global options.
  std::string server = "127.0.0.1:7700";
  bool json = false;
  std::string timeout;  // "30", "30s", "5m"; empty: the client's defaults

  // What the chosen command does; set while parsing.
  std::function<absl::StatusOr<int>()> action;

  // The connection, made on first use and owned here.
  absl::StatusOr<Client*> client();

 private:
  std::unique_ptr<Client> client_;
};

// "models", "smollm2" -> "models/smollm2"; full names stay as they are.
std::string FullName(absl::string_view collection, absl::string_view name);
// "models/smollm2" -> "smollm2".
std::string BareName(absl::string_view name);

// A command that was used wrongly: exit code 2.
absl::Status UsageError(absl::string_view message);

ExitCode ExitCodeFor(const absl::Status& status);

// Writes "error: <message> (<REASON>)", wrong fields or rows if they say more,
// and a line on what to do where one can be given.
void PrintError(const Context& context, const absl::Status& status);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_CONTEXT_H_
