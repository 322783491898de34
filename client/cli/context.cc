#include "client/cli/context.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/output.h"
#include "common/error.h"

namespace attune::cli {
namespace {

absl::StatusOr<absl::Duration> ParseTimeout(const std::string& text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) duration = absl::Seconds(seconds);
  else if (!absl::ParseDuration(text, &duration)) duration = absl::ZeroDuration();
  if (duration <= absl::ZeroDuration()) {
    return UsageError(absl::StrCat("--timeout: '", text, "' is not a time above zero such as 30, 30s or 5m"));
  }
  return duration;
}

// What to do about an error, one line; empty where there is no good advice.
std::string HintFor(const absl::Status& status, const std::string& reason) {
  if (reason == "BAD_ROWS") return "Correct these rows, or leave them out with --skip-bad-rows.";
  if (reason == "MODEL_NOT_FOUND") return "See which models there are: attune models list";
  if (reason == "DATASET_NOT_FOUND") return "See which datasets there are: attune datasets list";
  if (reason == "TUNING_JOB_NOT_FOUND") return "See which jobs there are: attune jobs list";
  if (reason == "COMPARISON_NOT_FOUND") return "See which comparisons there are: attune comparisons list";
  if (reason == "ALIAS_NOT_FOUND") return "See which aliases there are: attune aliases list";
  if (reason == "DISK_FULL") return "Free space on the server's disk, then repeat.";
  if (reason == "QUEUE_FULL") return "The server is busy: try again in a moment.";
  if (reason == "CHECKSUM_MISMATCH") return "The file changed while it was sent: repeat the upload.";
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return "Is attuned running? Start it with: attuned --data-dir DIR, or name it with --server";
    case absl::StatusCode::kDeadlineExceeded:
      return "Give it longer with --timeout SECONDS.";
    case absl::StatusCode::kAlreadyExists:
      return "Choose another id, or delete the old one first.";
    case absl::StatusCode::kAborted:
      return "It was changed by someone else meanwhile: look again, then repeat.";
    case absl::StatusCode::kUnimplemented:
      return "Server and command differ in version: compare attune --version and attuned --version";
    case absl::StatusCode::kInvalidArgument:
      return "See the command's options with --help.";
    default:
      return "";
  }
}

std::string MessageFor(const Context& context, const absl::Status& status, bool from_server) {
  std::string message = Printable(std::string(status.message()));
  if (absl::IsUnavailable(status) && !from_server) {
    return absl::StrCat("cannot reach the server at ", context.server, ": ", message);
  }
  return message.empty() ? "no further information" : message;
}

}  // namespace

absl::StatusOr<Client*> Context::client() {
  if (client_ == nullptr) {
    ClientOptions options;
    if (!timeout.empty()) {
      ATTUNE_ASSIGN_OR_RETURN(options.deadline, ParseTimeout(timeout));
      options.long_deadline = options.deadline;
    }
    ATTUNE_ASSIGN_OR_RETURN(client_, Client::Connect(server, options));
  }
  return client_.get();
}

std::string FullName(absl::string_view collection, absl::string_view name) {
  if (name.empty() || absl::StrContains(name, "/")) return std::string(name);
  return absl::StrCat(collection, "/", name);
}

std::string BareName(absl::string_view name) {
  size_t slash = name.rfind('/');
  return std::string(slash == absl::string_view::npos ? name : name.substr(slash + 1));
}

absl::Status UsageError(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "USAGE", message);
}

ExitCode ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kExitUsage;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return kExitConflict;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnavailable;
    default:
      return kExitOther;
  }
}

void PrintError(const Context& context, const absl::Status& status) {
  ErrorDetails details = GetErrorDetails(status);
  const bool from_server = !details.reason.empty();
  std::string reason = from_server ? details.reason : absl::StatusCodeToString(status.code());
  context.out.flush();
  context.err << "error: " << MessageFor(context, status, from_server) << " (" << reason << ")\n";
  for (const FieldViolation& violation : details.violations) {
    // A single violation is usually the message itself.
    if (absl::StrContains(status.message(), violation.description)) continue;
    context.err << "  " << Printable(violation.field) << ": " << Printable(violation.description) << "\n";
  }
  if (std::string hint = HintFor(status, reason); !hint.empty()) context.err << hint << "\n";
  context.err.flush();
}

}  // namespace attune::cli
