#include "server/tokenizer/chat_template.h"

#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

using ::testing::HasSubstr;

const std::vector<ChatTurn> kTurns = {{"system", "Be kind."}, {"user", "Hi \xC3\xA9"}, {"assistant", "Yes"}};

std::string ErrorReason(const absl::Status& status) { return GetErrorDetails(status).reason; }

absl::StatusOr<std::string> TryRender(const std::string& source, const std::vector<ChatTurn>& turns = kTurns,
                                      bool prompt = false) {
  ATTUNE_ASSIGN_OR_RETURN(const auto chat, ChatTemplate::Parse(source, "<s>", "</s>"));
  return chat->Render(turns, prompt);
}

std::string Render(const std::string& source) {
  const auto text = TryRender(source);
  EXPECT_TRUE(text.ok()) << source << ": " << text.status();
  return text.value_or("");
}

TEST(ChatTemplateTest, ChatMl) {
  const std::string source =
      "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  EXPECT_EQ(*TryRender(source, {{"user", "Hi"}}, true), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(*TryRender(source, {{"user", "Hi"}}, false), "<|im_start|>user\nHi<|im_end|>\n");
}

// By the means of Gemma's: the system's turn goes into the user's first, roles must alternate, contents may be lists.
TEST(ChatTemplateTest, SystemInTheFirstTurn) {
  const std::string source =
      "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set prefix = messages[0]['content'] + '\n\n' -%}"
      "{%- set turns = messages[1:] -%}{%- else -%}{%- set prefix = '' -%}{%- set turns = messages -%}{%- endif -%}"
      "{%- for m in turns -%}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}"
      "{%- endif -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
      "{{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}{%- if m['content'] is string -%}{{ m['content'] | trim }}"
      "{%- elif m['content'] is iterable -%}{%- for item in m['content'] -%}{{ item['text'] | trim }}{%- endfor -%}{%- endif -%}"
      "{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}";
  const std::vector<ChatTurn> turns = {{"system", "Be kind."}, {"user", " Hi "}, {"assistant", "Yes"}, {"user", "Why?"}};
  EXPECT_EQ(*TryRender(source, turns, true),
            "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n"
            "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_THAT(std::string(TryRender(source, {{"assistant", "Yes"}}).status().message()), HasSubstr("roles must alternate"));
}

TEST(ChatTemplateTest, WhiteSpaceControl) {
  EXPECT_EQ(Render("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
  EXPECT_EQ(Render("a \n {{- 'x' -}} \n b"), "axb");
  EXPECT_EQ(Render("a \n {%- if true -%} \n b {%- endif -%} c"), "abc");
  EXPECT_EQ(Render("  {# comment {{ x }} #}\nb"), "b");
  EXPECT_EQ(Render("x {% if true %} y{% endif %}"), "x  y");
  EXPECT_EQ(Render("a\n  {{ 'b' }}\nc"), "a\n  b\nc");
  EXPECT_EQ(Render("a\n  {%+ if true %}b{% endif %}"), "a\n  b");
  EXPECT_EQ(Render("a\r\nb\rc\n\n"), "a\nb\nc\n");
}

TEST(ChatTemplateTest, ValuesPrintAsInPython) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"1 + 2 * 3", "7"},
      {"-7 // 2", "-4"},
      {"-7 % 3", "2"},
      {"7 / 2", "3.5"},
      {"4 / 2", "2.0"},
      {"2 ** 10", "1024"},
      {"1e20", "1e+20"},
      {"0.1", "0.1"},
      {"'a' ~ 1 ~ none ~ true", "a1NoneTrue"},
      {"[1, 'x', \"it's\", none]", "[1, 'x', \"it's\", None]"},
      {"(1,)", "(1,)"},
      {"{'a': [1.5]}", "{'a': [1.5]}"},
      {"1 if false", ""},
      {"'y' if 0 else 'n'", "n"},
      {"1 < 2 < 3 and not 3 < 2", "True"},
      {"0 or 'x'", "x"},
      {"'' and 'x'", ""},
      {"'b' in 'abc' and 'z' not in ['y']", "True"},
      {"'abc'[1] ~ 'abc'[-1] ~ 'abcd'[1:3] ~ 'abc'[::-1]", "bcbccba"},
      {"'h\xC3\xA9llo'[1:3]", "\xC3\xA9l"},
      {"'\xC3\xA9\xC3\x9F' | upper", "\xC3\x89SS"},
      {"'h\xC3\xA9' | length", "2"},
      {"[1, 2, 3][1:]", "[2, 3]"},
      {"[1, 2] + [3]", "[1, 2, 3]"},
      {"'ab' * 2", "abab"},
      {"'\\u00e9\\n\\x41'", "\xC3\xA9\nA"},
      {"missing", ""},
      {"missing | default('d') ~ ('' | default('e', true))", "de"},
      {"messages[9] is defined", "False"},
      {"messages[0].nothing is undefined", "True"},
      {"none is none and 1 is number and 'a' is string and {} is mapping and [] is iterable", "True"},
      {"4 is even and 3 is odd and 6 is divisibleby 3 and 2 is not odd", "True"},
      {"true is true and 1 is not true", "True"},
      {"' x '.strip() ~ 'xxaxx'.lstrip('x') ~ 'xxaxx'.rstrip('x')", "xaxxxxa"},
      {"'a,b,c'.split(',') ~ ' a  b '.split() ~ 'a,b,c'.split(',', 1)", "['a', 'b', 'c']['a', 'b']['a', 'b,c']"},
      {"'abc'.startswith('ab') and 'abc'.endswith(('x', 'c'))", "True"},
      {"'hello wORLD'.title() ~ ' hI' | trim ~ 'xY'.capitalize() ~ 'aXa'.replace('a', 'b')", "Hello WorldhIXybXb"},
      {"{'a': 1}.items() | list", "[('a', 1)]"},
      {"{'a': 1}.get('b', 2) ~ {'a': 1}.get('a') ~ {'a': 1}['a']", "211"},
      {"[3, 1] | first ~ [3, 1] | last ~ [3, 1] | join('-')", "313-1"},
      {"{'k': [1, true, none, 'q\"\\n']} | tojson", "{\"k\": [1, true, null, \"q\\\"\\n\"]}"},
      {"[1, {'a': []}] | tojson(indent=2)", "[\n  1,\n  {\n    \"a\": []\n  }\n]"},
      {"messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list", "['Hi \xC3\xA9']"},
      {"messages | rejectattr('role', 'in', ['user', 'system']) | list | length", "1"},
      {"['a', 'b'] | map('upper') | join", "AB"},
      {"range(3) | list ~ range(5, 1, -2) | list", "[0, 1, 2][5, 3]"},
      {"'3' | int + 1", "4"},
      {"'x' | int(7)", "7"},
      {"(1 | string) ~ (1.0 | int) ~ (-2 | abs)", "112"},
      {"bos_token + eos_token", "<s></s>"},
      {"tools is none and documents is none and strftime_now is defined", "True"},
      {"strftime_now('%Y') | length", "4"},
      {"'a' 'b'", "ab"},
  };
  for (const auto& [expression, expected] : cases) EXPECT_EQ(Render("{{ " + expression + " }}"), expected) << expression;
}

