"""Tokenizers of GGUF files: read as the packages that made them, written of folders and back, over many texts."""
import os
import unittest

import exporting
import miniatures
import sentencepiece
import transformers
from exporting import Export
from tokenizers import normalizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
FIRST = r"[^\r\n\p{L}\p{N}]?"
SLASHES = REST.replace(r"[\r\n]*", r"[\r\n/]*", 1)
GPT4O = rf"{FIRST}{UPPER}*{LOWER}+{CONTRACTIONS}?|{FIRST}{UPPER}+{LOWER}*{CONTRACTIONS}?|\p{{N}}{{1,3}}{SLASHES}"
TEKKEN = rf"{FIRST}{UPPER}*{LOWER}+|{FIRST}{UPPER}+{LOWER}*|\p{{N}}{SLASHES}"
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
             r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SEED_CODER = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
# What tokenizer.ggml.pre stands for: the expressions of these models' own tokenizer.json, one after the other.
RULES = {
    "gpt-2": [GPT2], "phi-2": [GPT2], "smollm": [r"\p{N}", GPT2], "starcoder": [r"\p{N}", GPT2], "refact": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3], "llama-v3": [LLAMA3], "dbrx": [LLAMA3], "smaug-bpe": [LLAMA3], "qwen2": [QWEN2],
    "deepseek-r1-qwen": [QWEN2], "gpt-4o": [GPT4O], "llama4": [GPT4O], "tekken": [TEKKEN], "seed-coder": [SEED_CODER],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
}
NORMALIZED = {"qwen2", "deepseek-r1-qwen"}
COUNT = 1500


class GgufTokenizerTest(exporting.ExportingTest):
    def compare(self, model, encode, count=COUNT):
        for text in miniatures.texts(count):
            self.assertEqual(self.tokens(model, text), encode(text), (model, text))

    def test_pre_tokenizers(self):
        for pre, splits in RULES.items():
            with self.subTest(pre=pre):
                backend = miniatures.byte_level_bpe(splits, normalizers.NFC() if pre in NORMALIZED else None)
                path = os.path.join(self.exports, f"{pre}.gguf")
                miniatures.write_byte_level_gguf(path, backend, pre)
                self.load(path, f"pre-{pre}")
                self.compare(f"pre-{pre}", lambda text: backend.encode(text, add_special_tokens=False).ids)
                # As files for transformers.
                files = self.export(f"pre-{pre}", Export.SAFETENSORS, f"{pre}-files")
                written = transformers.AutoTokenizer.from_pretrained(files)
                for text in miniatures.texts(COUNT):
                    expected = backend.encode(text, add_special_tokens=False).ids
                    self.assertEqual(written.encode(text, add_special_tokens=False), expected, text)

    def check_round_trip(self, name, folder, encode):
        """The folder's model, its GGUF file, and the files of that, all have these ids."""
        self.load(folder, name)
        self.compare(name, encode)
        path = self.export(name, Export.GGUF_F16, f"{name}-gguf")
        self.load(os.path.join(path, "model.gguf"), f"{name}-again")
        self.compare(f"{name}-again", encode)
        files = self.export(f"{name}-again", Export.SAFETENSORS, f"{name}-files")
        written = transformers.AutoTokenizer.from_pretrained(files)
        transformers.AutoModelForCausalLM.from_pretrained(files)
        self.load(files, f"{name}-files")
        self.compare(f"{name}-files", encode)
        for text in miniatures.texts(COUNT):
            self.assertEqual(written.encode(text), encode(text), text)
        return files

    def check_sentencepiece_file(self, files, processor):
        written = sentencepiece.SentencePieceProcessor(model_file=os.path.join(files, "tokenizer.model"))
        self.assertEqual((written.bos_id(), written.eos_id(), written.unk_id()), (1, 2, 0))
        self.assertEqual([written.id_to_piece(i) for i in range(len(processor))],
                         [processor.id_to_piece(i) for i in range(len(processor))])
        for text in miniatures.texts(COUNT):
            self.assertEqual(written.encode(text), processor.encode(text), text)

    def test_sentencepiece(self):
        """Of a tokenizer.model alone, as Llama 2's; and without a space before texts, and with tokens of blanks, as Gemma's."""
        for name, prefix, user_defined in (("llama2", True, ()), ("gemma", False, ("▁▁", "▁▁▁▁", "\n", "\n\n", "<row>"))):
            with self.subTest(name=name):
                model = miniatures.sentencepiece_model(prefix, user_defined)
                processor = sentencepiece.SentencePieceProcessor(model_proto=model)
                folder = miniatures.random_model(os.path.join(self.exports, name), len(processor))
                miniatures.save_tokenizer(folder, model=model)
                # Attune finds special tokens in texts, SentencePiece does not.
                special = {"<unk>": 0, "<s>": 1, "</s>": 2}

                def encode(text):
                    ids, at = [1], 0
                    for start, end, token in self.found(text, special):
                        ids += (processor.encode(text[at:start]) if start > at else []) + [token]
                        at = end
                    return ids + (processor.encode(text[at:]) if at < len(text) else [])

                files = self.check_round_trip(name, folder, encode)
                self.check_sentencepiece_file(files, processor)

    @staticmethod
    def found(text, special):
        places = []
        for token, number in special.items():
            at = text.find(token)
            while at >= 0:
                places.append((at, at + len(token), number))
                at = text.find(token, at + 1)
        return sorted(places)

    def test_byte_fallback_bpe(self):
        """Of a tokenizer.json, with a space before every stretch of text, without, and with Phi-3's tokens."""
        model = miniatures.sentencepiece_model()
        for name, backend in (("prepend", miniatures.byte_fallback_bpe(model)),
                              ("plain", miniatures.byte_fallback_bpe(model, add_space_prefix=False)),
                              ("phi3", miniatures.phi3_backend())):
            with self.subTest(name=name):
                kind = {"kind": transformers.Phi3ForCausalLM, "config": transformers.Phi3Config} if name == "phi3" else {}
                folder = miniatures.random_model(os.path.join(self.exports, name), backend.get_vocab_size() + 3, **kind)
                miniatures.save_tokenizer(folder, backend=backend)
                self.check_round_trip(name, folder, lambda text: backend.encode(text).ids)

    def test_gemma(self):
        """The real Gemma 3 270M's vocabulary of 262,144 tokens as files."""
        self.load_gemma("gemma-270m")
        files = self.export("gemma-270m", Export.SAFETENSORS, "gemma-270m-files")
        written = transformers.AutoTokenizer.from_pretrained(files)
        processor = sentencepiece.SentencePieceProcessor(model_file=os.path.join(files, "tokenizer.model"))
        for text in miniatures.texts(COUNT):
            ids = self.tokens("gemma-270m", text)
            self.assertEqual(written.encode(text), ids, text)
            if not any(token in text for token in ("<unk>", "<bos>", "<eos>")):
                self.assertEqual([processor.bos_id(), *processor.encode(text)], ids, text)


if __name__ == "__main__":
    unittest.main()
