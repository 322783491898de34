"""Opens what Attune exported, as tests/adapters/peft_interop_test.cc asks.

    peft_check.py model FOLDER LOGITS     transformers opens FOLDER; LOGITS: a safetensors file with `tokens`, `logits`
    peft_check.py adapter FOLDER BASE LOGITS   PEFT opens the adapter FOLDER over BASE
    peft_check.py tokenizer FOLDER IDS    AutoTokenizer opens FOLDER; IDS is JSON: [{"text", "ids"}, ...]
    peft_check.py gguf FOLDER WEIGHTS   the gguf package reads FOLDER/model.gguf; WEIGHTS: a safetensors folder of the same

Exits with 1 and a message if something differs.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file


def check_logits(model, path: str) -> None:
    """The largest difference must be rounding."""
    expected = load_file(path)
    tokens = expected["tokens"].long()
    with torch.no_grad():
        logits = model.eval()(input_ids=tokens[None]).logits[0].float()[-len(tokens):]
    difference = (logits - expected["logits"]).abs().max().item()
    if not difference < 1e-3:
        sys.exit(f"logits differ by {difference}")


def load_model(folder: str):
    """With attention that knows soft caps, as not every one of transformers does."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def check_tokenizer(folder: str, path: str) -> None:
    """Ids of texts, special tokens parsed."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for case in json.loads(pathlib.Path(path).read_text()):
        ids = tokenizer(case["text"], add_special_tokens=False)["input_ids"]
        if ids != case["ids"]:
            sys.exit(f"{case['text']!r}: {ids}, not {case['ids']}")


def check_gguf(folder: str, weights: str) -> None:
    """Matrices that no head's rotation reorders are those of the safetensors, within what their type rounds."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(pathlib.Path(folder) / "model.gguf")
    expected = load_file(pathlib.Path(weights) / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for part, module in [("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj"), ("ffn_gate", "mlp.gate_proj"),
                         ("ffn_down", "mlp.down_proj"), ("ffn_norm", "post_attention_layernorm")]:
        names[f"blk.0.{part}.weight"] = f"model.layers.0.{module}.weight"
    for name, known in names.items():
        tensor, wanted = tensors[name], expected[known].float()
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).float().reshape(wanted.shape)
        tolerance = {"F32": 0, "F16": 1e-3, "Q8_0": 1e-2}[tensor.tensor_type.name]
        if not (values - wanted).abs().max() <= tolerance * wanted.abs().max():
            sys.exit(f"{name} differs by {(values - wanted).abs().max()}")
    if "tokenizer.ggml.tokens" not in reader.fields:
        sys.exit("the tokenizer is missing")


def main() -> None:
    kind, folder, *rest = sys.argv[1:]
    if kind == "gguf":
        check_gguf(folder, rest[0])
        return
    if kind == "tokenizer":
        check_tokenizer(folder, rest[0])
        return
    if kind == "model":
        check_logits(load_model(folder), rest[0])
        return
    from peft import PeftModel

    check_logits(PeftModel.from_pretrained(load_model(rest[0]), folder), rest[1])


if __name__ == "__main__":
    main()
