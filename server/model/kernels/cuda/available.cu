#include "server/model/kernels/cuda/launch.h"

namespace attune::cuda {

bool Available() { return true; }

}  // namespace attune::cuda
