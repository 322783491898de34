"""Opens what Attune exported, as tests/adapters/peft_interop_test.cc asks.

    peft_check.py model FOLDER LOGITS     transformers opens FOLDER; LOGITS: a safetensors file with `tokens`, `logits`
    peft_check.py adapter FOLDER BASE LOGITS   PEFT opens the adapter FOLDER over BASE
    peft_check.py tokenizer FOLDER IDS    AutoTokenizer opens FOLDER; IDS is JSON: [{"text", "ids"}, ...]

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


def check_tokenizer(folder: str, path: str) -> None:
    """Ids of texts, special tokens parsed."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for case in json.loads(pathlib.Path(path).read_text()):
        ids = tokenizer(case["text"], add_special_tokens=False)["input_ids"]
        if ids != case["ids"]:
            sys.exit(f"{case['text']!r}: {ids}, not {case['ids']}")


def main() -> None:
    kind, folder, *rest = sys.argv[1:]
    if kind == "tokenizer":
        check_tokenizer(folder, rest[0])
        return
    from transformers import AutoModelForCausalLM

    if kind == "model":
        check_logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), rest[0])
        return
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(rest[0], dtype=torch.float32)
    check_logits(PeftModel.from_pretrained(base, folder), rest[1])


if __name__ == "__main__":
    main()
