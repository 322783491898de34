#!/usr/bin/env python3
"""Attune's generation against transformers (+ PEFT), in one run, on models with random weights.

    tests/bench/run_serve.py [--work NAME...] [--variants ours,eager,compiled] [--ours build/tests/serve_bench]

Greedy, prompts of 128 tokens and 128 new ones; only steps that add a token to every request are timed, the first tokens
left out. Where the cache is too small for all requests (`small-cache`, by swap, and `small-cache-recompute`), it is all
new tokens over the whole time, and the requests that made way for others are counted. `compiled` is a static cache under
torch.compile. Each line is a process of its own. The peer has no batch of different adapters: its line for such a work
is one LoRA that all requests share. `int8`, `fp8`, `int4`: the blocks in which decoding reads
the weights; `int8loras`: LoRAs in int8; `alike`: answers that do not depend on the batch; `regex`, `grammar`: answers that are drawn in a form. The `x base` column is against our own base model's line of the same batch, if that
ran before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

SMALL = {"layers": 30, "hidden": 576, "intermediate": 1536, "heads": 9, "kv_heads": 3, "vocab": 49152}
MIDDLE = {"layers": 22, "hidden": 2048, "intermediate": 5632, "heads": 32, "kv_heads": 4, "vocab": 32000,
          "tied_head": False}
LARGE = {"layers": 32, "hidden": 4096, "intermediate": 11008, "heads": 32, "kv_heads": 32, "vocab": 32000,
         "tied_head": False}
TEXT = {"prompt": 128, "new": 128}

SHAPES = {"135M": SMALL, "1.1B": MIDDLE, "7B": LARGE}

WORK = {}
for shape_name, shape in SHAPES.items():
    for size in (1, 32, 128):
        WORK[f"{shape_name}-b{size}"] = shape | TEXT | {"batch": size}
    WORK[f"{shape_name}-b32-lora32"] = shape | TEXT | {"batch": 32, "models": ["lora"], "rank": 16}
    WORK[f"{shape_name}-b128-lora1"] = shape | TEXT | {"batch": 128, "models": ["lora"], "rank": 16, "shared_adapter": True}
    WORK[f"{shape_name}-b32-sampled"] = shape | TEXT | {"batch": 32, "temperature": 0.8, "top_p": 0.95}
    for form in ("regex", "grammar"):
        WORK[f"{shape_name}-b32-{form}"] = WORK[f"{shape_name}-b32-sampled"] | {"form": form}
    for size in (1, 32):
        for weights in ("int8", "fp8", "int4"):
            WORK[f"{shape_name}-b{size}-{weights}"] = shape | TEXT | {"batch": size, "decode_weights": weights}
        WORK[f"{shape_name}-b{size}-alike"] = shape | TEXT | {"batch": size, "batch_invariant": True}
    # Time to the first token of a long prompt: new ones, one that was read before, and one of which all but the last 16 tokens were.
    WORK[f"{shape_name}-b1-p2000"] = shape | {"prompt": 2000, "new": 16, "batch": 1}
    WORK[f"{shape_name}-b1-p2000-again"] = WORK[f"{shape_name}-b1-p2000"] | {"same_prompts": True}
    WORK[f"{shape_name}-b1-p2000-alike"] = WORK[f"{shape_name}-b1-p2000-again"] | {"own_tokens": 16}
    WORK[f"{shape_name}-b32-mixed"] = shape | TEXT | {
        "batch": 32, "models": ["base", "text_prompt", "lora", "soft_prompt", "prefix", "ia3"], "rank": 16}
    for rest in ("lora32", "mixed"):
        WORK[f"{shape_name}-b32-{rest}-int8loras"] = WORK[f"{shape_name}-b32-{rest}"] | {"decode_loras": "int8"}
    # Half the requests fit at once: the others' pages are copied to the host and back, or computed anew.
    little = shape | {"prompt": 512, "new": 256, "batch": 128, "kv_tokens": 128 * (512 + 256) // 2}
    WORK[f"{shape_name}-b128-small-cache"] = little | {"swap_bytes": 16 << 30}
    WORK[f"{shape_name}-b128-small-cache-recompute"] = little


def speed_of(found, work):
    """Tokens a second: of steps that decode all requests, or, where these never run all at once, of everything."""
    if "kv_tokens" in work and "seconds" in found:
        return len(found["seconds"]) * work["batch"] * work["new"] / sum(found["seconds"])
    return sum(found["decode_tokens"]) / max(1e-9, sum(found["decode_seconds"]))


def run(command, work):
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(work, file)
    try:
        done = subprocess.run(command + [file.name], capture_output=True, text=True, timeout=900, check=False)
    finally:
        os.unlink(file.name)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="+", default=["build/tests/serve_bench"], help="the command of serve_bench")
    parser.add_argument("--work", nargs="+", choices=sorted(WORK), default=list(WORK))
    parser.add_argument("--variants", default="ours,eager", help="of ours, eager, compiled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trace", help="a folder for a trace of each of our lines")
    given = parser.parse_args()
    peer = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "serve_peer.py")]
    print("| work | by | tokens/s | ms a step | first token ms | x base | peak GiB | made way |\n" + "|---" * 8 + "|")
    base = {}
    for name in given.work:
        for variant in given.variants.split(","):
            work = {"rounds": given.rounds} | WORK[name]
            if variant == "compiled":
                work["compile"] = True
            if given.trace and variant == "ours":
                work["trace"] = os.path.join(given.trace, f"{name}.json")
            found = run(given.ours if variant == "ours" else peer, work)
            if isinstance(found, str):
                print(f"| {name} | {variant} | failed: {found} | | | | | |", flush=True)
                continue
            speed = speed_of(found, work)
            preempted = sum(found.get("preempted", []))
            family = "-".join(name.split("-")[:2])
            if variant == "ours" and name == family:
                base[family] = speed
            share = f"{speed / base[family]:.2f}" if variant == "ours" and base.get(family) and name != family else ""
            first = 1000 * min(found["first_token_seconds"])
            print(f"| {name} | {variant} | {speed:,.0f} | {1000 * WORK[name]['batch'] / max(1, speed):.2f} | {first:.1f} | "
                  f"{share} | {found.get('peak_bytes', 0) / 2**30:.1f} | {preempted or ''} |", flush=True)


if __name__ == "__main__":
    main()
