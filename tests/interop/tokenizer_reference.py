"""Makes the references that tokenizer_interop_test compares with.

usage: tokenizer_reference.py OUTPUT_FOLDER [MODEL.gguf]

The model is $ATTUNE_TEST_MODEL unless given; without one there is nothing to do (exit 77).

OUTPUT_FOLDER/tokenizer.jsonl      {"text", "ids"}: SmolLM2's ids by transformers
OUTPUT_FOLDER/chat_template.jsonl  {"template", "messages", "add_generation_prompt", "text" or "error"} by jinja2
OUTPUT_FOLDER/models/NAME/         other tokenizers in Hugging Face's or GGUF's layout, each with its own
                                   tokenizer.jsonl {"text", "ids", "decoded"}
OUTPUT_FOLDER/texts.jsonl          20,000 more texts, generated and real: rows of Reuters R8 ($ATTUNE_R8, where it is there)
                                   and lines of Python's own library
OUTPUT_FOLDER/models/NAME/ids.bin  what the tokenizer makes of them: int32, for each its number of ids, then these
OUTPUT_FOLDER/models/NAME/decoded.jsonl  {"index", "decoded"} where decoding does not give the text back

Mistral's own tokenizers are among the models, out of the package mistral-common (downloaded, not installed).
"""

import array
import base64
import glob
import io
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import zipfile

import gguf
import jinja2.ext
import jinja2.sandbox
import sentencepiece
import tiktoken
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

SEEDS = [
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "it's I'm you'll we've they'd IT'S DON'T",
    "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}",
    "SELECT * FROM users WHERE id = 42 AND name LIKE '%bob%';", '{"key": [1, 2.5, null, true], "b": "\\n"}',
    "<html><body class=\"x\">&amp;</body></html>", "https://example.org/a/b?c=d&e=f#g", "user@example.org +1 (555) 010-9999",
    "😀😃👍🏽👩‍👩‍👧‍👦🇩🇪🏴󠁧󠁢󠁥󠁮󠁧󠁿", "é è ê ü ö ä ñ ç ß Ø ł ő", "e\u0301 a\u0308 n\u0303", "ﬁ ﬂ ½ ² ① Ⅷ ٣٤ १२३ 一二三",
    "中文字符测试。日本語のテキスト、カタカナ。한국어 텍스트", "שלום עולם مرحبا بالعالم", "\u202eabc\u202c \u200b\u200d\ufeff",
    "Привет, мир! Ελληνικά ไทย हिन्दी தமிழ் አማርኛ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒜𝓁𝓅𝒽𝒶 𐍈 𠜎", "a\u00a0b\u2003c\u3000d\u180ee\u0085f\u2028g\u1680h",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f", "\x1c\x1d\x1e\x1f", "tab\tnew\nline\r\nreturn\rvt\x0bff\x0c", "   leading", "trailing   ",
    "a  b   c    d", " ", "  ", "\n", "\n\n\n", "\t\t", " \n \n ", "0", "1234567890", " 12 345  6789", "3.14159e-10 1,000,000",
    "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "<|im_start|><|im_end|>", "a<|im_end|>b", "<|im_end", "|im_end|>",
    "<repo_name>x<file_sep>y", "<reponame><filename><gh_stars>", "<s> </s> <unk>", "▁ ▁▁ a▁b", "Ġ Ċ ĠĠ", "<0x0A> <0xFF>",
    "'ſ 'S ’s", "can't've", "CamelCaseIdentifier snake_case_identifier kebab-case", "!!!???...---___***", "$€£¥₿", "∑∫√∞≈≠", "→←↑↓⇒",
    "a" * 200, "ab" * 150, " " * 500, "\n" * 100, "1" * 120, "=" * 80, "😀" * 50, "中" * 100, "á" * 60,
]


MANY = 20000


MANY_TEXTS = []


def is_known(text):
    # Unicode versions differ in what is assigned: keep to what all know.
    return all(c.isprintable() or c.isspace() or ord(c) < 0x20 or ord(c) == 0x7F for c in text)


