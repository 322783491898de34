#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_MEAN_INTERVAL_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_MEAN_INTERVAL_H_

#include <vector>

#include "server/evaluation/measures/wilson.h"

namespace attune {

// The mean of figures of 0 to 1 with a 95% interval: Wilson's where all are 0 or 1, else the
// empirical Bernstein bound (Maurer and Pontil 2009), which narrows with their variance.
Proportion MeanInterval(const std::vector<double>& values);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_MEAN_INTERVAL_H_
