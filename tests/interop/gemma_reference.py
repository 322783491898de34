"""Writes reference files for tests/tuning/gemma_interop_test.cc.

    gemma_reference.py FOLDER

What transformers and PEFT compute in fp32 with the GGUF file of Gemma 3 270M that ATTUNE_TEST_GEMMA names (exits with 77 if there is
none):

FOLDER/gemma/tokens.json             texts and their ids, by a tokenizer that is built as transformers builds Gemma's
FOLDER/gemma/logits.safetensors      tokens_{i}, and logits_{i} after the last of them, of each so-manieth token of the vocabulary
FOLDER/gemma/greedy.json             prompts, one longer than the window, and their likeliest continuations
FOLDER/gemma/steps.json              a batch, and loss and gradient norm of optimizer steps on it with each method
FOLDER/gemma/steps_{method}.safetensors  start values, by Attune's parameter names
"""

import json
import os
import pathlib
import sys

import gguf
import peft
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM

LOGITS_OF_LAST, EACH = 8, 64
NEW_TOKENS = 24
STEPS = 6
LEARNING_RATES = {"lora": 2e-4, "soft_prompt": 1e-2, "norms": 2e-3}
VIRTUAL_TOKENS = 8
CONTROL, USER_DEFINED, BYTE = 3, 4, 6

STORY = ("The lighthouse keeper counted the boats that came home in the evening, wrote their names into a thick book, "
         "and lit the lamp. ")
TEXTS = [
    "The capital of France is",
    "def add(a, b):\n        return a + b\n\n\nprint(add(2, 3))\t# five",
    "Größenwahn, naïveté and 你好. \U0001F600  two  blanks,   three\n",
    "<start_of_turn>user\nName a fruit.<end_of_turn>\n<start_of_turn>model\n",
    STORY * 24,
]
PROMPTS = ["The capital of France is", "1, 1, 2, 3, 5, 8, 13,", "def fibonacci(n):\n", STORY * 24]
# Prompts and answers; loss is on the answers.
EXAMPLES = [
    ("Text: shares of the mill rose after it reported a record net profit\nTopic:", " earn<eos>"),
    ("Text: wheat and maize shipments fell\nTopic:", " grain<eos>"),
    ("Review: slow, but what an ending!\nAnswer in a sentence:", " The reviewer liked how it ended.<eos>"),
]


def read_tokens(path: pathlib.Path):
    """Tokens, scores and types."""
    fields = gguf.GGUFReader(path).fields
    tokens, scores, types = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    return ([bytes(tokens.parts[i]).decode() for i in tokens.data], [float(scores.parts[i][0]) for i in scores.data],
            [int(types.parts[i][0]) for i in types.data])


def make_tokenizer(path: pathlib.Path) -> Tokenizer:
    """Byte pairs merged in the order of their scores, as in transformers' GemmaConverter; its own way from GGUF is another."""
    tokens, scores, types = read_tokens(path)
    ids = {token: i for i, token in enumerate(tokens)}
    ordinary = {token for token, kind in zip(tokens, types) if kind not in (CONTROL, USER_DEFINED, BYTE)}
    merges = []
    for token in ordinary:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ordinary and right in ordinary:
                merges.append((-scores[ids[token]], ids[left], ids[right], left, right))
    merges.sort()
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[(left, right) for *_, left, right in merges], unk_token="<unk>",
                                     fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)
                                  for token, kind in zip(tokens, types) if kind == CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in zip(tokens, types) if kind == USER_DEFINED])
    return tokenizer


