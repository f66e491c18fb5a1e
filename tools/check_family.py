#!/usr/bin/env python3
"""Checks every published SigLIP 1 and 2 configuration: the program's embeddings beside transformers', random weights.

    pip install torch transformers safetensors
    cargo build --release
    python tools/check_family.py target/release/siglip [--precision f32] [--layers 2] [--vocab 1000] [--only NAME]

Each model is built by transformers in its real widths, heads, patches, image sizes and contexts, with few layers and a
small vocabulary, which change no shape but their own, and served by `siglip serve`; token ids and pixels go in as
binary tensors. Prints the lowest cosine of each tower and exits with 1 if one is below --at-least. The NaFlex
configurations must be refused by name.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Siglip2Config, SiglipConfig, SiglipModel

from served import Server

BASE = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
LARGE = dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16)
SO400M = dict(hidden_size=1152, intermediate_size=4304, num_attention_heads=16)
GIANT = dict(hidden_size=1536, intermediate_size=6144, num_attention_heads=16)


def family():
    """Name, vision tower, text tower, patch, image size, and the context where it is not 64."""
    for size in 224, 256, 384, 512:
        yield f"siglip-base-patch16-{size}", BASE, BASE, 16, size
        yield f"siglip2-base-patch16-{size}", BASE, BASE, 16, size
    for size in 256, 384:
        yield f"siglip-large-patch16-{size}", LARGE, LARGE, 16, size
        yield f"siglip2-giant-opt-patch16-{size}", GIANT, SO400M, 16, size
    for size in 256, 384, 512:
        yield f"siglip2-large-patch16-{size}", LARGE, LARGE, 16, size
        yield f"siglip2-so400m-patch16-{size}", SO400M, SO400M, 16, size
    yield "siglip-base-patch16-256-multilingual", BASE, BASE, 16, 256
    yield "siglip-so400m-patch14-224", SO400M, SO400M, 14, 224, 16
    yield "siglip-so400m-patch14-384", SO400M, SO400M, 14, 384
    yield "siglip-so400m-patch16-256-i18n", SO400M, SO400M, 16, 256
    yield "siglip2-base-patch32-256", BASE, BASE, 32, 256
    yield "siglip2-so400m-patch14-224", SO400M, SO400M, 14, 224
    yield "siglip2-so400m-patch14-384", SO400M, SO400M, 14, 384


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--only", default="", help="only the models whose name has this in it")
    parser.add_argument("--at-least", type=float, default=0.99999)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    lowest = []
    for name, *spec in sorted(family()):
        if args.only in name:
            with tempfile.TemporaryDirectory() as folder:
                cosines = check(args, Path(folder), *spec)
            lowest += cosines
            print(f"{name:40} lowest cosine: text {cosines[0]:.8f}, vision {cosines[1]:.8f}", flush=True)
    refused = all(check_naflex(args.program, **tower) for tower in (BASE, SO400M))
    print(f"{len(lowest) // 2} models, lowest cosine {min(lowest):.8f}; NaFlex is {'' if refused else 'NOT '}refused")
    sys.exit(int(not (min(lowest) >= args.at_least and refused)))


def check(args, folder, vision, text, patch, size, context=64):
    """The lowest cosines of the text and the vision tower."""
    torch.manual_seed(0)
    few = dict(num_hidden_layers=args.layers)
    config = SiglipConfig(
        text_config=text | few | dict(vocab_size=args.vocab, max_position_embeddings=context,
                                      projection_size=vision["hidden_size"]),
        vision_config=vision | few | dict(patch_size=patch, image_size=size),
    )
    model = SiglipModel(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "logit" not in name:
            # What is initialised to 0 or 1 would hide that it was left out.
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    ids = torch.randint(0, args.vocab, (4, context))
    ids[0, 5:] = 1
    pixels = torch.rand(2, 3, size, size) * 2 - 1
    with torch.no_grad():
        expected = [model.text_model(ids).pooler_output, model.vision_model(pixels).pooler_output]
    with Server(args.program, folder, args.precision) as server:
        got = [server.text(ids.numpy()), server.vision(pixels.numpy())]
    return [lowest_cosine(*pair) for pair in zip(got, expected)]


def check_naflex(program, **tower):
    """Whether a NaFlex configuration is refused by name."""
    with tempfile.TemporaryDirectory() as folder:
        Siglip2Config(text_config=tower, vision_config=tower).save_pretrained(folder)
        done = subprocess.run([program, "bench", "--model", folder], capture_output=True, text=True)
        return done.returncode == 1 and "a SigLIP 2 NaFlex model, which is not supported yet" in done.stderr


def lowest_cosine(got, expected):
    got, expected = got.astype(np.float64), expected.numpy().astype(np.float64)
    assert got.shape == expected.shape, f"{got.shape} instead of {expected.shape}"
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((got * expected).sum(axis=1) / norms).min())


if __name__ == "__main__":
    main()
