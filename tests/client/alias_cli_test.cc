// attune promote and attune aliases against a fake server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/alias_targets.h"
#include "tests/testing/fake_services.h"
#include "tests/testing/run_cli.h"

namespace attune {
namespace {

using cli::AliasTargets;
using testing::CliResult;
using testing::FakeServer;
using testing::FakeState;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::RunAttune;

// "a=9 b=1".
std::string Text(const AliasTargets& targets) {
  std::string out;
  for (const v1::Alias::Target& target : targets) {
    absl::StrAppend(&out, out.empty() ? "" : " ", target.model(), "=", target.weight());
  }
  return out;
}

std::string Parsed(const std::vector<std::string>& items) {
  absl::StatusOr<AliasTargets> targets = cli::ParseTargets(items);
  return targets.ok() ? Text(*targets) : std::string(targets.status().message());
}

TEST(AliasTargetsTest, ReadsWeightsAndShares) {
  EXPECT_EQ(Parsed({"a"}), "models/a=1");
  EXPECT_EQ(Parsed({"models/a=3", "b=1"}), "models/a=3 models/b=1");
  EXPECT_EQ(Parsed({"a=90%", "b=10%"}), "models/a=9 models/b=1");
  EXPECT_EQ(Parsed({"a=99.5%", "b=0.5%"}), "models/a=199 models/b=1");
  EXPECT_EQ(Parsed({"a=100%"}), "models/a=1");
}

TEST(AliasTargetsTest, RefusesWhatIsNoWhole) {
  EXPECT_THAT(Parsed({"a=90%", "b=20%"}), HasSubstr("sum to 110%"));
  EXPECT_THAT(Parsed({"a=90%", "b=10"}), HasSubstr("all a share"));
  EXPECT_THAT(Parsed({"a", "b"}), HasSubstr("'a' has no weight"));
  for (const char* bad : {"a=0", "a=-1", "a=x", "a=0%", "a=101%", "a=nan%", "a=1.5", "a=1000001", "a="}) {
    EXPECT_THAT(Parsed({bad}), HasSubstr("is no MODEL=WEIGHT")) << bad;
  }
}

TEST(AliasTargetsTest, AShareLeavesTheOthersInProportion) {
  const AliasTargets sole = *cli::ParseTargets({"old"});
  EXPECT_EQ(Text(cli::WithShare(sole, "models/new", 10)), "models/old=9 models/new=1");
  const AliasTargets two = *cli::ParseTargets({"a=3", "b=1"});
  EXPECT_EQ(Text(cli::WithShare(two, "models/new", 20)), "models/a=3 models/b=1 models/new=1");
  // It is one of them already.
  EXPECT_EQ(Text(cli::WithShare(*cli::ParseTargets({"new=1", "old=9"}), "models/new", 50)),
            "models/old=1 models/new=1");
  EXPECT_EQ(Text(cli::WithShare(*cli::ParseTargets({"new"}), "models/new", 50)), "models/new=1");
  EXPECT_EQ(Text(cli::WithShare({}, "models/new", 100)), "models/new=1");
  // A weight stays above zero.
  EXPECT_EQ(Text(cli::WithShare(*cli::ParseTargets({"a=1000000", "b=1"}), "models/new", 50)),
            "models/a=500000 models/b=1 models/new=500000");
}

class AliasCliTest : public ::testing::Test {
 protected:
  AliasCliTest() {
    v1::Comparison& comparison = state().comparisons["comparisons/r8"];
    comparison.set_name("comparisons/r8");
    comparison.set_state(v1::Comparison::SUCCEEDED);
    comparison.set_winner(v1::Comparison::LORA);
    comparison.set_winner_model("models/cmp-r8-lora");
    comparison.add_results()->set_kind(v1::Comparison::LORA);
  }

  CliResult Run(std::vector<std::string> args) {
    args.insert(args.end(), {"--server", server_.target()});
    return RunAttune(std::move(args));
  }
  FakeState& state() { return server_.state(); }
  std::string TargetsOf(const std::string& alias) {
    const auto& targets = state().aliases.at(alias).targets();
    return Text(AliasTargets(targets.begin(), targets.end()));
  }

