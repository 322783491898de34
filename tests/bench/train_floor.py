"""Times the matrix products and the attention of a training step, and nothing else.

    train_floor.py WORK.json     (fields as for train_bench)

What no step that computes in bf16 through cuBLAS and cuDNN can be faster than: norms, activations, the
loss, LoRA's own products and the optimizer cost nothing here, and the head is counted where there is
loss. Prints one line of JSON: {"seconds": [...], "tokens": [...], "losses": [0], "peak_bytes": n}.
"""

import json
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

OPTIONS = {"device": "cuda", "dtype": torch.bfloat16}


class Product:
    """y = x W^T, the gradient of x and, if W trains, that of W."""

    def __init__(self, tokens, inputs, outputs, trains):
        self.weight = torch.randn(outputs, inputs, **OPTIONS) * 0.02
        self.x, self.y = torch.randn(tokens, inputs, **OPTIONS), torch.randn(tokens, outputs, **OPTIONS)
        self.out, self.dx = torch.empty_like(self.y), torch.empty_like(self.x)
        self.dweight = torch.empty_like(self.weight) if trains else None

    def run(self):
        torch.mm(self.x, self.weight.t(), out=self.out)
        torch.mm(self.y, self.weight, out=self.dx)
        if self.dweight is not None:
            torch.mm(self.y.t(), self.x, out=self.dweight)


class Attention:
    def __init__(self, work, length):
        head_dim, batch = work["hidden"] // work["heads"], work["batch"]
        self.q, self.k, self.v = (
            torch.randn(batch, length, heads, head_dim, **OPTIONS).transpose(1, 2).requires_grad_()
            for heads in (work["heads"], work["kv_heads"], work["kv_heads"]))
        self.dout = torch.randn(batch, length, work["heads"], head_dim, **OPTIONS).transpose(1, 2)

    def run(self):
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            out = scaled_dot_product_attention(self.q, self.k, self.v, is_causal=True, enable_gqa=True)
        torch.autograd.grad(out, (self.q, self.k, self.v), self.dout)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        work = json.load(file)
    length = work["length"] + work.get("virtual_tokens", 0)
    tokens, hidden, inner = work["batch"] * length, work["hidden"], work["intermediate"]
    qkv = hidden + 2 * work["kv_heads"] * (hidden // work["heads"])
    trains = work["method"] == "full"
    layer = [Product(tokens, hidden, qkv, trains), Product(tokens, hidden, hidden, trains),
             Product(tokens, hidden, 2 * inner, trains), Product(tokens, inner, hidden, trains), Attention(work, length)]
    loss_rows = work["batch"] * (work.get("loss_tokens") or work["length"])
    head = Product(loss_rows, hidden, work["vocab"], trains)
    out = {"seconds": [], "tokens": [], "losses": [0]}
    for step in range(work["warmup"] + work["steps"]):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(work["layers"]):
            for part in layer:
                part.run()
        head.run()
        torch.cuda.synchronize()
        if step >= work["warmup"]:
            out["seconds"].append(time.perf_counter() - start)
            out["tokens"].append(tokens)
    out["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(out))


if __name__ == "__main__":
    main()
