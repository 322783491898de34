#ifndef ATTUNE_CLIENT_STUBS_H_
#define ATTUNE_CLIENT_STUBS_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/sync_stream.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "attune/v1/alias_service.grpc.pb.h"
#include "attune/v1/advice_service.grpc.pb.h"
#include "attune/v1/comparison_service.grpc.pb.h"
#include "attune/v1/dataset_service.grpc.pb.h"
#include "attune/v1/evaluation_service.grpc.pb.h"
#include "attune/v1/generation_service.grpc.pb.h"
#include "attune/v1/model_service.grpc.pb.h"
#include "attune/v1/tuning_service.grpc.pb.h"
#include "client/cancellation.h"
#include "client/retry.h"
#include "common/status.h"

// Shared by the .cc files of the client library only.
namespace attune {

// What a client calls through. Thread-safe, as gRPC's stubs are.
struct Stubs {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::ModelService::StubInterface> models;
  std::unique_ptr<v1::DatasetService::StubInterface> datasets;
  std::unique_ptr<v1::TuningService::StubInterface> tuning;
  std::unique_ptr<v1::GenerationService::StubInterface> generation;
  std::unique_ptr<v1::EvaluationService::StubInterface> evaluation;
  std::unique_ptr<v1::ComparisonService::StubInterface> comparisons;
  std::unique_ptr<v1::AliasService::StubInterface> aliases;
  std::unique_ptr<v1::AdviceService::StubInterface> advice;
};

// What one unary call may take.
struct CallRules {
  absl::Duration deadline;
  bool retry;
};

// Runs a unary call. `retries`, if given, receives how often it was repeated.
template <typename Service, typename Request, typename Response>
absl::StatusOr<Response> CallUnary(const ClientOptions& options, CallRules rules, Service* stub,
                                   grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
                                   const Request& request, int* retries = nullptr) {
  const absl::Time deadline = absl::Now() + rules.deadline;
  Retrier retrier(options, deadline, nullptr);
  Response response;
  absl::Status status;
  do {
    CallContext context(deadline, nullptr);
    response.Clear();
    status = FromGrpcStatus((stub->*method)(context.get(), request, &response));
  } while (rules.retry && retrier.Again(status));
  if (retries != nullptr) *retries = retrier.retries();
  if (!status.ok()) return status;
  return response;
}

// Runs a server-streaming call that may be repeated until its first message.
template <typename Service, typename Request, typename Message>
absl::Status CallStream(const ClientOptions& options, Service* stub,
                        std::unique_ptr<grpc::ClientReaderInterface<Message>> (Service::*method)(grpc::ClientContext*,
                                                                                                 const Request&),
                        const Request& request, const std::function<bool(const Message&)>& on_message,
                        Cancellation* cancellation) {
  const absl::Time deadline = absl::Now() + options.long_deadline;
  Retrier retrier(options, deadline, cancellation);
  absl::Status status;
  bool received = false;
  do {
    CallContext context(deadline, cancellation);
    auto reader = (stub->*method)(context.get(), request);
    Message message;
    bool stopped = false;
    while (!stopped && reader->Read(&message)) {
      received = true;
      stopped = !on_message(message);
    }
    if (stopped) context.get()->TryCancel();
    status = FromGrpcStatus(reader->Finish());
    if (stopped) return absl::CancelledError("stopped by the caller");
  } while (!received && retrier.Again(status));
  return status;
}

}  // namespace attune

#endif  // ATTUNE_CLIENT_STUBS_H_
