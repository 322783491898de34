#ifndef ATTUNE_TESTS_TESTING_RUN_CLI_H_
#define ATTUNE_TESTS_TESTING_RUN_CLI_H_

#include <sstream>
#include <string>
#include <vector>

#include "client/cli/app.h"

namespace attune::testing {

struct CliResult {
  int code;
  std::string out;
  std::string err;
};

// Runs `attune args...` in this process.
inline CliResult RunAttune(std::vector<std::string> args, const std::string& input = "") {
  args.insert(args.begin(), "attune");
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  std::ostringstream out, err;
  std::istringstream in(input);
  int code = RunCli(static_cast<int>(argv.size()), argv.data(), out, err, in);
  return {code, out.str(), err.str()};
}

}  // namespace attune::testing

#endif  // ATTUNE_TESTS_TESTING_RUN_CLI_H_
