#!/usr/bin/env python3
"""Makes fixtures/models/: tiny models of odd sizes in the Hub's layout, with the outputs that transformers gives them.

    pip install torch transformers safetensors
    python tools/make_fixtures.py

Each folder holds config.json, model.safetensors (or shards with an index) and expected.safetensors: inputs
(`input_ids`, stored as float32 so that a reader of weights can read them, and `pixel_values`), outputs (`text_embeds`,
`image_embeds`, and `text_hidden`, `image_hidden`, the last hidden states), and for models with both towers
`logits_per_image`. Outputs are computed in float64 from the weights as they are
stored, and rounded to float32 once at the end: they hold no error of their own.

The sizes are chosen to be awkward: nothing is a multiple of 16, heads of 10, 18 and 72, images that do not divide into
patches. The weights are random but lively, with attention that is far from uniform and norms that are far from identity,
so that a wrong transposition, scale, epsilon or order of heads shows.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "models"

TEXT = dict(vocab_size=97, hidden_act="gelu_pytorch_tanh")
MODELS = {
    # Both towers, three layers, a context of 64, two images.
    "both": dict(
        text=dict(hidden_size=54, num_attention_heads=3, intermediate_size=70, num_hidden_layers=3,
                  max_position_embeddings=64, projection_size=54),
        vision=dict(hidden_size=54, num_attention_heads=3, intermediate_size=61, num_hidden_layers=3,
                    image_size=23, patch_size=5),
        texts=3, images=2, preprocessor=True,
    ),
    # In three files with an index, a context of 7, towers of different widths, buffers as old files have them.
    "sharded": dict(
        text=dict(hidden_size=30, num_attention_heads=3, intermediate_size=41, num_hidden_layers=1,
                  max_position_embeddings=7, projection_size=42, layer_norm_eps=1e-3),
        vision=dict(hidden_size=42, num_attention_heads=2, intermediate_size=35, num_hidden_layers=1,
                    image_size=17, patch_size=4),
        texts=2, images=3, shards=3, position_ids=True,
    ),
    # One tower only, names without the prefix, heads of 72 as in so400m.
    "text_f16": dict(
        text=dict(hidden_size=144, num_attention_heads=2, intermediate_size=100, num_hidden_layers=1,
                  max_position_embeddings=16, projection_size=33),
        texts=4, dtype=torch.float16, prefix=False,
    ),
    "text_bf16": dict(
        text=dict(hidden_size=216, num_attention_heads=3, intermediate_size=90, num_hidden_layers=1,
                  max_position_embeddings=64, projection_size=50),
        texts=2, dtype=torch.bfloat16,
    ),
    "vision_bf16": dict(
        vision=dict(hidden_size=72, num_attention_heads=1, intermediate_size=94, num_hidden_layers=3,
                    image_size=29, patch_size=7),
        images=1, dtype=torch.bfloat16,
    ),
    # Small enough to look at, and the only one with another number of channels.
    "vision_gray": dict(
        vision=dict(hidden_size=20, num_attention_heads=5, intermediate_size=23, num_hidden_layers=1,
                    image_size=9, patch_size=3, num_channels=1),
        images=3, prefix=False,
    ),
    # Positions enough for attention scores in 8 bits.
    "vision_patches": dict(
        vision=dict(hidden_size=57, num_attention_heads=3, intermediate_size=51, num_hidden_layers=2,
                    image_size=40, patch_size=3),
        images=2,
    ),
}


def main():
    for seed, (name, spec) in enumerate(MODELS.items()):
        make(OUT / name, seed, **spec)


def make(folder, seed, text=None, vision=None, texts=0, images=0, dtype=torch.float32, prefix=True, shards=1,
         position_ids=False, preprocessor=False):
    torch.manual_seed(seed)
    # A model always has both towers; of one that is to have a single tower the other is a stub that is not saved.
    stub = dict(hidden_size=8, num_attention_heads=1, intermediate_size=8, num_hidden_layers=1)
    text_config = SiglipTextConfig(**TEXT, **(text or stub))
    vision_config = SiglipVisionConfig(**(vision or stub | dict(image_size=8, patch_size=8)))
    if not (text and vision):
        text_config.projection_size = vision_config.hidden_size if vision else text_config.projection_size
    config = SiglipConfig(text_config=text_config, vision_config=vision_config)
    config._attn_implementation = "eager"
    model = SiglipModel(config).eval()
    for parameter_name, parameter in model.named_parameters():
        parameter.data = lively(parameter_name, parameter.shape).to(dtype).float()

    model.double()
    expected = {}
    with torch.no_grad():
        if text:
            length = text["max_position_embeddings"]
            ids = torch.randint(0, TEXT["vocab_size"], (texts, length))
            # As real texts are: some padded, one of nothing but padding, the ends of the vocabulary somewhere.
            ids[0, length // 2:] = 1
            ids[-1, :] = 1
            ids[0, 0], ids[0, 1] = 0, TEXT["vocab_size"] - 1
            out = model.text_model(input_ids=ids)
            expected |= dict(input_ids=ids, text_embeds=out.pooler_output, text_hidden=out.last_hidden_state)
        if vision:
            c, s = vision.get("num_channels", 3), vision["image_size"]
            pixels = (torch.rand(images, c, s, s) * 2 - 1).float()
            out = model.vision_model(pixel_values=pixels.double())
            expected |= dict(pixel_values=pixels, image_embeds=out.pooler_output, image_hidden=out.last_hidden_state)
        if text and vision:
            out = model(input_ids=ids, pixel_values=pixels.double())
            expected |= dict(logits_per_image=out.logits_per_image)

    tensors = {k: v.to(dtype).contiguous() for k, v in model.float().state_dict().items()}
    kept = [t for t, there in [("text_model.", text), ("vision_model.", vision)] if there]
    if len(kept) == 1:
        tensors = {k: v for k, v in tensors.items() if k.startswith(kept[0])}
        if not prefix:
            tensors = {k.removeprefix(kept[0]): v for k, v in tensors.items()}
    if position_ids:
        tensors["text_model.embeddings.position_ids"] = torch.arange(text["max_position_embeddings"])[None]
        patches = (vision["image_size"] // vision["patch_size"]) ** 2
        tensors["vision_model.embeddings.position_ids"] = torch.arange(patches)[None]

    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, text, vision)
    if preprocessor:
        side = vision["image_size"]
        write_json(folder / "preprocessor_config.json", {
            "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
            "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"height": side, "width": side},
        })
    write_weights(folder, tensors, shards)
    expected = {k: v.float().contiguous() for k, v in expected.items()}
    save_file(expected, folder / "expected.safetensors")
    sizes = (f"{k} {list(v.shape)} |{v.abs().mean():.2f}|" for k, v in expected.items())
    print(f"{folder.name}: " + ", ".join(sizes))


def lively(name, shape):
    """Random values of a size that suits the place: activations stay near 1 and differ from position to position."""
    noise = torch.randn(shape)
    if name == "logit_scale":
        return torch.full(shape, 2.5)
    if name == "logit_bias":
        return torch.full(shape, -1.25)
    if "norm" in name:
        return 1 + 0.4 * noise if name.endswith("weight") else 0.3 * noise
    if "embedding.weight" in name and "patch" not in name or "probe" in name:
        return 0.8 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    fan_in = shape[1:].numel()
    gain = 1.6 if any(part in name for part in ("q_proj", "k_proj", "in_proj", "patch_embedding")) else 1.1
    return gain * noise / fan_in**0.5


def write_config(folder, text, vision):
    towers = {}
    if text:
        towers["text_config"] = {"model_type": "siglip_text_model", "vocab_size": TEXT["vocab_size"], **text}
    if vision:
        towers["vision_config"] = {"model_type": "siglip_vision_model", **vision}
    if len(towers) == 1:
        (config,) = towers.values()
    else:
        config = {"architectures": ["SiglipModel"], "model_type": "siglip", **towers}
    write_json(folder / "config.json", config)


def write_weights(folder, tensors, shards):
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
