// Every command and option explains itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <sstream>

#include "client/cli/commands.h"
#include "tests/testing/run_cli.h"

namespace attune {
namespace {

using testing::CliResult;
using testing::RunAttune;
using ::testing::HasSubstr;

class HelpTest : public ::testing::Test {
 protected:
  HelpTest() { cli::BuildApp(&app_, &context_); }

  // Calls `visit` with each command below `app` and the words that name it.
  static void ForEachCommand(CLI::App* app, const std::vector<std::string>& path,
                             const std::function<void(CLI::App*, const std::vector<std::string>&)>& visit) {
    visit(app, path);
    for (CLI::App* command : app->get_subcommands([](CLI::App*) { return true; })) {
      std::vector<std::string> words = path;
      words.push_back(command->get_name());
      ForEachCommand(command, words, visit);
    }
  }

  std::ostringstream out_, err_;
  std::istringstream in_;
  cli::Context context_{out_, err_, in_};
  CLI::App app_;
};

TEST_F(HelpTest, EveryCommandPrintsItsHelp) {
  int commands = 0;
  ForEachCommand(&app_, {}, [&](CLI::App* command, std::vector<std::string> words) {
    ++commands;
    words.push_back("--help");
    CliResult r = RunAttune(words);
    EXPECT_EQ(r.code, 0) << ::testing::PrintToString(words);
    EXPECT_THAT(r.out, HasSubstr(command->get_description()));
    EXPECT_THAT(r.out, HasSubstr("Usage: attune"));
    EXPECT_EQ(r.err, "");
  });
  EXPECT_EQ(commands, 53);
}

TEST_F(HelpTest, EveryCommandAndOptionHasText) {
  ForEachCommand(&app_, {}, [&](CLI::App* command, const std::vector<std::string>& words) {
    EXPECT_FALSE(command->get_description().empty()) << ::testing::PrintToString(words);
    for (const CLI::Option* option : command->get_options()) {
      EXPECT_FALSE(option->get_description().empty()) << ::testing::PrintToString(words) << " " << option->get_name();
    }
  });
}

TEST_F(HelpTest, MainHelpDocumentsExitCodes) {
  CliResult r = RunAttune({"--help"});
  for (const char* code : {"  0  ", "  1  ", "  2  ", "  3  ", "  4  ", "  5  ", "  6  "}) {
    EXPECT_THAT(r.out, HasSubstr(code));
  }
}

TEST_F(HelpTest, Version) {
  CliResult r = RunAttune({"--version"});
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.out, ::testing::MatchesRegex("attune [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

}  // namespace
}  // namespace attune
