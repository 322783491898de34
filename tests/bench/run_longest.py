#!/usr/bin/env python3
"""The longest sequence that a 7B LoRA step takes at batch 1, Attune's against transformers + PEFT's.

    tests/bench/run_longest.py [--variants ours,ours-host,peer] [--confirm LENGTH]

Both compute activations again (the peer by gradient checkpointing). The peak of memory is measured at two
lengths; it grows with the length in a line, which says how long a sequence fills the card. --confirm runs one
step of that length, which takes minutes.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from run_train import GIB, LARGE, LORA, run  # noqa: E402

WORK = LARGE | LORA | {"batch": 1, "warmup": 1, "steps": 1, "device": "cuda", "checkpointing": True}


def peak(command, length, activation_bytes, warmup=1):
    result = run(command, WORK | {"length": length, "activation_bytes": activation_bytes, "warmup": warmup})
    if "error" in result:
        return None, result["error"]
    return result["peak_bytes"], f"{result['seconds'][0]:.1f} s a step"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="+", default=["build/tests/train_bench"])
    parser.add_argument("--variants", default="ours,ours-host,peer",
                        help="of ours (layers' inputs on the device), ours-host (in host memory), peer")
    parser.add_argument("--lengths", type=int, nargs=2, default=[8192, 24576])
    parser.add_argument("--memory", type=float, default=78.5, help="GiB of the card that tensors may take")
    parser.add_argument("--confirm", type=int, help="run one step of our longest variant at this length, too")
    given = parser.parse_args()
    peer = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_peer.py")]
    print("| by | GiB at lengths | KiB a token | longest | confirmed |\n|---|---|---|---|---|")
    for who in given.variants.split(","):
        command = peer if who == "peer" else given.ours
        # A budget of a byte keeps nothing on the device; a large one the inputs alone.
        def measure(length, who=who, command=command, warmup=1):
            budget = 1 if who == "ours-host" else WORK["layers"] * WORK["hidden"] * 2 * length
            return peak(command, length, budget, warmup)
        (first, said), (second, also) = (measure(length) for length in given.lengths)
        if first is None or second is None:
            print(f"| {who} | failed: {said} {also} | | | |")
            continue
        a_token = (second - first) / (given.lengths[1] - given.lengths[0])
        longest = int(given.lengths[1] + (given.memory * GIB - second) / a_token)
        confirmed = ""
        if given.confirm and who == "ours-host":
            taken, said = measure(given.confirm, warmup=0)
            confirmed = f"{given.confirm}: {said}" + (f", {taken / GIB:.1f} GiB" if taken else "")
        print(f"| {who} | {first / GIB:.1f}, {second / GIB:.1f} | {a_token / 1024:.0f} | {longest} | {confirmed} |",
              flush=True)
    print(json.dumps({"lengths": given.lengths, "memory_gib": given.memory}))


if __name__ == "__main__":
    main()
