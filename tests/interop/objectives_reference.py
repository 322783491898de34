"""Writes reference files for tests/tuning/objectives_interop_test.cc.

    objectives_reference.py FOLDER

FOLDER/objectives holds what plain torch code over transformers and PEFT computes in fp32 with two small random models:

base/, teacher/          models with the same tokens
steps.json               the data, and loss, gradient norm and measures of ten steps with each objective and method
steps_{name}.safetensors     of what trains, by Attune's names: start.{name}, gradient.{name} of the first step,
                         after.{name} ten
teacher.safetensors      ids_{i} and log_probabilities_{i}: the teacher's likeliest tokens for each answer token of
                         example i
"""

import contextlib
import copy
import json
import pathlib
import sys

import peft
import torch
import torch.nn.functional as F
from families_reference import ALL_LINEAR, load, make_base
from safetensors.torch import save_file

# Tokens of a prompt, its chosen and its rejected answer.
PAIRS = [(5, 4, 7), (9, 3, 2), (3, 6, 6), (12, 5, 1)]
EXAMPLES = [(9, 4), (14, 5), (20, 12), (6, 3)]  # tokens, of which so many are the prompt
STEPS = 10
RATES = {"lora": 1e-3, "full": 1e-3}
BETA, SMOOTHING = 0.3, 0.1
TOP_K, TEMPERATURE, WEIGHT = 6, 2.0, 0.7
TOKENS = 258  # of the tokenizer; a table's rows beyond them teach nothing


def random_ids(count: int) -> list[int]:
    return torch.randint(1, 257, (count,)).tolist()


def answer_logits(model, prompt: list[int], answer: list[int]):
    """What the model says of each of the answer's tokens."""
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1:-1]


def log_probability(model, prompt: list[int], answer: list[int]):
    log_probabilities = F.log_softmax(answer_logits(model, prompt, answer), dim=-1)
    return log_probabilities.gather(1, torch.tensor(answer)[:, None]).sum()


class Preferences:
    """Direct preference optimisation (Rafailov et al. 2023), with conservative labels (Mitchell 2023)."""

    def __init__(self):
        self.pairs = [[random_ids(n) for n in pair] for pair in PAIRS]

    def describe(self) -> dict:
        return {"pairs": self.pairs, "beta": BETA, "label_smoothing": SMOOTHING}

    def loss(self, model, reference):
        losses, margins = [], []
        for prompt, chosen, rejected in self.pairs:
            margin = log_probability(model, prompt, chosen) - log_probability(model, prompt, rejected)
            with reference() as frozen, torch.no_grad():
                expected = log_probability(frozen, prompt, chosen) - log_probability(frozen, prompt, rejected)
            reward = BETA * (margin - expected)
            losses.append(-F.logsigmoid(reward) * (1 - SMOOTHING) - F.logsigmoid(-reward) * SMOOTHING)
            margins.append(reward.detach())
        measures = {"reward_margin": float(torch.stack(margins).mean()),
                    "preference_accuracy": float((torch.stack(margins) > 0).double().mean())}
        return torch.stack(losses).mean(), measures


class Distillation:
    """Likelihood of the answers, mixed with the divergence from a teacher's likeliest tokens and a bucket of the rest."""

    def __init__(self, teacher):
        self._examples = []
        for length, prompt in EXAMPLES:
            ids = random_ids(length)
            self._examples.append((ids[:prompt], ids[prompt:]))
        self._known = []
        for prompt, answer in self._examples:
            with torch.no_grad():
                logits = answer_logits(teacher, prompt, answer)[:, :TOKENS]
                found = F.log_softmax(logits / TEMPERATURE, dim=-1).topk(TOP_K)
            self._known.append((found.indices, found.values))

    def describe(self) -> dict:
        return {"examples": [[prompt + answer, len(prompt)] for prompt, answer in self._examples], "top_k": TOP_K,
                "temperature": TEMPERATURE, "weight": WEIGHT}

    def tensors(self) -> dict:
        found = {}
        for i, (ids, values) in enumerate(self._known):
            found |= {f"ids_{i}": ids.contiguous(), f"log_probabilities_{i}": values.contiguous()}
        return found

    def loss(self, model, _):
        total, tokens = 0.0, 0
        for (prompt, answer), (ids, known) in zip(self._examples, self._known):
            logits = answer_logits(model, prompt, answer)
            hard = F.cross_entropy(logits, torch.tensor(answer), reduction="sum")
            q = F.softmax(logits / TEMPERATURE, dim=-1)
            q_known = q.gather(1, ids)
            p_rest, q_rest = 1 - known.exp().sum(1), 1 - q_known.sum(1)
            divergence = (known.exp() * (known - q_known.log())).sum() + (p_rest * (p_rest.log() - q_rest.log())).sum()
            total = total + (1 - WEIGHT) * hard + WEIGHT * TEMPERATURE ** 2 * divergence
            tokens += len(answer)
        return total / tokens, {}


def make_model(base: pathlib.Path, method: str):
    model = load(base).requires_grad_(True)
    if method == "full":
        return model
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0,
                                                       target_modules=ALL_LINEAR))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # not at zero, where the gradients of A would vanish
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def frozen(model, method: str):
    """A context with the model that preferences are measured against."""
    if method == "full":
        original = copy.deepcopy(model).requires_grad_(False)
        return lambda: contextlib.nullcontext(original)

    @contextlib.contextmanager
    def without_adapter():
        with model.disable_adapter():
            yield model
    return without_adapter


def take_steps(base: pathlib.Path, objective, method: str, path: pathlib.Path) -> dict:
    model = make_model(base, method)
    reference = frozen(model, method)
    trained = {name.removeprefix("base_model.model.model.").removesuffix(".default.weight"): p
               for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATES[method], weight_decay=0.01)
    tensors = {f"start.{name}": p.detach().clone() for name, p in trained.items()}
    record = {"losses": [], "gradient_norms": [], "learning_rate": RATES[method]}
    for step in range(STEPS):
        loss, measures = objective.loss(model, reference)
        loss.backward()
        if step == 0:
            tensors |= {f"gradient.{name}": p.grad.clone() for name, p in trained.items()}
        record["gradient_norms"].append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        record["losses"].append(float(loss.detach()))
        for name, value in measures.items():
            record.setdefault(name, []).append(value)
    tensors |= {f"after.{name}": p.detach().clone() for name, p in trained.items()}
    save_file(tensors, path)
    return record


def main() -> None:
    torch.manual_seed(41)
    folder = pathlib.Path(sys.argv[1]) / "objectives"
    make_base("qwen2", folder / "base")
    make_base("qwen3", folder / "teacher")
    objectives = {"dpo": Preferences(), "distillation": Distillation(load(folder / "teacher"))}
    steps = {name: objective.describe() for name, objective in objectives.items()}
    for name, objective in objectives.items():
        for method in RATES:
            steps[f"{name}_{method}"] = take_steps(folder / "base", objective, method,
                                                   folder / f"steps_{name}_{method}.safetensors")
    (folder / "steps.json").write_text(json.dumps(steps))
    save_file(objectives["distillation"].tensors(), folder / "teacher.safetensors")


if __name__ == "__main__":
    main()
