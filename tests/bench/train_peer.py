"""Times whole optimizer steps of transformers + PEFT on a model with random weights.

    train_peer.py WORK.json     (fields as for train_bench, and "compile": bool)

Prints one line of JSON: {"seconds": [...], "tokens": [...], "losses": [...], "peak_bytes": n}.
"""

import json
import sys
import time

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def make_model(work):
    config = LlamaConfig(
        hidden_size=work["hidden"], intermediate_size=work["intermediate"], num_hidden_layers=work["layers"],
        num_attention_heads=work["heads"], num_key_value_heads=work["kv_heads"], vocab_size=work["vocab"],
        tie_word_embeddings=work.get("tied_head", True), max_position_embeddings=1 << 16)
    config._attn_implementation = "sdpa"
    dtype = torch.bfloat16 if work.get("precision", "bfloat16") == "bfloat16" else torch.float32
    with torch.device(work.get("device", "cuda")):
        model = LlamaForCausalLM(config).to(dtype)
    model.config.use_cache = False
    if work["method"] == "lora":
        modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=work["rank"], lora_alpha=2 * work["rank"], target_modules=modules,
                                                 lora_dropout=work.get("dropout", 0.0), task_type="CAUSAL_LM"))
    elif work["method"] == "soft_prompt":
        model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM",
                                                         num_virtual_tokens=work["virtual_tokens"]))
    if work.get("checkpointing"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def batches(work, count):
    generator = torch.Generator().manual_seed(1)
    batch, length, vary = work["batch"], work["length"], work.get("vary", 0.0)
    for _ in range(count):
        sizes = [max(2, round(length * (1 - vary + 2 * vary * torch.rand((), generator=generator).item())))
                 for _ in range(batch)]
        ids = torch.zeros(batch, max(sizes), dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, size in enumerate(sizes):
            ids[row, :size] = torch.randint(work["vocab"], (size,), generator=generator)
            mask[row, :size] = 1
            first = 0 if not work.get("loss_tokens") else size - work["loss_tokens"]
            labels[row, first:size] = ids[row, first:size]
        yield ids, mask, labels, sum(sizes)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        work = json.load(file)
    device = work.get("device", "cuda")
    torch.manual_seed(1)
    model = make_model(work)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device == "cuda")
    forward = torch.compile(model) if work.get("compile") else model
    out = {"seconds": [], "tokens": [], "losses": []}
    # Without padding the mask is left out, which lets the peer take its fastest attention.
    padded = work.get("vary", 0.0) > 0
    for step, (ids, mask, labels, tokens) in enumerate(batches(work, work["warmup"] + work["steps"])):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        given = {"input_ids": ids.to(device), "labels": labels.to(device)}
        if padded:
            given["attention_mask"] = mask.to(device)
        loss = forward(**given).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        if device == "cuda":
            torch.cuda.synchronize()
        if step >= work["warmup"]:
            out["seconds"].append(time.perf_counter() - start)
            out["tokens"].append(tokens + work["batch"] * work.get("virtual_tokens", 0))
            out["losses"].append(value)
    if device == "cuda":
        out["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(out))


if __name__ == "__main__":
    main()
