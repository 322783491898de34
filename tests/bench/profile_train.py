#!/usr/bin/env python3
"""Where the time of one training step goes: sums a Chrome trace's kernels by kind.

    tests/bench/profile_train.py TRACE.json
"""

import collections
import json
import sys

# The first whose word a kernel's name holds.
KINDS = [("attention backward", ("flash_bwd", "fmha_bwd", "bprop", "sdpa_sm90_flash_bprop")),
         ("attention forward", ("flash_fwd", "fmha_fwd", "fprop", "flash")),
         ("RMS norm", ("NormForward", "NormBackward", "Strips")), ("SwiGLU", ("GateForward", "GateBackward")),
         ("rotary embedding", ("InPlace", "BackwardPack")), ("softmax and loss", ("SoftmaxRows",)),
         ("dropout", ("::Mask<",)),
         ("optimizer", ("Squares", "Root", "Update")), ("rows", ("Take", "AddPrefix")),
         ("products", ("gemm", "nvjet", "cutlass", "xmma", "splitK", "cublas")),
         ("copies and fills", ("Memcpy", "Memset", "copy", "Fill"))]


def kind_of(name):
    for kind, words in KINDS:
        if any(word in name for word in words):
            return kind
    return "other"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        events = [e for e in json.load(file)["traceEvents"]
                  if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") and "dur" in e]
    kinds, names = collections.Counter(), collections.Counter()
    counts = collections.Counter()
    for event in events:
        kinds[kind_of(event["name"])] += event["dur"]
        names[event["name"]] += event["dur"]
        counts[event["name"]] += 1
    span = max(e["ts"] + e["dur"] for e in events) - min(e["ts"] for e in events)
    busy = sum(kinds.values())
    print(f"{len(events)} kernels, {span / 1e3:.2f} ms from first to last, {busy / 1e3:.2f} ms of them busy")
    for kind, micros in kinds.most_common():
        print(f"{micros / 1e3:9.2f} ms  {100 * micros / busy:4.1f}%  {kind}")
    for name, micros in names.most_common(14):
        print(f"{micros / 1e3:9.2f} ms  {counts[name]:5d} x {name[:90]}")
    others = [name for name, _ in names.most_common() if kind_of(name) == "other"][:6]
    for name in others:
        print(f"other: {names[name] / 1e3:7.2f} ms  {counts[name]:5d} x {name[:160]}")


if __name__ == "__main__":
    main()
