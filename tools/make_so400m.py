#!/usr/bin/env python3
"""Makes a model folder of the shape of google/siglip-so400m-patch14-384 with random weights.

    pip install numpy
    python tools/make_so400m.py OUT_DIR [--tower text|vision|both] [--layers 27] [--dtype f32|bf16] [--seed 0]

For measuring speed, memory and parity at full size without a download. The weights have the spread of freshly
initialised ones (so that activations stay of a sane size through 27 layers), and biases and norms that are not trivial
(so that leaving one out shows). The same arguments give the same bytes. Tensors are written one after the other, so
that no more than one is ever in memory: 1.8 GB of text tower in f32 take about 10 seconds.
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np

HIDDEN, MLP, HEADS = 1152, 4304, 16
VOCAB, CONTEXT, IMAGE, PATCH = 32000, 64, 384, 14
# A published model folder: the tokenizer's and the preprocessor's files come from there.
DEMO = Path(__file__).resolve().parent.parent / "demo" / "model"
FILES = ["spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tower", choices=["text", "vision", "both"], default="both")
    parser.add_argument("--layers", type=int, default=27)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    text, vision = args.tower != "vision", args.tower != "text"
    shapes = {}
    if text:
        shapes |= {f"text_model.{name}": shape for name, shape in text_tower(args.layers).items()}
    if vision:
        shapes |= {f"vision_model.{name}": shape for name, shape in vision_tower(args.layers).items()}
    if text and vision:
        shapes |= {"logit_bias": (1,), "logit_scale": (1,)}

    args.out.mkdir(parents=True, exist_ok=True)
    write_config(args.out, text, vision, args.layers)
    write_weights(args.out / "model.safetensors", shapes, args.dtype, args.seed)
    for name in FILES if text else []:
        shutil.copyfile(DEMO / name, args.out / name)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    print(f"{args.out}: {parameters:,} parameters")


def text_tower(layers):
    return {
        "embeddings.token_embedding.weight": (VOCAB, HIDDEN),
        "embeddings.position_embedding.weight": (CONTEXT, HIDDEN),
        **blocks(layers),
        **norm("final_layer_norm"),
        **linear("head", HIDDEN, HIDDEN),
    }


def vision_tower(layers):
    return {
        "embeddings.patch_embedding.weight": (HIDDEN, 3, PATCH, PATCH),
        "embeddings.patch_embedding.bias": (HIDDEN,),
        "embeddings.position_embedding.weight": ((IMAGE // PATCH) ** 2, HIDDEN),
        **blocks(layers),
        **norm("post_layernorm"),
        "head.probe": (1, 1, HIDDEN),
        "head.attention.in_proj_weight": (3 * HIDDEN, HIDDEN),
        "head.attention.in_proj_bias": (3 * HIDDEN,),
        **linear("head.attention.out_proj", HIDDEN, HIDDEN),
        **norm("head.layernorm"),
        **mlp("head.mlp"),
    }


def blocks(layers):
    shapes = {}
    for layer in range(layers):
        block = f"encoder.layers.{layer}"
        shapes |= norm(f"{block}.layer_norm1") | norm(f"{block}.layer_norm2") | mlp(f"{block}.mlp")
        for part in ["k_proj", "v_proj", "q_proj", "out_proj"]:
            shapes |= linear(f"{block}.self_attn.{part}", HIDDEN, HIDDEN)
    return shapes


def mlp(name):
    return linear(f"{name}.fc1", MLP, HIDDEN) | linear(f"{name}.fc2", HIDDEN, MLP)


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name):
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def values(name, shape, rng):
    if name == "logit_scale":
        return np.full(shape, math.log(112.7), np.float32)
    if name == "logit_bias":
        return np.full(shape, -16.5, np.float32)
    noise = rng.standard_normal(math.prod(shape), dtype=np.float32).reshape(shape)
    if "norm" in name and name.endswith("weight"):
        return 1 + np.float32(0.1) * noise
    if len(shape) == 1:
        return np.float32(0.02) * noise
    if "embedding" in name or "probe" in name:
        return np.float32(1 / math.sqrt(math.prod(shape[1:]))) * noise
    # Xavier's spread, as transformers initialises attention and MLP.
    return np.float32(math.sqrt(2 / (shape[0] + math.prod(shape[1:])))) * noise


def write_weights(path, shapes, dtype, seed):
    size = {"f32": 4, "bf16": 2}[dtype]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": dtype.upper(), "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, shape in sorted(shapes.items()):
            tensor = values(name, shape, rng)
            file.write((tensor if dtype == "f32" else bf16(tensor)).tobytes())


def bf16(tensor):
    """The upper half of each float32, rounded to nearest, ties to even."""
    bits = tensor.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_config(out, text, vision, layers):
    tower = dict(hidden_size=HIDDEN, intermediate_size=MLP, num_attention_heads=HEADS, num_hidden_layers=layers)
    towers = {}
    if text:
        towers["text_config"] = {"model_type": "siglip_text_model", **tower}
    if vision:
        towers["vision_config"] = {
            "model_type": "siglip_vision_model", **tower, "image_size": IMAGE, "patch_size": PATCH
        }
        preprocessor = {
            "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
            "image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor", "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"height": IMAGE, "width": IMAGE},
        }
        (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    config = next(iter(towers.values())) if len(towers) == 1 else {"model_type": "siglip", **towers}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
