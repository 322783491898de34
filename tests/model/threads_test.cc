// at::parallel_for is a template: whether it is parallel depends on how we compile.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace attune {
namespace {

TEST(ThreadsTest, ParallelForRunsItsPartsAtOnce) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> started{0};
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    ++started;
    while (started < 2) std::this_thread::yield();  // hangs if one part waits for the other
  });
  EXPECT_EQ(started, 2);
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace attune
