#ifndef ATTUNE_SERVER_MODEL_KERNELS_ACTIVATION_H_
#define ATTUNE_SERVER_MODEL_KERNELS_ACTIVATION_H_

namespace attune {

// What a gated linear unit's gate goes through (Shazeer 2020): SwiGLU's x sigmoid(x), or GeGLU's Gaussian error linear unit
// in its form with tanh (Hendrycks and Gimpel 2016).
enum class Activation { kSilu, kGeluTanh };

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_ACTIVATION_H_