def real_texts():
    rows = []
    for path in sorted(glob.glob(os.path.join(os.environ.get("ATTUNE_R8", ""), "*.jsonl"))):
        with open(path, encoding="utf-8") as lines:
            rows += [json.loads(line)["text"][:300] for line in lines][:3000]
    library = sysconfig.get_paths()["stdlib"]
    for path in sorted(glob.glob(os.path.join(library, "*.py")) + glob.glob(os.path.join(library, "lib2to3", "*.txt"))):
        with open(path, encoding="utf-8") as source:
            rows += [line for line in source.read().splitlines() if line.strip()]
    return [row for row in dict.fromkeys(rows) if is_known(row)]


def many_texts():
    real = real_texts()
    random.seed(20261126)
    real = random.sample(real, min(len(real), MANY // 2))
    return (real + texts(MANY))[:MANY]


def write_many(path, ids_of, decode):
    numbers = array.array("i")
    differing = []
    for index, text in enumerate(MANY_TEXTS):
        ids = ids_of(text)
        numbers.append(len(ids))
        numbers.extend(ids)
        decoded = decode(ids)
        if decoded != text:
            differing.append({"index": index, "decoded": decoded})
    with open(os.path.join(path, "ids.bin"), "wb") as out:
        numbers.tofile(out)
    write_lines(os.path.join(path, "decoded.jsonl"), differing)


def texts(count=700):
    random.seed(20240601)
    found = list(dict.fromkeys(SEEDS))
    ranges = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F), (0x2000, 0x206F),
              (0x2190, 0x22FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1F6FF), (0x10000, 0x10FFFF)]
    glue = ["", " ", "  ", "\n", "\n\n", "\t", " \n", "   "]
    while len(found) < count:
        kind = random.randrange(4)
        if kind == 0:
            parts = [random.choice(SEEDS)[:random.randrange(1, 30)] for _ in range(random.randrange(2, 6))]
            text = "".join(part + random.choice(glue) for part in parts)
        elif kind == 1:
            text = "".join(chr(random.randint(*random.choice(ranges))) for _ in range(random.randrange(1, 40)))
        elif kind == 2:
            text = "".join(random.choice(" \n\t\r0123456789abcAB.'!?_-" + "éß中😀\u00a0") for _ in range(random.randrange(1, 60)))
        else:
            words = "the of and to in for is on that by this with you it not or be are from at as your all have new".split()
            text = " ".join(random.choice(words) for _ in range(random.randrange(3, 40))).capitalize() + "."
        if is_known(text):
            found.append(text)
    return found


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=True) + "\n")


def smollm(model):
    tokenizer = AutoTokenizer.from_pretrained(os.path.dirname(model), gguf_file=os.path.basename(model))
    backend = tokenizer.backend_tokenizer
    # transformers takes a GGUF's "smollm" for plain GPT-2; SmolLM2's own tokenizer.json splits digits first.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    backend.decoder = decoders.ByteLevel()
    return tokenizer, backend


def rows_of(backend):
    for text in texts():
        ids = backend.encode(text, add_special_tokens=False).ids
        yield {"text": text, "ids": ids, "decoded": backend.decode(ids, skip_special_tokens=False)}


def save_directory(folder, name, backend, config):
    path = os.path.join(folder, "models", name)
    os.makedirs(path, exist_ok=True)
    backend.save(os.path.join(path, "tokenizer.json"))
    with open(os.path.join(path, "tokenizer_config.json"), "w") as out:
        json.dump(config, out)
    write_lines(os.path.join(path, "tokenizer.jsonl"), rows_of(backend))
    write_many(path, lambda text: backend.encode(text, add_special_tokens=False).ids,
               lambda ids: backend.decode(ids, skip_special_tokens=False))


