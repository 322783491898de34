#ifndef ATTUNE_CLIENT_CLI_APP_H_
#define ATTUNE_CLIENT_CLI_APP_H_

#include <istream>
#include <ostream>

namespace attune {

// The `attune` command: runs `argv`, writes to `out` and `err`, reads prompts
// from `in`, returns the exit code (client/cli/context.h). Progress is drawn as
// a live line only if the stream is the process's own and a terminal.
int RunCli(int argc, char** argv, std::ostream& out, std::ostream& err, std::istream& in);

}  // namespace attune

#endif  // ATTUNE_CLIENT_CLI_APP_H_