  FakeServer server_;
};

TEST_F(AliasCliTest, PromotesAWinner) {
  CliResult r = Run({"promote", "r8", "--as", "tickets"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(TargetsOf("aliases/tickets"), "models/cmp-r8-lora=1");
  EXPECT_THAT(r.out, HasSubstr("models/tickets"));
  EXPECT_THAT(r.out, HasSubstr("attune generate tickets"));
  EXPECT_THAT(r.out, Not(HasSubstr("rollback"))) << "there is nothing before it";
  EXPECT_FALSE(state().RequestOf<v1::SetAliasRequest>("SetAlias").request_id().empty());
}

TEST_F(AliasCliTest, PromotesByShares) {
  EXPECT_EQ(Run({"aliases", "set", "tickets", "old"}).code, 0);
  CliResult r = Run({"promote", "comparisons/r8", "--as", "tickets", "--share", "10"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(TargetsOf("aliases/tickets"), "models/old=9 models/cmp-r8-lora=1");
  EXPECT_EQ(state().RequestOf<v1::SetAliasRequest>("SetAlias", 1).alias().etag(), "1")
      << "of what the shares were made";
  EXPECT_THAT(r.out, HasSubstr("old 90%, cmp-r8-lora 10%"));
  EXPECT_THAT(r.out, HasSubstr("attune aliases rollback tickets"));
  EXPECT_EQ(Run({"promote", "r8", "--as", "tickets"}).code, 0);
  EXPECT_EQ(TargetsOf("aliases/tickets"), "models/cmp-r8-lora=1");
}

TEST_F(AliasCliTest, SaysWhyItCannotPromote) {
  CliResult r = Run({"promote", "r8", "--as", "tickets", "--share", "10"});
  EXPECT_EQ(r.code, 2);
  EXPECT_THAT(r.err, HasSubstr("there is no alias 'tickets' yet"));
  EXPECT_EQ(Run({"promote", "none", "--as", "tickets"}).code, 3);
  EXPECT_EQ(Run({"promote", "r8"}).code, 2);
  EXPECT_EQ(Run({"promote", "r8", "--as", "tickets", "--share", "0"}).code, 2);
  EXPECT_EQ(Run({"promote", "r8", "--as", "tickets", "--share", "101"}).code, 2);
  state().comparisons["comparisons/r8"].set_state(v1::Comparison::RUNNING);
  state().comparisons["comparisons/r8"].clear_winner_model();
  r = Run({"promote", "r8", "--as", "tickets"});
  EXPECT_EQ(r.code, 4);
  EXPECT_THAT(r.err, HasSubstr("has no winner; it is RUNNING"));
  EXPECT_EQ(state().Calls("SetAlias"), 0);
}

TEST_F(AliasCliTest, TellsOfTheTemplateThatAWinnerNeeds) {
  state().comparisons["comparisons/r8"].mutable_results(0)->set_prompt_template("Topic of {{text}}?\n");
  EXPECT_THAT(Run({"promote", "r8", "--as", "tickets"}).out, HasSubstr("\"Topic of {{text}}?\\n\""));
}

TEST_F(AliasCliTest, ListsShowsRollsBackAndDeletes) {
  EXPECT_THAT(Run({"aliases", "list"}).out, HasSubstr("There are no aliases"));
  EXPECT_EQ(Run({"aliases", "set", "tickets", "old"}).code, 0);
  EXPECT_EQ(Run({"aliases", "set", "tickets", "old=3", "new=1"}).code, 0);
  EXPECT_EQ(Run({"aliases", "set", "mail", "a"}).code, 0);
  EXPECT_EQ(Run({"aliases", "set", "chat", "b"}).code, 0);
  CliResult r = Run({"aliases", "list"});
  EXPECT_THAT(r.out, HasSubstr("old 75%, new 25%"));
  EXPECT_THAT(r.out, HasSubstr("mail"));
  EXPECT_THAT(r.out, HasSubstr("chat"));
  r = Run({"aliases", "show", "tickets"});
  EXPECT_THAT(r.out, HasSubstr("asked as  models/tickets"));
  EXPECT_THAT(r.out, HasSubstr("REVISION"));
  r = Run({"aliases", "show", "tickets", "--json"});
  EXPECT_THAT(r.out, HasSubstr("\"model\": \"models/new\""));
  r = Run({"aliases", "rollback", "tickets"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(TargetsOf("aliases/tickets"), "models/old=1");
  r = Run({"aliases", "delete", "tickets"});
  EXPECT_EQ(r.out, "deleted aliases/tickets\n");
  r = Run({"aliases", "show", "tickets"});
  EXPECT_EQ(r.code, 3);
  EXPECT_THAT(r.err, HasSubstr("attune aliases list"));
}

TEST_F(AliasCliTest, ARepeatedRollBackIsOneRequest) {
  EXPECT_EQ(Run({"aliases", "set", "tickets", "old"}).code, 0);
  EXPECT_EQ(Run({"aliases", "set", "tickets", "new"}).code, 0);
  state().FailNext("RollBackAlias", 1, testing::Unavailable());
  EXPECT_EQ(Run({"aliases", "rollback", "tickets"}).code, 0);
  ASSERT_EQ(state().Calls("RollBackAlias"), 2);
  const std::string first = state().RequestOf<v1::RollBackAliasRequest>("RollBackAlias", 0).request_id();
  EXPECT_FALSE(first.empty());
  EXPECT_EQ(state().RequestOf<v1::RollBackAliasRequest>("RollBackAlias", 1).request_id(), first);
}

}  // namespace
}  // namespace attune