TEST(ChatTemplateTest, Loops) {
  EXPECT_EQ(Render("{% for x in 'abc' %}{{ loop.index }}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}"), "1a,2b,3c");
  EXPECT_EQ(Render("{% for x in [1,2,3,4] if x % 2 == 0 %}{{ loop.index0 }}{{ x }}{{ loop.length }} {% endfor %}"), "022 142 ");
  EXPECT_EQ(Render("{% for x in [] %}a{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(Render("{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}"), "a=1");
  EXPECT_EQ(Render("{% for x in [1,2,3,4] %}{% if x == 2 %}{% continue %}{% elif x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}"),
            "13");
  EXPECT_EQ(Render("{% for x in [1,2] %}{{ loop.previtem }}|{{ loop.nextitem }};{% endfor %}"), "|2;1|;");
}

TEST(ChatTemplateTest, ScopesAndNamespaces) {
  EXPECT_EQ(Render("{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}"), "21");
  EXPECT_EQ(Render("{% set n = namespace(x=1) %}{% for i in [1,2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}"), "4");
  EXPECT_EQ(Render("{% if true %}{% set x = 3 %}{% endif %}{{ x }}"), "3");
  EXPECT_EQ(Render("{% set a, b = 1, 2 %}{{ a }}{{ b }}"), "12");
  EXPECT_EQ(Render("{% set x %} in {{ 1 }} {% endset %}[{{ x }}]"), "[ in 1 ]");
}

TEST(ChatTemplateTest, Macros) {
  EXPECT_EQ(Render("{% macro m(a, b='x') %}{{ a }}{{ b }}{{ g }}{% endmacro %}{% set g = '!' %}{{ m(1) }}{{ m(1, b=2) }}"),
            "1x!12!");
  EXPECT_EQ(Render("{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}"), "3210");
}

TEST(ChatTemplateTest, TheTemplatesOwnMessage) {
  const auto status = TryRender("{{ raise_exception('Roles must alternate') }}").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(status), "CHAT_TEMPLATE_ERROR");
  EXPECT_THAT(std::string(status.message()), HasSubstr("Roles must alternate"));
}

TEST(ChatTemplateTest, ErrorsWhileRendering) {
  for (const char* source :
       {"{{ missing.x }}", "{{ missing + 'x' }}", "{{ missing() }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ 1 < 'a' }}",
        "{{ 'a'.nothing() }}", "{% for x in 5 %}{% endfor %}", "{{ 9223372036854775807 + 1 }}", "{{ missing | tojson }}",
        "{{ 1 in 'a' }}", "{% set x = 1 %}{% set x.y = 2 %}", "{% set a, b = [1] %}", "{{ range(1, 2, 0) }}",
        "{{ 'a'.split('') }}", "{{ -'a' }}", "{{ [1][::0] }}"}) {
    EXPECT_EQ(ErrorReason(TryRender(source).status()), "CHAT_TEMPLATE_ERROR") << source;
  }
}

TEST(ChatTemplateTest, UnsupportedConstructsAreNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{% include 'x' %}", "include"},       {"{{ 1 | nofilter }}", "nofilter"}, {"{{ 1 is notest }}", "notest"},
      {"{% raw %}{% endraw %}", "raw"},       {"{% if true %}", "endif"},         {"{{ 1", "tag without end"},
      {"{# x", "comment"},                    {"{{ 'x }}", "string"},             {"{{ ! }}", "!"},
      {"{% break %}", "break"},               {"{{ (1 }}", "end"},                {"{% endfor %}", "endfor"},
      {"a\n\n{{ 1 | nofilter }}", "line 3"},  {"{{ '\\N{DASH}' }}", "escape"},
  };
  for (const auto& [source, expected] : cases) {
    const auto status = TryRender(source).status();
    EXPECT_EQ(ErrorReason(status), "UNSUPPORTED_CHAT_TEMPLATE") << source;
    EXPECT_THAT(std::string(status.message()), HasSubstr(expected)) << source;
  }
}

