"""Small models with real tokenizers, made here: folders as transformers saves them, and GGUF files."""
import functools
import glob
import io
import json
import os
import random
import sysconfig

import gguf
import numpy
import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

SEEDS = [
    "Hello, world!", "it's I'm you'll we've they'd IT'S DON'T 'ſ", "def f(x):\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\r\n", '{"key": [1, 2.5, null, true], "b": "\\n"}', "a/b//c\n/d\r\n\r\n/",
    "<html><body class=\"x\">&amp;</body></html>", "https://example.org/a/b?c=d&e=f#g", "user@example.org +1 (555) 010-9999",
    "😀😃👍🏽👩‍👩‍👧‍👦🇩🇪", "é è ê ü ö ä ñ ç ß Ø ł ő", "e\u0301 a\u0308 n\u0303", "½ ² ① Ⅷ ٣٤ १२३ 一二三", "中文字符测试。日本語のテキスト、カタカナ。한국어 텍스트",
    "שלום עולם مرحبا بالعالم", "\u200b\u200d\ufeff", "Привет, мир! Ελληνικά ไทย हिन्दी தமிழ்", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠜎",
    "a\u00a0b\u2003c\u3000d\u0085f\u2028g", "tab\tnew\nline\r\nreturn\rvt\x0bff\x0c", "   leading", "trailing   ", "a  b   c    d",
    " ", "  ", "\n", "\n\n\n", "\t\t", " \n \n ", "0", "1234567890", " 12 345  6789", "3.14159e-10 1,000,000", "a <s> b </s>c<unk>",
    "<0x0A> <0xFF>", "CamelCaseIdentifier snake_case XMLHttpRequest ÉCOLE École iPhone", "!!!???...---___***", "$€£¥₿ ∑∫√ →←",
    "a" * 60, "ab" * 50, " " * 90, "\n" * 70, "1" * 40, "=" * 50, "😀" * 20, "中" * 30,
]


def _is_known(text):
    # Unicode versions differ in what is assigned: keep to what all know.
    return all(c.isprintable() or c.isspace() or ord(c) < 0x20 or ord(c) == 0x7F for c in text) and "\x00" not in text


@functools.lru_cache
def texts(count):
    """Written ones, some put together of these, and lines of Python's own library."""
    random.seed(20261127)
    lines = []
    for path in sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "*.py")))[:60]:
        with open(path, encoding="utf-8") as source:
            lines += [line for line in source.read().splitlines() if line.strip()]
    found = list(SEEDS)
    while len(found) < count:
        parts = [random.choice(SEEDS)[:random.randrange(1, 30)] for _ in range(random.randrange(1, 5))]
        text = random.choice(lines) if random.random() < 0.4 else "".join(p + random.choice(["", " ", "\n", "  "]) for p in parts)
        if _is_known(text):
            found.append(text)
    return tuple(found)


def sentencepiece_model(add_space_prefix=True, user_defined=(), kind="bpe"):
    """The bytes of a tokenizer.model, as of Llama 2: <unk>, <s>, </s>, bytes."""
    corpus = "\n".join(text.replace("\n", " ") for text in texts(3000))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.splitlines()), model_writer=model, vocab_size=1200, model_type=kind, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, minloglevel=2,
        add_dummy_prefix=add_space_prefix, user_defined_symbols=list(user_defined), hard_vocab_limit=False,
        allow_whitespace_only_pieces=True, character_coverage=0.98)
    return model.getvalue()


def byte_fallback_bpe(model, add_space_prefix=True, added=()):
    """A tokenizer.json's tokenizer with the pieces of a SentencePiece model, as transformers makes it."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = {processor.id_to_piece(i): i for i in range(len(processor))}
    merges = sorted(((a, b) for piece in pieces for a, b in ((piece[:k], piece[k:]) for k in range(1, len(piece)))
                     if a in pieces and b in pieces), key=lambda pair: pieces[pair[0] + pair[1]])
    backend = tokenizers.Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    mark = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), mark]) if add_space_prefix else mark
    strip = [decoders.Strip(" ", 1, 0)] if add_space_prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", "<s>", "</s>")])
    backend.add_tokens(list(added))
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return backend


def phi3_tokens():
    """Those that take the blanks behind them along, and one that does not."""
    strips = [AddedToken(token, normalized=False, special=True, rstrip=True) for token in ("<|user|>", "<|assistant|>", "<|end|>")]
    return [AddedToken("<|endoftext|>", normalized=False, special=True), *strips]


def phi3_backend():
    backend = byte_fallback_bpe(sentencepiece_model(), added=phi3_tokens())
    root = json.loads(backend.to_str())
    end = next(token for token in root["added_tokens"] if token["content"] == "</s>")
    end["rstrip"], end["special"] = True, False
    return tokenizers.Tokenizer.from_str(json.dumps(root))


@torch.no_grad()
def random_model(folder, vocab, kind=transformers.LlamaForCausalLM, config=transformers.LlamaConfig, **more):
    """Weights of a random model, and its config.json, in a folder that is made."""
    torch.manual_seed(7)
    shape = {"vocab_size": vocab, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2,
             "pad_token_id": None, "tie_word_embeddings": False}
    model = kind(config(**shape | more))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.normal_(mean=1, std=0.2)
    model.save_pretrained(folder)
    return folder


def save_tokenizer(folder, backend=None, model=None, **config):
    """As tokenizer.json or tokenizer.model, with a tokenizer_config.json."""
    if backend is not None:
        backend.save(os.path.join(folder, "tokenizer.json"))
    if model is not None:
        with open(os.path.join(folder, "tokenizer.model"), "wb") as out:
            out.write(model)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as out:
        json.dump({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | config, out)
    return folder


def byte_level_bpe(splits, normalizer=None):
    """A byte-level BPE that splits text by these expressions, one after the other."""
    backend = tokenizers.Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(texts(3000), trainer)
    return backend


def write_byte_level_gguf(path, backend, pre):
    """A GGUF file of a random Llama of one layer with the vocabulary of a byte-level BPE."""
    root = json.loads(backend.to_str())["model"]
    tokens = sorted(root["vocab"], key=root["vocab"].get)
    hidden, inner = 32, 64
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(merge) for merge in root["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    numbers = numpy.random.default_rng(3)
    shapes = {"token_embd": (len(tokens), hidden), "output": (len(tokens), hidden), "output_norm": (hidden,)}
    layer = {"attn_norm": (hidden,), "ffn_norm": (hidden,), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden),
             "ffn_down": (hidden, inner)} | {f"attn_{part}": (hidden, hidden) for part in ("q", "k", "v", "output")}
    for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in layer.items()}).items():
        writer.add_tensor(f"{name}.weight", numbers.normal(scale=0.1, size=shape).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
