"""The towers of a model folder, and what they are fed: the same rows for every engine."""

import json
from dataclasses import dataclass

import numpy as np

TEXTS = [f"a photo of {n} {thing}, seen from the {side}" for n in ("one", "two") for thing in
         ("cats", "red cars", "old houses", "trees in autumn") for side in ("left", "right", "front", "air")]
CONFIGS = {"siglip_text_model": "text", "siglip_vision_model": "vision"}


@dataclass(frozen=True)
class Inputs:
    """Rows of one tower: token ids, [N, context], or pixel values, [N, channels, height, width]."""

    name: str  # of the tensor, in transformers and in exports
    rows: np.ndarray  # random ones, to measure speed with
    samples: np.ndarray  # those whose embeddings are compared
    calibration: np.ndarray  # random ones, for the peers that quantise activations beforehand


def towers(folder):
    """The towers that a model folder has, each with its part of config.json."""
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] == "siglip":
        return {tower: config.get(f"{tower}_config", {}) for tower in ("text", "vision")}
    return {CONFIGS[config["model_type"]]: config}


def make(folder, tower, rows):
    """The inputs of a tower, `rows` of them to measure with. What config.json leaves out has transformers' defaults."""
    config, random = towers(folder)[tower], np.random.default_rng(0)
    if tower == "text":
        vocabulary, context = config.get("vocab_size", 32000), config.get("max_position_embeddings", 64)

        def ids(count):
            return random.integers(2, vocabulary, (count, context)).astype(np.int64)

        # Texts are mostly padding and resemble one another; random ids do neither.
        samples = np.concatenate([tokenize(folder, context), ids(16)])
        return Inputs("input_ids", ids(rows), samples, ids(64))

    side = config.get("image_size", 224)

    def pixels(count):
        return random.uniform(-1, 1, (count, config.get("num_channels", 3), side, side)).astype(np.float32)

    return Inputs("pixel_values", pixels(rows), pixels(4), pixels(8))


def tokenize(folder, context):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXTS, padding="max_length", max_length=context, truncation=True, return_tensors="np")["input_ids"]
    return ids.astype(np.int64)
