"""Times decoding by transformers (+ PEFT) on a model with random weights.

    serve_peer.py WORK.json     (fields as for serve_bench, and "compile": bool for a static cache under torch.compile;
                                 "models": "base" alone, or "lora" for one LoRA that all requests share)

Prints one line of JSON: {"decode_seconds": [...], "decode_tokens": [...], "first_token_seconds": [...], "peak_bytes": n}.
"""

import json
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache


def make_model(work):
    config = LlamaConfig(
        hidden_size=work["hidden"], intermediate_size=work["intermediate"], num_hidden_layers=work["layers"],
        num_attention_heads=work["heads"], num_key_value_heads=work["kv_heads"], vocab_size=work["vocab"],
        tie_word_embeddings=work.get("tied_head", True), max_position_embeddings=8192)
    config._attn_implementation = "sdpa"
    with torch.device(work.get("device", "cuda")):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    if "lora" in work.get("models", []):
        modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=work.get("rank", 16), lora_alpha=32, target_modules=modules,
                                                 init_lora_weights=False, task_type="CAUSAL_LM")).to(torch.bfloat16)
    return model.eval()


@torch.inference_mode()
def run_round(work, model, step, config):
    device = work.get("device", "cuda")
    batch, prompt, new = work["batch"], work["prompt"], work["new"]
    ids = torch.randint(work["vocab"], (batch, prompt), device=device)
    if work.get("compile"):
        cache = StaticCache(config=config, max_cache_len=prompt + new)
    else:
        cache = DynamicCache(config=config)
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1,
                cache_position=torch.arange(prompt, device=device))
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    torch.cuda.synchronize()
    first = time.perf_counter()
    for i in range(new - 1):
        position = torch.tensor([prompt + i], device=device)
        out = step(input_ids=token, past_key_values=cache, use_cache=True, cache_position=position)
        token = out.logits[:, -1].argmax(-1, keepdim=True).clone()
    torch.cuda.synchronize()
    return first - start, time.perf_counter() - first, batch * (new - 1)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        work = json.load(file)
    torch.manual_seed(1)
    model = make_model(work)
    config = model.config
    step = torch.compile(model, mode="reduce-overhead", fullgraph=False) if work.get("compile") else model
    out = {"decode_seconds": [], "decode_tokens": [], "first_token_seconds": []}
    for number in range(-1, work.get("rounds", 3)):
        first, seconds, tokens = run_round(work, model, step, config)
        if number < 0:
            continue
        out["first_token_seconds"].append(first)
        out["decode_seconds"].append(seconds)
        out["decode_tokens"].append(tokens)
    out["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(out))


if __name__ == "__main__":
    main()
