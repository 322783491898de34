#ifndef ATTUNE_TESTS_TESTING_TENSOR_MATCHERS_H_
#define ATTUNE_TESTS_TESTING_TENSOR_MATCHERS_H_

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace attune {

// Whether two tensors have one shape and differ nowhere by more than `tolerance` times
// the largest magnitude of `expected` (or times 1 if that is smaller).
inline ::testing::AssertionResult Near(const at::Tensor& actual, const at::Tensor& expected, double tolerance) {
  if (!actual.defined()) return ::testing::AssertionFailure() << "undefined";
  if (actual.sizes() != expected.sizes()) {
    return ::testing::AssertionFailure() << "shape " << actual.sizes() << ", expected " << expected.sizes();
  }
  if (expected.numel() == 0) return ::testing::AssertionSuccess();
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble), e = expected.detach().to(at::kCPU, at::kDouble);
  const double difference = (a - e).abs().max().item<double>();
  const double scale = std::max(1.0, e.abs().max().item<double>());
  if (difference <= tolerance * scale) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "differs by " << difference << " at a scale of " << scale;
}

// Output and gradients of a function of several tensors, for a fixed gradient of the output.
struct OutputAndGradients {
  at::Tensor output;
  std::vector<at::Tensor> gradients;
};
inline OutputAndGradients RunWithGradients(const std::function<at::Tensor(const std::vector<at::Tensor>&)>& function,
                                           const std::vector<at::Tensor>& inputs, const at::Tensor& output_gradient) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.detach().clone().set_requires_grad(true));
  OutputAndGradients result;
  result.output = function(leaves);
  result.output.backward(output_gradient);
  for (const at::Tensor& leaf : leaves) result.gradients.push_back(leaf.grad());
  result.output = result.output.detach();
  return result;
}

// Both functions give the same output and the same gradients of every input.
inline void ExpectSameWithGradients(const std::function<at::Tensor(const std::vector<at::Tensor>&)>& function,
                                    const std::function<at::Tensor(const std::vector<at::Tensor>&)>& reference,
                                    const std::vector<at::Tensor>& inputs, double tolerance) {
  at::Tensor shape;
  {
    at::NoGradGuard no_grad;
    shape = reference(inputs);
  }
  const at::Tensor gradient = at::randn(shape.sizes(), shape.options());
  const OutputAndGradients actual = RunWithGradients(function, inputs, gradient);
  const OutputAndGradients expected = RunWithGradients(reference, inputs, gradient);
  EXPECT_TRUE(Near(actual.output, expected.output, tolerance)) << "output";
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(Near(actual.gradients[i], expected.gradients[i], tolerance)) << "gradient of input " << i;
  }
}

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_TENSOR_MATCHERS_H_
