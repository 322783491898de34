#include "common/log.h"

#include <algorithm>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"

namespace attune {
namespace {

using ::testing::MatchesRegex;

class LogTest : public ::testing::Test {
 protected:
  LogTest() { ::testing::internal::CaptureStderr(); }
  ~LogTest() override { SetLogLevel(LogLevel::kInfo); }
  static std::string Output() { return ::testing::internal::GetCapturedStderr(); }
};

TEST_F(LogTest, WritesOneStructuredLine) {
  LogInfo("job.state", {{"job", "tuningJobs/a"}, {"state", "RUNNING"}});
  EXPECT_THAT(Output(), MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9]+\\.[0-9]+Z "
                                     "INFO job\\.state job=tuningJobs/a state=RUNNING\n"));
}

TEST_F(LogTest, OutsideTextCannotForgeALine) {
  LogWarning("upload", {{"name", "a\n2026-01-01T00:00:00Z ERROR forged x=\"y\"\x1b[31m\x7f"}, {"empty", ""}});
  std::string line = Output();
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_EQ(line.find('\x7f'), std::string::npos);
  EXPECT_NE(line.find("name=\"a\\n2026-01-01T00:00:00Z ERROR forged x=\\\"y\\\"\\033[31m\\177\" empty=\"\""),
            std::string::npos)
      << line;
}

TEST_F(LogTest, KeepsUtf8) {
  LogInfo("e", {{"name", "Ren\xc3\xa9"}});
  EXPECT_NE(Output().find("name=Ren\xc3\xa9\n"), std::string::npos);
}

TEST_F(LogTest, DropsWhatIsBelowTheLevel) {
  Log(LogLevel::kDebug, "hidden", {});
  SetLogLevel(LogLevel::kWarning);
  LogInfo("hidden");
  LogError("shown");
  SetLogLevel(LogLevel::kDebug);
  Log(LogLevel::kDebug, "shown", {});
  std::vector<std::string> lines = absl::StrSplit(Output(), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 2);
  EXPECT_NE(lines[0].find(" ERROR shown"), std::string::npos);
  EXPECT_NE(lines[1].find(" DEBUG shown"), std::string::npos);
}

TEST_F(LogTest, ThreadsDoNotMixTheirLines) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      for (int k = 0; k < 100; ++k) LogInfo("e", {{"v", std::string(50, static_cast<char>('a' + i))}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::string> lines = absl::StrSplit(Output(), '\n', absl::SkipEmpty());
  EXPECT_EQ(lines.size(), 400);
  for (const std::string& line : lines) {
    EXPECT_THAT(line, MatchesRegex("[^ ]+ INFO e v=[abcd]+"));
    std::string value = line.substr(line.size() - 50);
    EXPECT_EQ(value, std::string(50, value[0])) << line;
  }
}

TEST(LogLevelTest, ParsesNames) {
  const std::pair<const char*, LogLevel> cases[] = {{"debug", LogLevel::kDebug},
                                                    {"info", LogLevel::kInfo},
                                                    {"warning", LogLevel::kWarning},
                                                    {"error", LogLevel::kError}};
  for (const auto& [name, expected] : cases) {
    LogLevel level = expected == LogLevel::kInfo ? LogLevel::kError : LogLevel::kInfo;
    EXPECT_TRUE(ParseLogLevel(name, &level));
    EXPECT_EQ(level, expected);
  }
  LogLevel level = LogLevel::kError;
  EXPECT_FALSE(ParseLogLevel("loud", &level));
  EXPECT_EQ(level, LogLevel::kError);
}

}  // namespace
}  // namespace attune