class Reference:
    def __init__(self, path: pathlib.Path, folder: pathlib.Path):
        self._path, self._folder = path, folder
        self._tokenizer = make_tokenizer(path)

    def _load(self):
        return AutoModelForCausalLM.from_pretrained(
            self._path.parent, gguf_file=self._path.name, dtype=torch.float32, attn_implementation="eager").eval()

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def write_tokens(self) -> None:
        cases = [{"text": text, "ids": self._ids(text)} for text in TEXTS]
        (self._folder / "tokens.json").write_text(json.dumps(cases))

    @torch.no_grad()
    def write_logits(self, model) -> None:
        tensors = {}
        for i, text in enumerate(TEXTS):
            tokens = torch.tensor([2] + self._ids(text))
            tensors[f"tokens_{i}"] = tokens
            logits = model(input_ids=tokens[None], logits_to_keep=LOGITS_OF_LAST).logits[0]
            tensors[f"logits_{i}"] = logits[:, ::EACH].contiguous()
        save_file(tensors, self._folder / "logits.safetensors")

    @torch.no_grad()
    def write_greedy(self, model) -> None:
        cases = []
        for prompt in PROMPTS:
            tokens, cache, answer = [2] + self._ids(prompt), None, []
            step = torch.tensor([tokens])
            while len(answer) < NEW_TOKENS:
                output = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = output.past_key_values
                answer.append(int(output.logits[0, -1].argmax()))
                step = torch.tensor([[answer[-1]]])
            cases.append({"prompt": tokens, "continuation": answer})
        (self._folder / "greedy.json").write_text(json.dumps(cases))

    def _batch(self) -> tuple[list, dict]:
        examples = []
        for prompt, answer in EXAMPLES:
            prompt_ids = [2] + self._ids(prompt)
            examples.append((prompt_ids + self._ids(answer), len(prompt_ids)))
        shape = (len(examples), max(len(ids) for ids, _ in examples))
        batch = {"input_ids": torch.zeros(shape, dtype=torch.long), "labels": torch.full(shape, -100),
                 "attention_mask": torch.zeros(shape, dtype=torch.long)}
        for i, (ids, prompt) in enumerate(examples):
            batch["input_ids"][i, :len(ids)] = torch.tensor(ids)
            batch["attention_mask"][i, :len(ids)] = 1
            batch["labels"][i, prompt:len(ids)] = torch.tensor(ids[prompt:])
        return examples, batch

    def _with_method(self, method: str):
        model = self._load().requires_grad_(False)
        if method == "lora":
            model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM",
                                                               target_modules="all-linear"))
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # not at zero, where the gradients of A would vanish
                    torch.nn.init.normal_(parameter, std=0.02)
        elif method == "soft_prompt":
            model = peft.get_peft_model(model, peft.PromptTuningConfig(
                num_virtual_tokens=VIRTUAL_TOKENS, task_type="CAUSAL_LM", prompt_tuning_init="RANDOM"))
            torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight, std=0.5)
        else:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("norm" in name)
        return model

    @staticmethod
    def _name(name: str) -> str:
        if name.startswith("prompt_encoder"):
            return "prompt_embeddings"
        return name.removeprefix("base_model.model.model.").removesuffix(".default.weight")

    def _take_steps(self, method: str, batch: dict) -> dict:
        model = self._with_method(method)
        trained = {self._name(name): p for name, p in model.named_parameters() if p.requires_grad}
        save_file({name: p.detach().clone() for name, p in trained.items()}, self._folder / f"steps_{method}.safetensors")
        optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATES[method], weight_decay=0.01)
        losses, norms = [], []
        for _ in range(STEPS):
            loss = model(**batch).loss
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return {"losses": losses, "gradient_norms": norms, "learning_rate": LEARNING_RATES[method]}

    def write_steps(self) -> None:
        examples, batch = self._batch()
        methods = {method: self._take_steps(method, batch) for method in LEARNING_RATES}
        (self._folder / "steps.json").write_text(json.dumps({"examples": examples, "methods": methods}))

    def write(self) -> None:
        self.write_tokens()
        model = self._load()
        self.write_logits(model)
        self.write_greedy(model)
        del model
        self.write_steps()


def main() -> int:
    path = pathlib.Path(os.environ.get("ATTUNE_TEST_GEMMA", ""))
    if not path.is_file():
        print("no model to compare with: set ATTUNE_TEST_GEMMA")
        return 77
    folder = pathlib.Path(sys.argv[1]) / "gemma"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(29)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    Reference(path, folder).write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
