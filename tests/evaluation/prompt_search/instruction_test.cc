// Instructions by rule, and what is made of what a model writes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "server/evaluation/prompt_search/instruction_edits.h"
#include "server/evaluation/prompt_search/instruction_text.h"

namespace attune {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(InstructionEditsTest, ShortensReordersAndNamesLabels) {
  const std::vector<std::string> edits = EditInstruction("Read the text. Say what it is about.", {"ship", "grain"});
  EXPECT_THAT(edits, Contains("Read the text."));
  EXPECT_THAT(edits, Contains("Say what it is about. Read the text."));
  EXPECT_THAT(edits, Contains("Read the text. Say what it is about. Answer with one of: ship, grain."));
  EXPECT_THAT(edits, Contains("Labels: ship, grain. Read the text. Say what it is about."));
  EXPECT_THAT(edits, Contains("Read the text. Say what it is about. Answer with the label alone."));
}

TEST(InstructionEditsTest, EditsAreDistinctAndNeverTheInstructionItself) {
  for (const char* instruction : {"", "One sentence", "Two. Two.", "Answer with one of: a, b."}) {
    const std::vector<std::string> edits = EditInstruction(instruction, {"a", "b"});
    EXPECT_FALSE(edits.empty());
    EXPECT_EQ(std::set<std::string>(edits.begin(), edits.end()).size(), edits.size());
    EXPECT_THAT(edits, Not(Contains(instruction)));
  }
}

TEST(InstructionEditsTest, LabelsAreNamedOnceAndLongListsAreNot) {
  EXPECT_THAT(EditInstruction("Answer with one of: a1, b1.", {"a1", "b1"}), Each(Not(HasSubstr("Labels:"))));
  std::vector<std::string> many;
  for (int i = 0; i < 50; ++i) many.push_back(absl::StrCat("label", i));
  EXPECT_THAT(EditInstruction("Classify.", many), Each(Not(HasSubstr("label49"))));
  EXPECT_THAT(PlainInstructions(many), Each(Not(HasSubstr("label49"))));
  EXPECT_THAT(PlainInstructions({"x", "y"}), Contains("Classify the text as one of: x, y."));
  EXPECT_THAT(EditInstruction("Answer.", {}), ElementsAre("Answer. Give the answer alone."));
}

TEST(InstructionTextTest, TakesTheInstructionOutOfWhatWasWritten) {
  EXPECT_EQ(CleanInstruction("  \"Classify the text.\"\n"), "Classify the text.");
  EXPECT_EQ(CleanInstruction("**Instruction:** Say what\nit is about.\n\nFor example, ..."), "Say what it is about.");
  EXPECT_EQ(CleanInstruction("- Give the right label."), "Give the right label.");
  EXPECT_EQ(CleanInstruction("Use {{braces}} as text."), "Use {{braces}} as text.");
}

TEST(InstructionTextTest, LeavesOutWhatIsNone) {
  for (const char* text : {"", "  \n\n ", "earn", "two words", "\xff is no UTF-8", "it has a \x1b in it"}) {
    EXPECT_EQ(CleanInstruction(text), "") << text;
  }
  EXPECT_EQ(CleanInstruction(std::string(1000, 'x') + " and more words"), "");
  const std::string sentence = "This sentence is said over and over again. ";
  std::string text;
  for (int i = 0; i < 20; ++i) text += sentence;
  const std::string cut = CleanInstruction(text);
  EXPECT_LE(cut.size(), 400);
  EXPECT_EQ(cut.back(), '.');
}

TEST(InstructionTextTest, RepetitionsGo) {
  EXPECT_THAT(CleanInstructions({"Classify the text.", "no", "classify the TEXT", "Name the topic, please."}),
              ElementsAre("Classify the text.", "Name the topic, please."));
}

}  // namespace
}  // namespace attune
