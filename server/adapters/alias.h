#ifndef ATTUNE_SERVER_ADAPTERS_ALIAS_H_
#define ATTUNE_SERVER_ADAPTERS_ALIAS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace attune {

// A model that an alias sends requests to.
struct AliasTarget {
  std::string model;   // id
  int64_t weight = 1;  // its part of the requests is this over the sum of all

  friend bool operator==(const AliasTarget&, const AliasTarget&) = default;
};

// Which models answered an alias's requests from one moment on.
struct AliasSetting {
  int64_t revision = 0;  // 1, 2, ... within its alias
  int64_t before = 0;    // the revision that a roll-back restores; 0: none
  std::vector<AliasTarget> targets;
  absl::Time set_time;
};

// A name in the models' namespace that stands for one of a few models, request by request.
struct Alias {
  std::string id;
  std::vector<AliasSetting> settings;  // newest first; the first is in force, always there
  absl::Time create_time;
  std::string etag;
  int64_t position = 0;  // of its database row; orders listings
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_ALIAS_H_