def byte_level_directories(folder, backend):
    config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
    save_directory(folder, "smollm", backend, config)
    splits = {
        "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        "gpt2_prefix": pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
        "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False),
                                           pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]),
    }
    for name, pattern in (("llama3", LLAMA3), ("qwen2", QWEN2)):
        splits[name] = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    for name, split in splits.items():
        backend.pre_tokenizer = split
        if name == "qwen2":
            backend.normalizer = normalizers.NFC()
        save_directory(folder, name, backend, config)


def train_sentencepiece(kind):
    corpus = "\n".join(text.replace("\n", " ") for text in texts() if "\x00" not in text)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.splitlines() * 3), model_writer=model, vocab_size=1200, model_type=kind,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        user_defined_symbols=["<user>"] if kind == "bpe" else [], minloglevel=2, hard_vocab_limit=False,
        allow_whitespace_only_pieces=True, character_coverage=0.98)
    return model.getvalue()


def sentencepiece_rows(processor):
    for text in texts():
        if "<unk>" in text or "<s>" in text:  # Attune finds control tokens in texts; the library does not
            continue
        ids = processor.encode(text)
        yield {"text": text, "ids": ids, "decoded": processor.decode(ids)}


def write_many_sentencepiece(path, processor):
    # Attune finds control tokens in texts; the library does not.
    hidden = ("<unk>", "<s>", "</s>")
    write_many(path, lambda text: [] if any(token in text for token in hidden) else processor.encode(text), processor.decode)


def mistral_models(folder):
    with tempfile.TemporaryDirectory() as downloads:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--dest", downloads,
                        "mistral-common==1.13.1"], check=True)
        with zipfile.ZipFile(glob.glob(os.path.join(downloads, "mistral_common-*.whl"))[0]) as archive:
            for name in archive.namelist():
                base = os.path.basename(name)
                if "/data/" in name and (".model.v" in base or base.startswith("tekken")):
                    mistral_model(folder, base, archive.read(name))


def mistral_model(folder, name, contents):
    path = os.path.join(folder, "models", "mistral_" + name.replace(".", "_").replace("_json", ""))
    os.makedirs(path, exist_ok=True)
    is_tekken = name.startswith("tekken")
    with open(os.path.join(path, "tekken.json" if is_tekken else "tokenizer.model"), "wb") as out:
        out.write(contents)
    if not is_tekken:
        return write_many_sentencepiece(path, sentencepiece.SentencePieceProcessor(model_proto=contents))
    root = json.loads(contents)
    special, size = root["config"]["default_num_special_tokens"], root["config"]["default_vocab_size"]
    ranks = {base64.b64decode(item["token_bytes"]): item["rank"] for item in root["vocab"] if item["rank"] < size - special}
    encoding = tiktoken.Encoding(name=name, pat_str=root["config"]["pattern"], mergeable_ranks=ranks, special_tokens={})
    hidden = ("<unk>", "<s>", "</s>")
    write_many(path, lambda text: [] if any(t in text for t in hidden) else [i + special for i in encoding.encode_ordinary(text)],
               lambda ids: encoding.decode([i - special for i in ids]))


def sentencepiece_models(folder):
    for kind in ("bpe", "unigram"):
        model = train_sentencepiece(kind)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        path = os.path.join(folder, "models", "sentencepiece_" + kind)
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "tokenizer.model"), "wb") as out:
            out.write(model)
        write_lines(os.path.join(path, "tokenizer.jsonl"), sentencepiece_rows(processor))
        write_many_sentencepiece(path, processor)
        if kind == "bpe":
            sentencepiece_gguf(folder, processor)
            marked_directories(folder, processor)


