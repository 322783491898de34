#ifndef ATTUNE_SERVER_TUNING_PASS_PRODUCTS_H_
#define ATTUNE_SERVER_TUNING_PASS_PRODUCTS_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "server/model/base_model.h"
#include "server/model/kernels/elementwise.h"
#include "server/tuning/flat_parameters.h"
#include "server/tuning/methods/method.h"

namespace attune {

// The layers' matrix products with what a method adds to them, forward and backward,
// differentiated by hand: LoRA's terms accumulate into the product's output, DoRA's and IA3's scales multiply it, gradients
// add up in the flat fp32 buffer as the products make them, and frozen weights get none.
// Not thread-safe.
class PassProducts {
 public:
  // All arguments must outlive this. `type` is what products compute in.
  PassProducts(const BaseModel* base, const Method* method, const FlatParameters* parameters, at::ScalarType type,
               double dropout);
  ~PassProducts();

  // Before each pass: takes over weights that trained since, and the pass's dropout masks.
  // `replaces`: trained weights' gradients take the place of what is in the buffer; LoRA's
  // are always added. `foreign_TP`, if defined: the LoRA's ranks belong to P jobs, in as many
  // equal parts of each module, and row t is none of job p's where it is true.
  void Begin(const StepSeed& seed, bool replaces, const at::Tensor& foreign_TP = {});
  // Until the next Begin.
  void TurnDropoutOff() { dropout_ = 0; }

  // x W^T + b, T x O. `u_TR`, LoRA's inner product, is used if it is defined, else made; it
  // stays undefined where the product has no LoRA.
  // Where rows come in chunks, `first_row` says where x stands: dropout's mask is the whole matrix's.
  at::Tensor Multiply(int64_t layer, Linear which, const at::Tensor& x_TI, at::Tensor* u_TR, int64_t first_row = 0);
  // From the gradient of the output: adds those of what trains, and returns that of x
  // (undefined unless `needs_dx`). x and u as in the forward pass; u is made again if it is gone.
  at::Tensor MultiplyBackward(int64_t layer, Linear which, const at::Tensor& dy_TO, const at::Tensor& x_TI,
                              at::Tensor* u_TR, bool needs_dx, int64_t first_row = 0);

  // Whether anything in a product of this layer trains.
  bool Trains(int64_t layer) const;

 private:
  struct Product;

  void AddLora(const LoraAdapter& lora, int64_t layer);
  void AddTrained(const TrainedWeights::Layer& trained, int64_t layer);
  void AddBiases(const std::array<at::Tensor, kProjections>& trained, int64_t layer);
  void AddScales(const Ia3Adapter::Layer& scales, int64_t layer);
  // Adds, or on a step's first pass puts, the gradients of biases that train.
  void BiasBackward(const Product& product, const at::Tensor& dy_TO, int64_t first_row) const;
  // dy before the outputs' scales, whose gradients it adds.
  at::Tensor ScalesBackward(const Product& product, const at::Tensor& weight_OI, const at::Tensor& dy_TO,
                            const at::Tensor& x_TI) const;
  const Product& At(int64_t layer, Linear which) const;
  at::Tensor Weight(int64_t layer, Linear which) const;
  // x under the product's dropout mask.
  at::Tensor Dropped(const Product& product, const at::Tensor& x, int64_t first_row) const;
  // What DoRA multiplies outputs by, of the parameters as they are.
  void SetMagnitudeScales(Product* product, const at::Tensor& weight_OI) const;
  // dy before those scales; adds the magnitudes' gradients. u_TR as in the forward pass.
  at::Tensor MagnitudesBackward(const Product& product, const at::Tensor& weight_OI, const at::Tensor& dy_TO,
                                const at::Tensor& x_TI, const at::Tensor& u_TR) const;
  // Clears what other jobs' ranks make of a row.
  void ClearForeign(const Product& product, at::Tensor u_TR, int64_t first_row) const;
  // LoRA's inner product.
  at::Tensor Shrink(const Product& product, const at::Tensor& dropped, int64_t first_row) const;

  const BaseModel* const base_;
  const FlatParameters* const parameters_;
  const at::ScalarType type_;
  const double trained_dropout_;
  double dropout_;  // of the running pass
  std::vector<std::array<Product, kLinears>> products_;
  StepSeed seed_;  // of the running pass
  at::Tensor foreign_TP_;
  bool replaces_ = false;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_PASS_PRODUCTS_H_