std::string Repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST(ChatTemplateTest, HostileTemplatesEndWithAnError) {
  const std::string loop = "{% for a in range(100000) %}";
  for (const std::string& source : {
           "{{ " + Repeat("(", 100000) + "1" + Repeat(")", 100000) + " }}",
           "{{ " + Repeat("not ", 100000) + "1 }}",
           "{{ 1" + Repeat(" + 1", 100000) + " }}",
           "{{ x" + Repeat("[0]", 100000) + " }}",
           "{{ x" + Repeat("|trim", 100000) + " }}",
           Repeat("{% if true %}", 50000),
           loop + loop + loop + "{% endfor %}{% endfor %}{% endfor %}",
           std::string("{{ 'x' * 1000000000 }}"),
           std::string("{{ [1] * 1000000000 | list }}"),
           std::string("{{ range(2000000000) | list }}"),
           std::string("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
           std::string("{% set n = namespace(x='abc') %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}"),
           std::string("{% set n = namespace(x=[]) %}{% for i in range(64) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"),
           std::string("{% set n = namespace(x=[]) %}{% set m = namespace(x=[]) %}{% for i in range(60) %}"
                       "{% set n.x = [n.x, n.x] %}{% set m.x = [m.x, m.x] %}{% endfor %}{{ n.x == m.x }}"),
           std::string("{% set n = namespace() %}{% set n.n = n %}{{ n }}"),
       }) {
    EXPECT_FALSE(TryRender(source).ok()) << source.substr(0, 80);
  }
}

TEST(ChatTemplateTest, NoPrefixOfATemplateCrashes) {
  const std::string source =
      "{%- set n = namespace(a=1) -%}{% for m in messages if m.role != 'x' %}{{ m['content'][1:] | trim ~ {'a': (1, 2.5)}.get('a') }}"
      "{% elif %}{%- macro f(a, b=[1]) -%}{# c #}{{ '\\u00e9' if a is not none else f(a=1) }}{%- endmacro %}{% endfor %}";
  for (size_t size = 0; size <= source.size(); ++size) {
    (void)TryRender(source.substr(0, size));
    (void)TryRender(source.substr(size));
  }
}

TEST(ChatTemplateTest, LongConversationsRender) {
  const std::string big(1 << 20, 'x');
  const auto text = TryRender("{% for m in messages %}{{ m.content | trim }}{% endfor %}", {{"user", big}, {"assistant", big}});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), 2u << 20);
}

}  // namespace
}  // namespace attune