def sentencepiece_gguf(folder, processor):
    path = os.path.join(folder, "models", "gguf_llama")
    os.makedirs(path, exist_ok=True)
    writer = gguf.GGUFWriter(os.path.join(path, "tokenizer.gguf"), "llama")
    kinds = [2 if processor.is_unknown(i) else 6 if processor.is_byte(i) else 3 if processor.is_control(i)
             else 4 if processor.id_to_piece(i) == "<user>" else 1 for i in range(len(processor))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([processor.id_to_piece(i) for i in range(len(processor))])
    writer.add_token_scores([processor.get_score(i) for i in range(len(processor))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_lines(os.path.join(path, "tokenizer.jsonl"), sentencepiece_rows(processor))


def marked_directories(folder, processor):
    pieces = {processor.id_to_piece(i): i for i in range(len(processor))}
    merges = sorted(((a, b) for piece in pieces for a, b in ((piece[:k], piece[k:]) for k in range(1, len(piece)))
                     if a in pieces and b in pieces), key=lambda pair: pieces[pair[0] + pair[1]])
    layouts = {
        "prepend": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
        "metaspace_first": (None, pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)),
        "metaspace_always": (None, pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)),
        "metaspace_never": (None, pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=True)),
    }
    for name, (normalizer, pre_tokenizer) in layouts.items():
        backend = tokenizers.Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if normalizer is not None:
            backend.normalizer = normalizer
        if pre_tokenizer is not None:
            backend.pre_tokenizer = pre_tokenizer
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if name != "metaspace_never":
            steps.append(decoders.Strip(" ", 1, 0))
        backend.decoder = decoders.Sequence(steps)
        backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", "<s>", "</s>")])
        backend.add_tokens([AddedToken("<user>", normalized=False, special=False)])
        save_directory(folder, name, backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


CHATML = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = 'You answer shortly.' %}
    {%- set turns = messages %}
{%- endif %}
{{- '<|im_start|>system\\n' ~ system ~ '<|im_end|>\\n' }}
{%- for turn in turns %}
    {%- if turn.role not in ['user', 'assistant'] %}
        {{- raise_exception('A turn of role ' + turn.role + ' may not stand here') }}
    {%- endif %}
    {{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA3_STYLE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{#- The first turn may be the system's. #}
{%- if messages and messages[0].role == "system" %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- macro turn(role, text, last=false) -%}
<|start_header_id|>{{ role }}<|end_header_id|>

{{ text | trim }}{% if not last %}<|eot_id|>{% endif %}
{%- endmacro %}
{%- for message in messages %}
    {{- turn(message.role, message['content'], last=(loop.last and message.role == 'none')) }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL_STYLE = """{{ bos_token }}{% set ns = namespace(count=0, system='') %}
{% for message in messages %}
    {%- if message['role'] == 'system' -%}
        {% set ns.system = ns.system ~ message['content'] ~ '\\n\\n' %}
    {%- elif (message['role'] == 'user') != (ns.count % 2 == 0) -%}
        {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- elif message['role'] == 'user' -%}
        {% set ns.count = ns.count + 1 %}
        {{- '[INST] ' + (ns.system if ns.count == 1 else '') + message['content'] + ' [/INST]' -}}
    {%- else -%}
        {% set ns.count = ns.count + 1 %}
        {{- ' ' ~ message.content.strip() ~ eos_token -}}
    {%- endif -%}
{% endfor %}
"""

ZEPHYR_STYLE = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

# Reasoning that is left out of earlier turns, found from the end; answers of tools joined in one turn.
QWEN3_STYLE = """{%- if tools %}{{- 'TOOLS' }}{%- elif messages and messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set place = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<t>') and message.content.endswith('</t>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = place %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and thoughts)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}{%- for call in message.tool_calls %}{{- call.name }}{%- endfor %}{%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<t>\\n' + content + '\\n</t>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

PHI3_STYLE = """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

# Everything at once: what other templates use here and there.
MIXED_STYLE = """{%- set roles = {'user': 'U', "assistant": 'A'} -%}
{% for message in messages if message.role != 'system' %}
  {% set text = message['content'] %}
  {# a comment #}
  {{ loop.index0 ~ '/' ~ loop.length }} {{ roles.get(message.role, '?') }}: {{ text.split('\\n')[0] | upper }} {{ text | length }}
  {%- if 'b' in text and not text.startswith('x') or loop.first %} [{{ text[:3] }}|{{ text[-2:] }}|{{ text[::-1] }}]{% endif %}
  {%- for word in text.split() %}{% if loop.index > 3 %}{% break %}{% endif %} {{ word.title() }}{% if not loop.last %},{% endif %}{% else %} none{% endfor %}

{% else %}
nothing
{% endfor %}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(' + ') }}
{{ messages | map(attribute='role') | list }} {{ messages[0] | tojson }} {{ [1, 2.5, true, none, 'x"y'] | tojson }}
{{ (messages | length) // 2 }} {{ 7 % 3 }} {{ -7 // 2 }} {{ 1 + 2 * 3 - 4 / 2 }} {{ 2 ** 3 }} {{ 'a' * 3 }} {{ (1, 'b') }} {{ {'k': [1]} }}
{{ missing }}{{ missing | default('fallback') }} {{ messages[0].missing is defined }} {{ none is none }} {{ messages is sequence }} {{ messages[0] is mapping }}
{% for key, value in messages[0].items() %}{{ key }}={{ value | replace('a', 'o') | trim }};{% endfor %}
{%- set block %} a {{ 1 if false }}{{ 'yes' if true else 'no' }} {% endset %}
{{- block | capitalize }}{{ range(2, 8, 3) | list }}{{ "x\\ty" "z" }} {{ 1 < 2 <= 2 }} {{ not true == false }} {{ 'ab'.replace('a', '').rstrip('b') | string }}|
"""

CONVERSATIONS = [
    [("user", "Hi")],
    [("system", " Be brief. "), ("user", "What is 2+2?")],
    [("user", "  spaces  "), ("assistant", " four \n"), ("user", "again\n\nand again")],
    [("system", "S"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")],
    [("user", "é 😀 中文 \u00a0"), ("assistant", "'quotes' \"double\" \\ back\\slash"), ("user", "{{ x }} {% y %}")],
    [("user", "")],
    [("assistant", "I begin"), ("user", "no")],
    [("user", "why?"), ("assistant", "<think>\nwell\n</think>\n\nbecause"), ("user", "so?"), ("tool", "1"), ("tool", "2"),
     ("assistant", "<think>\n\nhm\n</think>\n\nyes")],
    [("user", "a"), ("user", "b")],
    [("system", "only")],
    [],
]


def chat_rows(own):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    for template in (own, CHATML, LLAMA3_STYLE, MISTRAL_STYLE, ZEPHYR_STYLE, QWEN3_STYLE, PHI3_STYLE, MIXED_STYLE):
        compiled = environment.from_string(template)
        for conversation in CONVERSATIONS:
            for prompt in (False, True):
                messages = [{"role": role, "content": content} for role, content in conversation]
                row = {"template": template, "messages": messages, "add_generation_prompt": prompt}
                try:
                    row["text"] = compiled.render(messages=messages, tools=None, documents=None, bos_token="<s>",
                                                  eos_token="</s>", add_generation_prompt=prompt)
                except (jinja2.exceptions.TemplateError, TypeError) as error:
                    row["error"] = str(error)
                yield row


def main():
    folder = sys.argv[1]
    model = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("ATTUNE_TEST_MODEL", "")
    if not os.path.exists(model):
        sys.exit(77)
    os.makedirs(folder, exist_ok=True)
    tokenizer, backend = smollm(model)
    write_lines(os.path.join(folder, "tokenizer.jsonl"), ({"text": row["text"], "ids": row["ids"]} for row in rows_of(backend)))
    write_lines(os.path.join(folder, "chat_template.jsonl"), chat_rows(tokenizer.chat_template))
    MANY_TEXTS[:] = many_texts()
    write_lines(os.path.join(folder, "texts.jsonl"), MANY_TEXTS)
    byte_level_directories(folder, backend)
    sentencepiece_models(folder)
    mistral_models(folder)


if __name__ == "__main__":
    main()
