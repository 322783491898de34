#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_RANDOM_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_RANDOM_H_

#include <cstdint>

namespace attune {

// Random numbers that are the same on every platform, which the standard library's distributions are
// not: draw i is a hash of seed, stream and i. Streams of one seed are independent. Not thread-safe.
class CounterRandom {
 public:
  explicit CounterRandom(uint64_t seed, uint64_t stream = 0);

  uint64_t Bits();
  // In [0, n), without bias (Lemire 2019). REQUIRES: n >= 1.
  int64_t Below(int64_t n);
  // In [0, 1).
  double Uniform();
  // Mean 0, standard deviation 1 (Box and Muller 1958); to the last bits the mathematics library's.
  double Normal();

 private:
  const uint64_t key_;
  uint64_t counter_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_RANDOM_H_
