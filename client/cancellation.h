#ifndef ATTUNE_CLIENT_CANCELLATION_H_
#define ATTUNE_CLIENT_CANCELLATION_H_

#include <grpcpp/client_context.h>

#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace attune {

// Ends calls from another thread. Once cancelled it stays so, and calls given
// it later end at once. Thread-safe, but not for use in a signal handler. Must
// outlive the calls that use it.
class Cancellation {
 public:
  void Cancel();
  bool cancelled() const;
  // Waits; returns false early, or at once, if cancelled.
  bool SleepFor(absl::Duration duration);

 private:
  friend class CallContext;
  void Attach(grpc::ClientContext* context);
  void Detach(grpc::ClientContext* context);

  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

// One attempt's context, tied to a Cancellation (may be null) while it lives.
class CallContext {
 public:
  CallContext(absl::Time deadline, Cancellation* cancellation);
  ~CallContext();
  CallContext(const CallContext&) = delete;
  CallContext& operator=(const CallContext&) = delete;
  grpc::ClientContext* get() { return &context_; }

 private:
  grpc::ClientContext context_;
  Cancellation* const cancellation_;
};

}  // namespace attune

#endif  // ATTUNE_CLIENT_CANCELLATION_H_
