#!/usr/bin/env python3
"""Times Attune's training steps against transformers + PEFT on one GPU, in turn, same shapes.

    tests/bench/run_train.py [--work NAME...] [--variants floor,ours,eager,compiled] [--write FILE]
    tests/bench/run_train.py --work 135M-cpu --variants eager32,eager,ours32,ours

Needs torch, transformers and peft, and build/tests/train_bench (`ninja -C build train_bench`), or
a bundle: `deploy/bundle train_bench`, then `--ours .bundle/run train_bench`. Random weights in
bf16; whole optimizer steps with clipping; the first steps are warm-up. Prints a table. `floor`
is the step's matrix products and attention alone (train_floor.py): name it first, and the lines
after it say what share of its speed they reach. `ours32` and `eager32` compute in fp32.
Works of several jobs (`-jobs8`) have no peer.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile

SMALL = {"layers": 30, "hidden": 576, "intermediate": 1536, "heads": 9, "kv_heads": 3, "vocab": 49152}
MIDDLE = {"layers": 22, "hidden": 2048, "intermediate": 5632, "heads": 32, "kv_heads": 4, "vocab": 32000,
          "tied_head": False}
LARGE = {"layers": 32, "hidden": 4096, "intermediate": 11008, "heads": 32, "kv_heads": 32, "vocab": 32000,
         "tied_head": False}
LORA = {"method": "lora", "rank": 16}
GIB = 1 << 30

WORK = {
    "1.1B-lora": MIDDLE | LORA | {"batch": 16, "length": 1024},
    "1.1B-prompt": MIDDLE | {"method": "soft_prompt", "virtual_tokens": 20, "batch": 16, "length": 1024},
    "1.1B-full": MIDDLE | {"method": "full", "batch": 16, "length": 1024},
    "7B-lora": LARGE | LORA | {"batch": 4, "length": 1024, "activation_bytes": 10 * GIB},
    # In 12 GiB.
    "7B-nf4": LARGE | LORA | {"batch": 4, "length": 1024, "activation_bytes": 5 * GIB, "quantization": "nf4"},
    "7B-int8": LARGE | LORA | {"batch": 4, "length": 1024, "activation_bytes": 5 * GIB // 2, "quantization": "int8"},
    "1.1B-full-8bit": MIDDLE | {"method": "full", "batch": 16, "length": 1024, "optimizer_state": "int8"},
    "135M-lora": SMALL | LORA | {"batch": 32, "length": 1024},
    # On the CPU, all of it without padding.
    "135M-cpu": SMALL | LORA | {"rank": 8, "batch": 8, "length": 96, "device": "cpu"},
    # Short examples as of intent data: launches, not arithmetic.
    "135M-short": SMALL | LORA | {"batch": 32, "length": 28, "vary": 0.5, "loss_tokens": 4, "dropout": 0.05,
                                  "warmup": 24, "steps": 40},
}


# Small jobs side by side on one base model, each with data, schedule and optimizer of its own.
WORK["135M-short-b4"] = WORK["135M-short"] | {"batch": 4, "warmup": 40, "steps": 240}
WORK["135M-short-b4-jobs8"] = WORK["135M-short-b4"] | {"jobs": 8}
WORK["135M-short-b4-jobs8-apart"] = WORK["135M-short-b4-jobs8"] | {"joint": False}


def products_per_token(work):
    """Multiply-adds of the frozen or trained products for one token, forward."""
    hidden, inner = work["hidden"], work["intermediate"]
    head_dim = hidden // work["heads"]
    layer = hidden * (hidden + 2 * work["kv_heads"] * head_dim) + hidden * hidden + 3 * hidden * inner
    return work["layers"] * layer


def flops_per_token(work):
    """Of the model's own products and attention in a step; LoRA's are left out."""
    passes = 3 if work["method"] == "full" else 2
    share = work["loss_tokens"] / work["length"] if work.get("loss_tokens") else 1
    products = 2 * passes * (products_per_token(work) + share * work["hidden"] * work["vocab"])
    attention = 3.5 * 2 * work["layers"] * work["length"] * work["hidden"]
    return products + attention


def run(command, work, env=None):
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(work, file)
    try:
        done = subprocess.run(command + [file.name], capture_output=True, text=True, timeout=900, check=False, env=env)
    finally:
        os.unlink(file.name)
    if done.returncode != 0:
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": message[:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def summary(result, work, peak):
    if "error" in result:
        return result["error"]
    rate = sum(result["tokens"]) / sum(result["seconds"])
    return {"tokens_per_second": rate, "utilisation": rate * flops_per_token(work) / peak if peak else None,
            "peak_gib": result.get("peak_bytes", 0) / GIB,
            "estimate_gib": result.get("estimated_bytes", 0) / GIB, "median_ms": 1e3 * statistics.median(result["seconds"]),
            "first_loss": result["losses"][0]}


def row(name, who, found, floor):
    if isinstance(found, str):
        return f"| {name} | {who} | failed: {found} | | | | | |"
    of_floor = f"{100 * found['tokens_per_second'] / floor:.0f}%" if floor else ""
    share = f"{100 * found['utilisation']:.0f}%" if found["utilisation"] else ""
    estimate = f"{found['estimate_gib']:.1f}" if found["estimate_gib"] else ""
    return (f"| {name} | {who} | {found['tokens_per_second']:,.0f} | {found['median_ms']:.1f} | {share} | {of_floor} | "
            f"{found['peak_gib']:.1f} | {estimate} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="+", default=["build/tests/train_bench"], help="the command of train_bench")
    parser.add_argument("--work", nargs="+", choices=sorted(WORK),
                        default=[name for name in WORK if "device" not in WORK[name]])
    parser.add_argument("--variants", default="ours,eager", help="of floor, ours, ours32, eager, eager32, compiled")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--peak", type=float, default=989e12, help="the card's dense bf16 operations a second")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--trace", help="a folder for a trace of each of our variants")
    parser.add_argument("--write", help="a Markdown file for the results")
    given = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    peer = [sys.executable, os.path.join(here, "train_peer.py")]
    floor_of_step = [sys.executable, os.path.join(here, "train_floor.py")]
    lines = ["| work | by | tokens/s | ms a step | model FLOP utilisation | share of the floor | peak GiB | "
             "estimated GiB |", "|---|---|---|---|---|---|---|---|"]
    for name in given.work:
        work = {"warmup": given.warmup, "steps": given.steps, "device": given.device} | WORK[name]
        floor = None
        for who in given.variants.split(","):
            precision = {"precision": "float32"} if who.endswith("32") else {}
            if who.startswith("ours"):
                trace = {"trace": os.path.join(given.trace, f"{name}-{who}.json")} if given.trace else {}
                result = run(given.ours, work | trace | precision)
            elif who == "floor":
                result = run(floor_of_step, work)
            else:
                result = run(peer, work | {"compile": who == "compiled"} | precision)
            found = summary(result, work, given.peak)
            if who == "floor" and not isinstance(found, str):
                floor = found["tokens_per_second"]
            lines.append(row(name, who, found, floor))
            print(lines[-1], flush=True)
    if given.write:
        with open(given.write, "w", encoding="utf-8") as file:
            file.write(f"Training steps, {datetime.date.today()}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
