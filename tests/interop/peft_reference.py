"""Writes reference files for tests/adapters/peft_interop_test.cc.

    peft_reference.py FOLDER

FOLDER/peft/base is a small random Llama as transformers saves it, with a tokenizer;
FOLDER/peft/lora, dora, prompt, prefix, ia3 and ia3_outputs are random adapters over it as PEFT saves them.
FOLDER/peft/tied is the same with a tied head. {base,tied}_KIND, by VOCABULARY, are LoRAs with embeddings or heads of their own
over the one and the other.
FOLDER/peft/logits.safetensors holds, for each of a few sequences i, tokens_{i} and the
logits base_{i}, lora_{i} and so on (without those of the virtual tokens).
"""

import pathlib
import sys

import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LENGTHS = [1, 5, 23, 60]
VIRTUAL_TOKENS = 6
LAYERS = ["q_proj", "down_proj"]
VOCABULARY = {
    "saved": {"target_modules": LAYERS, "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved_head": {"target_modules": LAYERS, "modules_to_save": ["lm_head"]},
    "saved_embedding": {"target_modules": LAYERS, "modules_to_save": ["embed_tokens"]},
    "saved_tying": {"target_modules": LAYERS, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "adapted": {"target_modules": LAYERS + ["embed_tokens", "lm_head"], "use_rslora": True,
                "rank_pattern": {"embed_tokens": 7}, "alpha_pattern": {"lm_head": 9}},
    "adapted_head": {"target_modules": LAYERS + ["lm_head"]},
    "adapted_embedding": {"target_modules": ["embed_tokens"]},
    "adapted_tying": {"target_modules": LAYERS + ["embed_tokens"], "ensure_weight_tying": True},
    "mixed": {"target_modules": LAYERS + ["embed_tokens"], "modules_to_save": ["lm_head"]},
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes alone, and a token that ends answers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {char: i + 1 for i, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def make_base(folder: pathlib.Path, tied: bool = False) -> None:
    """Grouped heads, an untied head, if it is not to be `tied`, and Llama 3's rope scaling."""
    config = LlamaConfig(
        vocab_size=257, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        initializer_range=0.15, bos_token_id=None, eos_token_id=0,
        rope_parameters={"rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64})
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def load_base(folder: pathlib.Path) -> LlamaForCausalLM:
    """In fp32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_adapter(base: pathlib.Path, config, folder: pathlib.Path) -> PeftModel:
    """Every trainable number is random, so that nothing is without effect."""
    model = get_peft_model(load_base(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(load_base(base), folder).eval()


def main() -> None:
    folder = pathlib.Path(sys.argv[1]) / "peft"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(11)
    make_base(folder / "base")
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, lora_dropout=0.1, use_rslora=True,
                      target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
                      rank_pattern={"layers.1.self_attn.q_proj": 7}, alpha_pattern={".*down_proj": 9})
    dora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, use_dora=True,
                      target_modules=["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"],
                      rank_pattern={"layers.1.self_attn.q_proj": 7})
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    ia3 = IA3Config(task_type="CAUSAL_LM")
    outputs = IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
                        feedforward_modules=[])
    trained = {
        "base": load_base(folder / "base"),
        "lora": make_adapter(folder / "base", lora, folder / "lora"),
        "dora": make_adapter(folder / "base", dora, folder / "dora"),
        "prompt": make_adapter(folder / "base", prompt, folder / "prompt"),
        "prefix": make_adapter(folder / "base", prefix, folder / "prefix"),
        "ia3": make_adapter(folder / "base", ia3, folder / "ia3"),
        "ia3_outputs": make_adapter(folder / "base", outputs, folder / "ia3_outputs"),
    }
    torch.manual_seed(12)
    make_base(folder / "tied", tied=True)
    for base in ("base", "tied"):
        for kind, settings in VOCABULARY.items():
            config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **settings)
            trained[f"{base}_{kind}"] = make_adapter(folder / base, config, folder / f"{base}_{kind}")
    torch.manual_seed(13)
    tensors = {}
    for i, length in enumerate(LENGTHS):
        tokens = torch.randint(0, 257, (1, length))
        tensors[f"tokens_{i}"] = tokens[0].clone()
        for name, model in trained.items():
            with torch.no_grad():
                logits = model(input_ids=tokens).logits[0].float()
            tensors[f"{name}_{i}"] = logits[-length:].clone()
    save_file(tensors, folder / "logits.safetensors")


if __name__ == "__main__":
    main()
