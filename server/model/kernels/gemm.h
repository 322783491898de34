#ifndef ATTUNE_SERVER_MODEL_KERNELS_GEMM_H_
#define ATTUNE_SERVER_MODEL_KERNELS_GEMM_H_

#include <cstdint>

// The BLAS that libtorch carries. Called from inside at::parallel_for it stays on
// the calling thread.
extern "C" void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
                       const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
                       const float* beta, float* c, const int* ldc);

namespace attune {

// Small fp32 products on row-major blocks; `ld` arguments are row strides. BLAS is
// column-major, so each is its transposed product.
struct Gemm {
  int64_t m, n, k;  // C is m x n
  float alpha = 1, beta = 0;

  // C = alpha * A(m x k) B(n x k)^T + beta * C
  void NT(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) const {
    Call("T", "N", b, ldb, a, lda, c, ldc);
  }
  // C = alpha * A(m x k) B(k x n) + beta * C
  void NN(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) const {
    Call("N", "N", b, ldb, a, lda, c, ldc);
  }
  // C = alpha * A(k x m)^T B(k x n) + beta * C
  void TN(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) const {
    Call("N", "T", b, ldb, a, lda, c, ldc);
  }

 private:
  void Call(const char* first, const char* second, const float* b, int64_t ldb, const float* a, int64_t lda, float* c,
            int64_t ldc) const {
    const int mi = static_cast<int>(m), ni = static_cast<int>(n), ki = static_cast<int>(k);
    const int la = static_cast<int>(lda), lb = static_cast<int>(ldb), lc = static_cast<int>(ldc);
    sgemm_(first, second, &ni, &mi, &ki, &alpha, b, &lb, a, &la, &beta, c, &lc);
  }
};

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_GEMM_H_
