#!/usr/bin/env python3
"""Compares embeddings with those that transformers computes from the same model folder and inputs, in float32.

    pip install torch transformers safetensors sentencepiece protobuf pillow
    python tools/check_parity.py MODEL_DIR EMBEDDINGS.npy --texts FILE          (one text a line)
    python tools/check_parity.py MODEL_DIR EMBEDDINGS.npy --ids IDS.npy         ([N, context])
    python tools/check_parity.py MODEL_DIR EMBEDDINGS.npy --images FILE...
    python tools/check_parity.py MODEL_DIR EMBEDDINGS.npy --pixels PIXELS.npy   ([N, 3, H, W])

With --program PROGRAM [--precision P] the embeddings are those that the program computes from the same inputs; give -
for the file. EMBEDDINGS.npy is [N, D], not normalised: what `siglip embed --output` writes. Prints the lowest and the
mean cosine and the largest difference of a value, and exits with 1 if a cosine is below --at-least. With neither (give
-) it prints nothing of that, and with --save FILE.npy it writes what transformers computes.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel

from served import Server


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("embeddings")
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--texts", type=Path)
    inputs.add_argument("--ids", type=Path)
    inputs.add_argument("--images", type=Path, nargs="+")
    inputs.add_argument("--pixels", type=Path)
    parser.add_argument("--at-least", type=float, default=0.99999)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--program", type=Path)
    parser.add_argument("--precision", default="f32")
    args = parser.parse_args()

    tower = "text" if args.texts or args.ids else "vision"
    model = load(args.model, tower)
    if args.texts:
        values = tokenize(args.model, args.texts.read_text().splitlines(), model.config.max_position_embeddings)
    elif args.ids:
        values = torch.from_numpy(np.load(args.ids).astype(np.int64))
    elif args.images:
        values = preprocess(args.model, args.images)
    else:
        values = torch.from_numpy(np.load(args.pixels).astype(np.float32))

    with torch.no_grad():
        expected = torch.cat([model(batch).pooler_output for batch in values.split(args.batch_size)]).numpy()
    if args.save:
        np.save(args.save, expected)
    if args.program:
        with Server(args.program, args.model, args.precision) as server:
            ask = server.text if tower == "text" else server.vision
            got = np.concatenate([ask(batch.numpy()) for batch in values.split(args.batch_size)])
    elif args.embeddings == "-":
        return
    else:
        got = np.load(args.embeddings)
    if got.shape != expected.shape:
        sys.exit(f"{args.embeddings} has the shape {list(got.shape)}, but {list(expected.shape)} was expected")
    cosines = (normalized(got) * normalized(expected)).sum(axis=1)
    print(
        f"{len(got)} embeddings: cosine lowest {cosines.min():.8f} (row {cosines.argmin()}), mean {cosines.mean():.8f}; "
        f"largest difference {np.abs(got - expected).max():.3g} of {np.abs(expected).max():.3g}"
    )
    sys.exit(int(not cosines.min() >= args.at_least))


def normalized(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def load(folder, tower):
    """One tower, whatever the folder calls its tensors; anything missing or left over is an error."""
    config = json.loads((folder / "config.json").read_text())
    config = config.get(f"{tower}_config", {}) if config["model_type"] == "siglip" else config
    kind = {"text": (SiglipTextConfig, SiglipTextModel), "vision": (SiglipVisionConfig, SiglipVisionModel)}[tower]
    model = kind[1](kind[0](**config)).eval()
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    tensors = {}
    for file in files:
        tensors |= load_file(folder / file)
    # The prefix is there in files of whole models, and in the model's own names in some versions of transformers.
    prefix = f"{tower}_model."
    tensors = {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in tensors.items()
        if not name.startswith(("text_model.", "vision_model.", "logit_")) or name.startswith(prefix)
    }
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    own = {name.removeprefix(prefix): name for name in model.state_dict() if not name.endswith("position_ids")}
    if own.keys() != tensors.keys():
        sys.exit(f"{folder}: the tensors differ from the model's: {sorted(own.keys() ^ tensors.keys())[:5]}")
    model.load_state_dict({own[name]: tensor for name, tensor in tensors.items()}, strict=False)
    return model


def tokenize(folder, texts, context):
    from transformers import SiglipTokenizer

    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=context)
    return tokenizer(texts, padding="max_length", truncation=True, max_length=context, return_tensors="pt").input_ids


def preprocess(folder, files):
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    images = [Image.open(file).convert("RGB") for file in files]
    return torch.as_tensor(np.asarray(processor(images, return_tensors="np")["pixel_values"]))


if __name__ == "__main__":
    main()
