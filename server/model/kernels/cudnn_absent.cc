// Stands in for cudnn_attention.cc in a build without cuDNN's frontend.
#include <ATen/ATen.h>

#include "server/model/kernels/cudnn_attention.h"

namespace attune::cudnn {

bool Available() { return false; }

int64_t WorkspaceRows(const PackedSequences&) { TORCH_CHECK(false, "built without cuDNN"); }

RaggedOffsets OffsetsOf(const PackedSequences&, const AttentionShape&) { TORCH_CHECK(false, "built without cuDNN"); }

at::Tensor AttentionForward(const at::Tensor&, const AttentionShape&, const PackedSequences&, const RaggedOffsets&,
                            at::Tensor*) {
  TORCH_CHECK(false, "built without cuDNN");
}

AttentionGradients AttentionBackward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                     const AttentionShape&, const PackedSequences&, const RaggedOffsets&) {
  TORCH_CHECK(false, "built without cuDNN");
}

}  // namespace attune::cudnn
