#ifndef ATTUNE_COMMON_ERROR_H_
#define ATTUNE_COMMON_ERROR_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// Errors inside Attune are absl::Status. What a program on the other side needs
// beyond code and message (a stable reason, the wrong fields) rides along in the
// status's payload, and common/status.h puts it on the wire.
namespace attune {

// One wrong field of a request, by its path in the request message.
struct FieldViolation {
  std::string field;
  std::string description;
};

// The structured part of an error.
struct ErrorDetails {
  std::string reason;  // UPPER_SNAKE_CASE, stable between versions
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> violations;
};

// A status with a machine-readable reason. `code` must not be kOk.
absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                       std::map<std::string, std::string> metadata = {},
                       std::vector<FieldViolation> violations = {});

// INVALID_ARGUMENT that names the wrong field.
absl::Status InvalidField(absl::string_view field, absl::string_view description,
                          absl::string_view reason = "INVALID_FIELD");

// NOT_FOUND for a resource name such as "models/x"; the reason is derived from
// its collection: MODEL_NOT_FOUND, DATASET_NOT_FOUND, TUNING_JOB_NOT_FOUND.
absl::Status NotFound(absl::string_view resource_name);

// The details of an error made here; an empty reason for any other status.
ErrorDetails GetErrorDetails(const absl::Status& status);

}  // namespace attune

// Returns the status of an expression if it is not OK.
#define ATTUNE_RETURN_IF_ERROR(expr)                       \
  do {                                                     \
    if (absl::Status _attune_status = (expr); !_attune_status.ok()) return _attune_status; \
  } while (0)

#define ATTUNE_CONCAT_INNER_(a, b) a##b
#define ATTUNE_CONCAT_(a, b) ATTUNE_CONCAT_INNER_(a, b)
// Evaluates a StatusOr: assigns its value, or returns its status.
#define ATTUNE_ASSIGN_OR_RETURN(lhs, expr) \
  ATTUNE_ASSIGN_OR_RETURN_IMPL_(ATTUNE_CONCAT_(_attune_or_, __LINE__), lhs, expr)
#define ATTUNE_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return std::move(tmp).status();      \
  lhs = std::move(tmp).value()

#endif  // ATTUNE_COMMON_ERROR_H_
