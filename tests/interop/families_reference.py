"""Writes reference files for tests/tuning/families_interop_test.cc.

    families_reference.py FOLDER

FOLDER/families/{name} is a small random model of each family, with what transformers and PEFT compute in fp32:

base/, gguf/             the model as transformers saves it, and, where there are such files, as llama.cpp's converter would
lora/, prompt/, ...      random adapters as PEFT saves them
logits.safetensors       tokens_{i}, and the logits base_{i}, lora_{i}, ... (without those of virtual tokens)
greedy.json              a prompt, and its likeliest continuation
steps.json               a batch, and loss and gradient norm of ten optimizer steps on it with each method; of some families also
                         with LoRAs that train or adapt embedding and head
steps_{method}.safetensors   of what trains, by Attune's names: start.{name}, gradient.{name} of the first step, after.{name} ten
"""

import json
import pathlib
import sys

import gguf
import peft
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig
from peft_reference import VIRTUAL_TOKENS
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig,
                          LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM,
                          PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

LENGTHS = [1, 5, 23, 60]
PROMPT, NEW_TOKENS = 40, 24
EXAMPLES = [(9, 4), (14, 5), (20, 12), (6, 3)]  # tokens, of which so many are the prompt
STEPS = 10
LEARNING_RATES = {"full": 1e-3, "biases_and_norms": 3e-3, "lora": 1e-3}
# LoRAs with an embedding or a head of their own, by method; the families that have references of them, tied and untied, with
# and without scaled embeddings and capped logits.
VOCABULARY_FAMILIES = ["qwen2", "qwen3", "gemma2", "gemma3_scaled"]
VOCABULARY = {
    "lora_saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "lora_saved_embedding": {"modules_to_save": ["embed_tokens"]},
    "lora_saved_head": {"modules_to_save": ["lm_head"]},
    "lora_adapted": {"target_modules": ["q_proj", "down_proj", "embed_tokens", "lm_head"], "use_rslora": True},
    "lora_adapted_embedding": {"target_modules": ["embed_tokens"]},
    "lora_adapted_head": {"target_modules": ["lm_head"]},
    "lora_mixed": {"target_modules": ["v_proj", "lm_head"], "modules_to_save": ["embed_tokens"]},
    "lora_dora_saved": {"modules_to_save": ["embed_tokens", "lm_head"], "use_dora": True},
}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"]
FUSED = {"self_attn.qkv_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
         "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"]}

