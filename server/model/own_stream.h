#ifndef ATTUNE_SERVER_MODEL_OWN_STREAM_H_
#define ATTUNE_SERVER_MODEL_OWN_STREAM_H_

#include <memory>

#include "server/model/compute_target.h"

namespace attune {

// A stream on a GPU that nobody else holds, beside which others' work may run; nothing on
// the CPU. It outlives this object, and goes to the next one that is made.
// Tensors that are made in a scope belong to the stream: what leaves a scope must have been
// waited for (Synchronize, or a value that was read).
class OwnStream {
 public:
  // Whose blocks the device takes first where there is a choice.
  enum class Priority { kNormal, kHigh };
  // Waits for what the calling thread's stream was asked for: the new one goes on from there.
  explicit OwnStream(const ComputeTarget& target, Priority priority = Priority::kNormal);

  // While it lives, the calling thread's work goes to the stream.
  class Scope {
   public:
    explicit Scope(const OwnStream& stream);
    ~Scope();

   private:
    struct Guard;
    std::unique_ptr<Guard> guard_;
  };

 private:
  struct Stream;
  std::shared_ptr<const Stream> stream_;  // null on the CPU
};

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_OWN_STREAM_H_
