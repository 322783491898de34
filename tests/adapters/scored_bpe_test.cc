#include "server/adapters/scored_bpe.h"

#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

const std::string kMark = "\xE2\x96\x81";

// <unk>, the bytes from 1 on, then the pieces from 257 on.
ByteFallbackBpeParts Parts(const std::vector<std::string>& pieces, const BpeMerges& merges) {
  ByteFallbackBpeParts parts;
  parts.vocabulary.tokens = {"<unk>"};
  for (int byte = 0; byte < 256; ++byte) parts.vocabulary.tokens.push_back(absl::StrFormat("<0x%02X>", byte));
  parts.vocabulary.tokens.insert(parts.vocabulary.tokens.end(), pieces.begin(), pieces.end());
  parts.vocabulary.kinds.assign(parts.vocabulary.tokens.size(), TokenKind::kNormal);
  parts.options.unk_id = 0;
  parts.merges = merges;
  return parts;
}

ByteFallbackBpeParts AbcParts() {
  return Parts({"a", "b", "c", "ab", "bc", "abc"}, {{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"ab", "c"}});
}

std::string Message(const absl::Status& status) {
  EXPECT_EQ(GetErrorDetails(status).reason, "UNSUPPORTED_TOKENIZER") << status;
  return std::string(status.message());
}

TEST(ScoredBpeTest, EarlierMergesScoreHigher) {
  const absl::StatusOr<ScoredBpe> bpe = ToScoredBpe(AbcParts());
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_TRUE(bpe->add_space_prefix);
  EXPECT_EQ(bpe->vocabulary.kinds[0], TokenKind::kUnknown);
  EXPECT_EQ(bpe->vocabulary.kinds[1], TokenKind::kByte);
  EXPECT_GT(bpe->scores[261], bpe->scores[260]);  // bc, ab
  EXPECT_GT(bpe->scores[260], bpe->scores[262]);  // abc
  EXPECT_GT(bpe->scores[262], bpe->scores[257]);  // a, which nothing makes
}

TEST(ScoredBpeTest, MergesComeBackFromScores) {
  const absl::StatusOr<ScoredBpe> bpe = ToScoredBpe(AbcParts());
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_THAT(*MergesOfScores(bpe->vocabulary, bpe->scores),
              ElementsAre(Pair("b", "c"), Pair("a", "b"), Pair("ab", "c"), Pair("a", "bc")));
}

// As transformers orders those of equal scores: runs that grow from the left.
TEST(ScoredBpeTest, RunsMayBeMergedInTurns) {
  const std::string two = kMark + kMark, three = two + kMark, four = two + two;
  const BpeMerges merges = {{three, kMark}, {two, two}, {two, kMark}, {kMark, three}, {kMark, two}, {kMark, kMark}};
  const absl::StatusOr<ScoredBpe> bpe = ToScoredBpe(Parts({kMark, two, three, four}, merges));
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_EQ(bpe->scores[259], bpe->scores[260]);
  EXPECT_LT(bpe->scores[258], bpe->scores[260]);
}

TEST(ScoredBpeTest, WhatScoresCannotSayIsNamed) {
  ByteFallbackBpeParts parts = AbcParts();
  parts.merges.pop_back();
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("\"abc\" is not merged of all pairs"));
  parts = AbcParts();
  std::swap(parts.merges[1], parts.merges[2]);
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("in turns with others"));
  for (const PrefixScheme prefix : {PrefixScheme::kFirst, PrefixScheme::kIfMissing}) {
    parts = AbcParts();
    parts.options.prefix = prefix;
    EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("a space before some texts"));
  }
  parts = AbcParts();
  parts.options.drops_space = false;
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("first space"));
  parts = Parts({"a", kMark, "a" + kMark}, {{"a", kMark}});
  parts.options.split_words = true;
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("stay inside words"));
  parts = AbcParts();
  parts.vocabulary.tokens[7] = "<byte>";
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("without a token for each byte"));
  parts = AbcParts();
  parts.vocabulary.kinds[262] = TokenKind::kUnused;
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("makes no token"));
  parts.merges.resize(2);
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("\"abc\" is unused"));
}

// Scores merge characters that are no tokens, merges do not.
// Which would take more memory than there is.
TEST(ScoredBpeTest, RunsOfEveryLengthAreRefused) {
  std::vector<std::string> runs;
  for (size_t length = 1; length <= 2000; ++length) runs.emplace_back(length, 'a');
  const ByteFallbackBpeParts parts = Parts(runs, {});
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("tokens so long"));
  EXPECT_THAT(Message(MergesOfScores(parts.vocabulary, std::vector<float>(parts.vocabulary.tokens.size())).status()),
              HasSubstr("tokens so long"));
  EXPECT_THAT(Message(ToScoredBpe(Parts({std::string(1 << 16, 'a')}, {})).status()), HasSubstr("tokens so long"));
}

TEST(ScoredBpeTest, CharactersWithoutATokenAreNamed) {
  EXPECT_THAT(Message(ToScoredBpe(Parts({"a", "ab"}, {})).status()), HasSubstr("\"ab\" is not merged of all pairs"));
  Vocabulary vocabulary = Parts({"a", "ab"}, {}).vocabulary;
  for (size_t id = 1; id < 257; ++id) vocabulary.kinds[id] = TokenKind::kByte;
  const absl::Status status = MergesOfScores(vocabulary, std::vector<float>(vocabulary.tokens.size(), 0)).status();
  EXPECT_THAT(Message(status), HasSubstr("a character that is no token"));
}

TEST(ScoredBpeTest, SentencePieceKeepsItsScores) {
  const absl::StatusOr<ScoredBpe> bpe = ToScoredBpe(AbcParts());
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  SentencePieceParts parts = {bpe->vocabulary, bpe->scores};
  parts.vocabulary.tokens.push_back(kMark + kMark);
  parts.vocabulary.kinds.push_back(TokenKind::kUserDefined);
  parts.scores.push_back(0);
  const absl::StatusOr<ScoredBpe> again = ToScoredBpe(parts);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->scores, parts.scores);
  EXPECT_EQ(again->vocabulary.tokens.back(), "  ");
  parts.removes_extra_spaces = true;
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("leaves out further spaces"));
  parts.removes_extra_spaces = false, parts.is_unigram = true;
  EXPECT_THAT(Message(ToScoredBpe(parts).status()), HasSubstr("unigram"));
}

}  // namespace
}  // namespace attune