SHAPE = {"vocab_size": 260, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "initializer_range": 0.15,
         "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64}
WINDOW = 8  # shorter than most sequences here
GEMMA = SHAPE | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW, "num_hidden_layers": 4,
                 "layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=False)),
    # Rotary angles stretched, and cosines scaled.
    "qwen2_yarn": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=False, rope_parameters=dict(YARN))),
    "llama_yarn": (LlamaForCausalLM, LlamaConfig(**SHAPE, head_dim=16, rope_parameters=YARN | {
        "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": False})),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, head_dim=16, sliding_window=None)),
    "phi3": (Phi3ForCausalLM, Phi3Config(**SHAPE)),
    # Attention over a window: in all layers, in the last ones, in one between others.
    "mistral_window": (MistralForCausalLM, MistralConfig(**SHAPE, head_dim=16, sliding_window=WINDOW)),
    "phi3_window": (Phi3ForCausalLM, Phi3Config(**SHAPE, sliding_window=WINDOW)),
    "qwen2_window": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW,
                                                   max_window_layers=1)),
    "qwen3_window": (Qwen3ForCausalLM, Qwen3Config(
        **SHAPE, head_dim=16, use_sliding_window=True, sliding_window=WINDOW,
        layer_types=["full_attention", "sliding_attention", "full_attention"])),
    # Angles and cosines of sequences that fit into the original context.
    "phi3_longrope": (Phi3ForCausalLM, Phi3Config(**SHAPE, original_max_position_embeddings=80, rope_parameters={
        "rope_type": "longrope", "rope_theta": 5000.0, "short_factor": [1.0, 1.1, 1.5, 2.5], "long_factor": [1.0, 2.0, 4.0, 8.0]})),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**GEMMA)),
    # Scores scaled by another number than GGUF files mean, angles stretched in layers without a window, logits capped.
    "gemma3_scaled": (Gemma3ForCausalLM, Gemma3TextConfig(
        **GEMMA | {"query_pre_attn_scalar": 24}, final_logit_softcapping=4.0, tie_word_embeddings=False, rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}})),
    # Caps that scores and logits reach.
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=4.0)),
    # Biases everywhere.
    "llama_biases": (LlamaForCausalLM, LlamaConfig(**SHAPE, head_dim=16, attention_bias=True, mlp_bias=True)),
}
# What config.json can say and GGUF cannot; and Mistral's GGUF files are Llama's.
NO_GGUF = ["llama_yarn", "mistral", "mistral_window", "qwen2_window", "qwen3_window", "phi3_longrope", "gemma3_scaled"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, one merged token, and one that ends answers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {char: i + 1 for i, char in enumerate(alphabet)} | {"he": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@torch.no_grad()
def make_base(name: str, folder: pathlib.Path) -> None:
    """Biases and norms that are not those of a start, zeros and ones."""
    kind, config = FAMILIES[name]
    model = kind(config)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(".bias"):
            parameter.normal_(std=0.3)
        elif "norm" in parameter_name:
            # Gemma's files hold what is added to one.
            parameter.normal_(mean=0 if name.startswith("gemma") else 1, std=0.2)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def load(folder: pathlib.Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


class GgufModel:
    """Writes a model as llama.cpp's converter would."""

    def __init__(self, model, folder: pathlib.Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._model, self._config = model, model.config
        self._architecture = model.config.model_type.removesuffix("_text")
        self._writer = gguf.GGUFWriter(folder / "model.gguf", self._architecture)

    def _is_gemma(self) -> bool:
        return self._architecture.startswith("gemma")

    def _add_shape(self) -> None:
        config, writer = self._config, self._writer
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        if config.model_type == "phi3":
            writer.add_sliding_window(config.sliding_window or 0)
        if self._is_gemma():
            writer.add_sliding_window(config.sliding_window)
            writer.add_sliding_window_pattern(2)
        if config.model_type == "gemma2":
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
        if head_dim * config.num_attention_heads != config.hidden_size:
            writer.add_key_length(head_dim)
            writer.add_value_length(head_dim)
        rope = config.rope_parameters
        rope = rope.get("full_attention", rope)
        writer.add_rope_dimension_count(head_dim)
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])

    def _add_tokenizer(self, folder: pathlib.Path) -> None:
        vocabulary = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
        tokens = sorted(vocabulary, key=vocabulary.get)
        writer = self._writer
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
        writer.add_token_merges(["h e"])
        writer.add_eos_token_id(0)

    def _permuted(self, values, heads: int):
        """Llama's files keep pairs that turn together next to each other."""
        if self._config.model_type != "llama":
            return values
        return values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

    def _add_tensors(self) -> None:
        names = gguf.get_tensor_name_map(
            next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == self._architecture),
            self._config.num_hidden_layers)
        for name, parameter in self._model.named_parameters():
            values = parameter.detach().numpy()
            if self._is_gemma() and "norm" in name:
                values = values + 1
            if ".q_proj." in name:
                values = self._permuted(values, self._config.num_attention_heads)
            if ".k_proj." in name:
                values = self._permuted(values, self._config.num_key_value_heads)
            self._writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), values)

    def write(self, tokenizer_folder: pathlib.Path) -> None:
        self._add_shape()
        self._add_tokenizer(tokenizer_folder)
        self._add_tensors()
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_tensors_to_file()
        self._writer.close()


def adapters(fuses: bool) -> dict:
    """Each kind that PEFT has and Attune, by the name of its folder."""
    keys_values, queries = (["qkv_proj"], ["qkv_proj"]) if fuses else (["k_proj", "v_proj"], ["q_proj"])
    gate_up = ["gate_up_proj"] if fuses else ["gate_proj", "up_proj"]
    return {
        "lora": LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=ALL_LINEAR),
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS),
        "ia3": IA3Config(task_type="CAUSAL_LM", target_modules=keys_values + ["down_proj"],
                         feedforward_modules=["down_proj"]),
        "ia3_outputs": IA3Config(task_type="CAUSAL_LM", feedforward_modules=[],
                                 target_modules=queries + gate_up + ["o_proj", "down_proj"]),
    }


