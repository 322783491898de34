#include "server/data/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Render(absl::string_view source, const Columns& columns) {
  return PromptTemplate::Parse(source).value().Render(columns).value();
}

TEST(TemplateTest, RendersVariables) {
  EXPECT_EQ(Render("Text: {{text}}\nLabel:", {{"text", "hi"}, {"other", "x"}}), "Text: hi\nLabel:");
  EXPECT_EQ(Render("{{ a }}{{\tb}}{{a}}", {{"a", "1"}, {"b", "2"}}), "121");
  EXPECT_EQ(Render("", {}), "");
  EXPECT_EQ(Render("{{first name}}", {{"first name", "Ada"}}), "Ada");
}

TEST(TemplateTest, ValuesAreNotTemplates) { EXPECT_EQ(Render("{{a}}", {{"a", "{{b}}\\{{"}, {"b", "no"}}), "{{b}}\\{{"); }

TEST(TemplateTest, EscapedBracesAndSingleOnesAreText) {
  EXPECT_EQ(Render("\\{{a}} {a} }} { {{a}}", {{"a", "1"}}), "{{a}} {a} }} { 1");
}

TEST(TemplateTest, ListsVariablesOnceInOrder) {
  PromptTemplate parsed = PromptTemplate::Parse("{{b}} {{a}} {{ b }}").value();
  EXPECT_THAT(parsed.variables(), ElementsAre("b", "a"));
  EXPECT_EQ(parsed.source(), "{{b}} {{a}} {{ b }}");
}

TEST(TemplateTest, KnowsABareVariable) {
  EXPECT_TRUE(PromptTemplate::Parse("{{ prompt }}").value().IsBareVariable());
  EXPECT_FALSE(PromptTemplate::Parse("{{prompt}} ").value().IsBareVariable());
  EXPECT_FALSE(PromptTemplate::Parse("{{a}}{{b}}").value().IsBareVariable());
  EXPECT_FALSE(PromptTemplate::Parse("text").value().IsBareVariable());
}

TEST(TemplateTest, RefusesMalformedSources) {
  for (const char* source : {"{{a", "{{}}", "{{  }}", "{{a{b}}", "x{{a\nb}}", "{{ {{a}} }}"}) {
    absl::Status status = PromptTemplate::Parse(source).status();
    EXPECT_EQ(GetErrorDetails(status).reason, "BAD_TEMPLATE") << source;
    EXPECT_THAT(std::string(status.message()), HasSubstr(source[0] == 'x' ? "byte 2" : "byte 1")) << source;
  }
}

TEST(TemplateTest, MissingColumnsAreNamed) {
  absl::Status status = PromptTemplate::Parse("{{a}}{{b}}").value().Render({{"a", ""}}).status();
  EXPECT_EQ(GetErrorDetails(status).reason, "MISSING_COLUMN");
  EXPECT_EQ(GetErrorDetails(status).metadata.at("column"), "b");
}

TEST(EscapeTemplateTextTest, RenderedItIsTheTextAgain) {
  for (const char* text : {"", "plain", "{{x}}", "{", "{{{x}}}", "\\{{x}}", "\\\\{{", "}}", "{{", "a{{b{{"}) {
    absl::StatusOr<PromptTemplate> parsed = PromptTemplate::Parse(EscapeTemplateText(text));
    ASSERT_TRUE(parsed.ok()) << text << parsed.status();
    EXPECT_TRUE(parsed->variables().empty()) << text;
    EXPECT_EQ(*parsed->Render({}), text);
  }
}

}  // namespace
}  // namespace attune
