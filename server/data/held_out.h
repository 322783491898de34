#ifndef ATTUNE_SERVER_DATA_HELD_OUT_H_
#define ATTUNE_SERVER_DATA_HELD_OUT_H_

#include <cstdint>
#include <vector>

namespace attune {

// How many of `rows` rows are held out for validation: `fraction` of them, rounded up; of
// 0 a tenth, at most 500; of a negative one none. At least one row is left.
int64_t HeldOutCount(double fraction, int64_t rows);

// Which ones: `count` rows chosen by `seed`. The same for every method, so that jobs over
// the same data are measured on the same rows.
std::vector<bool> ChooseHeldOut(int64_t rows, int64_t count, uint64_t seed);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_HELD_OUT_H_