def make_adapter(base: pathlib.Path, config, folder: pathlib.Path):
    """Every trainable number is random, so that nothing is without effect."""
    model = peft.get_peft_model(load(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    return peft.PeftModel.from_pretrained(load(base), folder).eval()


@torch.no_grad()
def write_logits(folder: pathlib.Path) -> None:
    trained = {"base": load(folder / "base")}
    for name, config in adapters(trained["base"].config.model_type == "phi3").items():
        trained[name] = make_adapter(folder / "base", config, folder / name)
    tensors = {}
    for i, length in enumerate(LENGTHS):
        tokens = torch.randint(1, 257, (1, length))
        tensors[f"tokens_{i}"] = tokens[0].clone()
        for name, model in trained.items():
            tensors[f"{name}_{i}"] = model(input_ids=tokens).logits[0].float()[-length:].clone()
    save_file(tensors, folder / "logits.safetensors")


@torch.no_grad()
def write_greedy(folder: pathlib.Path) -> None:
    model, tokens = load(folder / "base"), torch.randint(1, 257, (PROMPT,)).tolist()
    answer = []
    for _ in range(NEW_TOKENS):
        answer.append(int(model(input_ids=torch.tensor([tokens + answer])).logits[0, -1].argmax()))
    (folder / "greedy.json").write_text(json.dumps({"prompt": tokens, "continuation": answer}))


class Steps:
    """Ten optimizer steps on one batch with each method."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._rates = dict(LEARNING_RATES)
        if folder.name in VOCABULARY_FAMILIES:
            self._rates |= dict.fromkeys(VOCABULARY, LEARNING_RATES["lora"])
        self._config = load(folder / "base").config
        self._examples = [(torch.randint(1, 257, (length,)).tolist(), prompt) for length, prompt in EXAMPLES]

    def _batch(self) -> dict:
        shape = (len(self._examples), max(length for length, _ in EXAMPLES))
        batch = {"input_ids": torch.zeros(shape, dtype=torch.long), "labels": torch.full(shape, -100),
                 "attention_mask": torch.zeros(shape, dtype=torch.long)}
        for i, (ids, prompt) in enumerate(self._examples):
            batch["input_ids"][i, :len(ids)] = torch.tensor(ids)
            batch["attention_mask"][i, :len(ids)] = 1
            batch["labels"][i, prompt:len(ids)] = torch.tensor(ids[prompt:])
        return batch

    def _model(self, method: str):
        model = load(self._folder / "base").requires_grad_(True)
        if method == "biases_and_norms":
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.endswith(".bias") or "norm" in name)
        if method.startswith("lora"):
            settings = {"target_modules": ALL_LINEAR} | VOCABULARY.get(method, {})
            model = peft.get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0,
                                                          **settings))
            for name, parameter in model.named_parameters():
                # Not at zero, where the gradients of the other matrix would vanish.
                if "lora_B" in name or "lora_embedding_A" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
        return model

    @staticmethod
    def _name(name: str) -> str:
        name = name.removeprefix("base_model.model.").removeprefix("model.") if name.startswith("base_model.") else name
        name = name.replace(".modules_to_save.default.weight", ".weight").replace("_magnitude_vector", "_magnitude")
        return name.removesuffix(".default.weight").removesuffix(".default")

    def _parts(self, values: dict) -> dict:
        """Tensors by Attune's names: those of modules that hold several projections taken apart."""
        config, found = self._config, {}
        for name, tensor in values.items():
            module = next((module for module in FUSED if module in name), None)
            if module is None:
                found[name] = tensor.detach().clone()
                continue
            head_dim = config.hidden_size // config.num_attention_heads
            key_values = config.num_key_value_heads * head_dim
            sizes = [config.hidden_size, key_values, key_values] if "qkv" in module else [config.intermediate_size] * 2
            for part, projection in zip(tensor.detach().split(sizes), FUSED[module]):
                found[name.replace(module, projection)] = part.clone()
        return found

    def _take(self, method: str) -> dict:
        model, batch, rate = self._model(method), self._batch(), self._rates[method]
        trained = {self._name(name): p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(trained.values(), lr=rate, weight_decay=0.01)
        tensors = {f"start.{name}": values for name, values in self._parts(trained).items()}
        losses, norms = [], []
        for step in range(STEPS):
            loss = model(**batch).loss
            loss.backward()
            if step == 0:
                gradients = {name: p.grad for name, p in trained.items()}
                tensors |= {f"gradient.{name}": values for name, values in self._parts(gradients).items()}
            norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        tensors |= {f"after.{name}": values for name, values in self._parts(trained).items()}
        save_file(tensors, self._folder / f"steps_{method}.safetensors")
        return {"losses": losses, "gradient_norms": norms, "learning_rate": rate}

    def write(self) -> None:
        # Attune trains an A for each projection, PEFT one for each module.
        names = [name for name in self._rates if name != "lora" or self._config.model_type != "phi3"]
        methods = {method: self._take(method) for method in names}
        (self._folder / "steps.json").write_text(json.dumps({"examples": self._examples, "methods": methods}))


def main() -> None:
    torch.manual_seed(23)
    for name in FAMILIES:
        folder = pathlib.Path(sys.argv[1]) / "families" / name
        make_base(name, folder / "base")
        if name not in NO_GGUF:
            GgufModel(load(folder / "base"), folder / "gguf").write(folder / "base")
        write_logits(folder)
        write_greedy(folder)
        Steps(folder).write()


if __name__ == "__main__":
    main()
