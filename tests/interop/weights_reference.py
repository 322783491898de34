"""Writes reference files for tests/weights/weights_interop_test.cc.

    weights_reference.py FOLDER

For every quantised type: FOLDER/{type}.gguf with one tensor "weight" of random
blocks, and FOLDER/{type}.f32 with the values that the gguf package gives for it.
FOLDER/torch.safetensors holds tensors of several types as the safetensors package
writes them, FOLDER/torch.f32 their values one after the other in the order of
FOLDER/torch.names.
"""

import pathlib
import sys

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from safetensors.torch import save_file

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
ROWS, COLUMNS = 24, 512
# Where the half-precision scales of a block are: random bits there would mostly be
# numbers that no quantiser writes, infinities among them.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def random_tensor(name: str, random: np.random.Generator) -> np.ndarray:
    """Bytes of a tensor of ROWS x COLUMNS values, a row of bytes for each row of values."""
    values = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    if name in ("F32", "F16", "BF16"):
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = random.integers(0, 256, (ROWS * COLUMNS // block, size), dtype=np.uint8)
    for at in SCALES[name]:
        scales = (random.standard_normal(len(blocks)) * 0.1).astype(np.float16)
        scales[:2] = [6e-8, -0.0]  # a subnormal number and a zero
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def write_gguf(folder: pathlib.Path, name: str, random: np.random.Generator) -> None:
    """One type's file and values."""
    kind = gguf.GGMLQuantizationType[name]
    data = random_tensor(name, random)
    writer = gguf.GGUFWriter(folder / f"{name}.gguf", "llama")
    writer.add_uint32("reference.rows", ROWS)
    writer.add_float32("reference.half", 0.5)
    writer.add_array("reference.words", ["one", "zwei", "三"])
    writer.add_tensor("weight", data, raw_dtype=None if name in ("F32", "F16") else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    dequantize(data, kind).astype(np.float32).tofile(folder / f"{name}.f32")


def write_safetensors(folder: pathlib.Path) -> None:
    """A file with every type that attune reads."""
    torch.manual_seed(5)
    tensors = {
        "a.float32": torch.randn(3, 4),
        "b.float16": torch.randn(2, 5).half(),
        "c.bfloat16": torch.randn(7).bfloat16(),
        "d.float64": torch.randn(2, 2, 2, dtype=torch.float64).float().double(),
        "e.int64": torch.arange(-2, 3),
        "f.int32": torch.arange(4, dtype=torch.int32),
        "g.uint8": torch.arange(250, 256, dtype=torch.uint8),
        "h.scalar": torch.tensor(2.5),
    }
    save_file(tensors, folder / "torch.safetensors", metadata={"format": "pt"})
    names = sorted(tensors)
    (folder / "torch.names").write_text("".join(f"{name}\n" for name in names))
    np.concatenate([tensors[name].float().numpy().reshape(-1) for name in names]).tofile(folder / "torch.f32")


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(20260101)
    for name in TYPES:
        write_gguf(folder, name, random)
    write_safetensors(folder)
    print(f"{len(TYPES)} GGUF types and one safetensors file in {folder}")


if __name__ == "__main__":
    main()
