#!/usr/bin/env python3
"""Makes fixtures/models/open_clip*: tiny models in open_clip's layout, with the outputs that open_clip gives them.

    pip install torch timm open_clip_torch safetensors
    python tools/make_open_clip_fixtures.py

Each folder holds open_clip_config.json and open_clip_model.safetensors as a push to the Hub from open_clip writes them,
and expected.safetensors as in tools/make_fixtures.py: inputs and outputs, computed in float64 and rounded once.

The sizes of a vision tower stand in timm's code under its name, so timm is made to build a small one under the name.
GELU has its tanh form everywhere, as in the training and in transformers. open_clip itself takes the exact form for
SigLIP 1, whose text configurations do not say otherwise; how far apart the two are is printed.
"""

import copy

import open_clip.timm_model
import torch
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

from make_fixtures import OUT, write_json

TEXT = dict(context_length=16, vocab_size=97, no_causal_mask=True, pool_type="last", norm_kwargs={"eps": 1e-6},
            tokenizer_kwargs={"clean": "canonicalize"})
VISION = dict(timm_model_pretrained=False, timm_pool="map", timm_proj="none")
MODELS = {
    # SigLIP 1: nothing is said of the activation, bicubic; 12 heads of 5.
    "open_clip": dict(
        text=dict(hf_tokenizer_name="timm/ViT-B-16-SigLIP", width=60, heads=3, layers=2, proj_bias=True),
        vision=dict(image_size=23, timm_model_name="vit_base_patch16_siglip_224"),
        timm=dict(embed_dim=60, depth=2, num_heads=12, mlp_ratio=1.3, patch_size=5), interpolation="bicubic",
    ),
    # SigLIP 2 with towers of different widths, as the giant has them: 16 heads of 4, f16, bilinear.
    "open_clip2": dict(
        text=dict(hf_tokenizer_name="timm/ViT-gopt-16-SigLIP2-256", width=40, heads=2, layers=1, proj_bias=True,
                  mlp_ratio=1.7362, act_kwargs={"approximate": "tanh"}),
        vision=dict(image_size=17, timm_model_name="vit_giantopt_patch16_siglip_256"),
        timm=dict(embed_dim=64, depth=2, num_heads=16, mlp_ratio=1.5, patch_size=4), interpolation="bilinear",
        dtype=torch.float16,
    ),
    # Multilingual so400m: the text tower has no projection.
    "open_clip_i18n": dict(
        text=dict(hf_tokenizer_name="timm/ViT-B-16-SigLIP-i18n-256", width=32, heads=2, layers=1, proj_type="none",
                  mlp_ratio=1.7362),
        vision=dict(image_size=9, timm_model_name="vit_so400m_patch16_siglip_256"),
        timm=dict(embed_dim=32, depth=1, num_heads=16, mlp_ratio=1.2, patch_size=3), interpolation="bicubic",
    ),
}


def main():
    for seed, (name, spec) in enumerate(MODELS.items()):
        make(OUT / name, seed, **spec)


def make(folder, seed, text, vision, timm, interpolation, dtype=torch.float32):
    torch.manual_seed(seed)
    config = dict(embed_dim=timm["embed_dim"], init_logit_bias=-10, custom_text=True, vision_cfg=VISION | vision,
                  text_cfg=TEXT | text)
    model = build(config, timm, tanh=True)
    for name, parameter in model.named_parameters():
        parameter.data = lively(name, parameter.shape).to(dtype).float()
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}

    ids = torch.randint(0, TEXT["vocab_size"], (3, TEXT["context_length"]))
    ids[0, 5:], ids[-1, :], ids[0, 0], ids[0, 1] = 1, 1, 0, TEXT["vocab_size"] - 1
    side = vision["image_size"]
    pixels = (torch.rand(2, 3, side, side) * 2 - 1).float()
    expected = dict(input_ids=ids, pixel_values=pixels) | embed(model, ids, pixels)
    exact = build(config, timm, tanh=False)
    exact.load_state_dict(model.float().state_dict())
    other = embed(exact, ids, pixels)

    folder.mkdir(parents=True, exist_ok=True)
    preprocess = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation=interpolation, resize_mode="squash")
    write_json(folder / "open_clip_config.json", dict(model_cfg=config, preprocess_cfg=preprocess))
    save_file(tensors, folder / "open_clip_model.safetensors")
    save_file({k: v.float().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    for name in ["text_embeds", "image_embeds"]:
        cosine = torch.cosine_similarity(expected[name], other[name]).min()
        print(f"{folder.name}, {name} {list(expected[name].shape)}: lowest cosine to the exact GELU {cosine:.9f}, largest difference "
              f"{(expected[name] - other[name]).abs().max():.1e}")


def build(config, timm, tanh):
    """The model as open_clip builds it, but for the vision tower's sizes and the activation."""
    create = open_clip.timm_model.timm.create_model
    sizes = timm | dict(img_size=config["vision_cfg"]["image_size"], act_layer="gelu_tanh" if tanh else "gelu")
    open_clip.timm_model.timm.create_model = lambda name, **options: create(name, **options | sizes)
    try:
        config = copy.deepcopy(config)
        config.pop("custom_text")
        config["text_cfg"]["act_kwargs"] = {"approximate": "tanh"} if tanh else {}
        return CustomTextCLIP(**config).eval()
    finally:
        open_clip.timm_model.timm.create_model = create


def embed(model, ids, pixels):
    model.double()
    with torch.no_grad():
        text, image = model.encode_text(ids), model.encode_image(pixels.double())
        normalized = [rows / rows.norm(dim=1, keepdim=True) for rows in (image, text)]
        logits = normalized[0] @ normalized[1].T * model.logit_scale.exp() + model.logit_bias
    return dict(text_embeds=text, image_embeds=image, logits_per_image=logits)


def lively(name, shape):
    """As in make_fixtures.py, under these names."""
    noise = torch.randn(shape)
    if name == "logit_scale":
        return torch.full(shape, 2.5)
    if name == "logit_bias":
        return torch.full(shape, -1.25)
    if "norm" in name or "ln_" in name:
        return 1 + 0.4 * noise if name.endswith("weight") else 0.3 * noise
    if any(part in name for part in ("token_embedding", "positional_embedding", "pos_embed", "latent")):
        return 0.8 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    gain = 1.6 if any(part in name for part in ("qkv", "in_proj", ".q.", ".kv.", "patch_embed")) else 1.1
    return gain * noise / shape[1:].numel() ** 0.5


if __name__ == "__main__":
    main()
