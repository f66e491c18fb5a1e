"""Train the demo model: a small SigLIP, both towers from scratch, on what prepare.py made.

    python train.py WORK_DIRECTORY model --minutes 80

The tokenizer is read from the model folder, which also receives the weights and the configuration. The weights are the
moving average of those of the training, in half precision, and are written anew every few minutes.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoTokenizer, SiglipConfig, SiglipModel

from augment import augment
from texts import MAX_LENGTH, Captions

MONO_HANDS = {"fluent-mono", "emojione-mono"}


def build_model() -> SiglipModel:
    """The architecture of the Hub's SigLIP checkpoints, in small."""
    text = {
        "vocab_size": 32000,
        "max_position_embeddings": MAX_LENGTH,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_size": 192,
        "pad_token_id": 1,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    vision = {
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    model.set_attn_implementation("eager")  # on so few positions twice as fast on a CPU as the fused attention
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-5)  # the paper's -10 suits its batches of 32,768: about -ln(texts in a batch)
    return model


def embed_images(model: SiglipModel, pixels: torch.Tensor, patches: int) -> torch.Tensor:
    """The image tower on a random subset of the patches, which costs less and keeps it from leaning on any one part."""
    tower = model.vision_model
    hidden = tower.embeddings(pixels)
    if patches < hidden.shape[1]:
        kept = torch.rand(hidden.shape[:2]).argsort(1)[:, :patches]
        hidden = hidden.gather(1, kept[..., None].expand(-1, -1, hidden.shape[2]))
    hidden = tower.encoder(inputs_embeds=hidden).last_hidden_state
    return tower.head(tower.post_layernorm(hidden))


def sigmoid_loss(model: SiglipModel, image: torch.Tensor, text: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """The loss of the SigLIP paper; `positive[i, j]` says whether text j is true of image i."""
    cosines = F.normalize(image.float(), dim=1) @ F.normalize(text.float(), dim=1).T
    logits = cosines * model.logit_scale.exp() + model.logit_bias
    return -F.logsigmoid(torch.where(positive, logits, -logits)).sum() / len(image)


class Prototypes(nn.Module):
    """One free vector a concept, to which pictures and captions of that concept are drawn alike.

    A batch shows each picture only the captions that were drawn with it; the prototypes show it all concepts at every
    step, for next to nothing. They serve the training alone and are thrown away after it.
    """

    SCALE = 16.0

    def __init__(self, concepts: int, size: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(concepts, size))

    def forward(self, embeddings: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Cross entropy to the concepts that each embedding stands for; the rows of `share` sum to one."""
        cosines = F.normalize(embeddings.float(), dim=1) @ F.normalize(self.vectors, dim=1).T
        return F.cross_entropy(self.SCALE * cosines, share)


def optimizer(model: SiglipModel, prototypes: Prototypes, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices only, and moves the loss's own scale and bias faster."""
    own = [model.logit_scale, model.logit_bias]
    rest = [p for name, p in model.named_parameters() if not name.startswith("logit_")] + [prototypes.vectors]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay, "factor": 1.0},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "factor": 1.0},
        {"params": own, "weight_decay": 0.0, "factor": 5.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


class Clock:
    """Training time, without the time for which the process was stopped from outside."""

    def __init__(self, seconds: float) -> None:
        self._limit, self._spent, self._last = seconds, 0.0, time.monotonic()

    def progress(self) -> float:
        """How much of the time is gone, from 0 to 1. A gap of more than two minutes was a pause and does not count."""
        now = time.monotonic()
        if now - self._last < 120:
            self._spent += now - self._last
        self._last = now
        return self._spent / self._limit


def learning_rate(progress: float, peak: float) -> float:
    """A linear rise over the first 2 %, level until half time, then half a cosine down to zero."""
    if progress < 0.02:
        return peak * progress / 0.02
    return peak * 0.5 * (1 + math.cos(math.pi * max(0.0, min(1.0, (progress - 0.5) / 0.5))))


def export(model: SiglipModel, folder: Path) -> None:
    """Write the weights in half precision, and a configuration that leaves nothing to a reader's defaults."""
    half = copy.deepcopy(model).half()
    half.save_pretrained(folder)
    half.config.to_json_file(folder / "config.json", use_diff=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="work directory of prepare.py")
    parser.add_argument("model", type=Path, help="folder with the tokenizer, receives the model")
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--patches", type=int, default=32, help="patches kept of 64, until --all-patches-from")
    parser.add_argument("--all-patches-from", type=float, default=0.7, help="share of the time after which all are kept")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--export-every", type=int, default=500, help="steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    concepts = json.loads((args.work / "concepts.json").read_text())
    rows = json.loads((args.work / "train.json").read_text())
    drawings = np.load(args.work / "train.npy", mmap_mode="r")
    concept_of = torch.tensor([row["concept"] for row in rows])
    mono = torch.tensor([row["hand"] in MONO_HANDS for row in rows])
    mirror = torch.tensor([concepts[row["concept"]]["mirror"] for row in rows])
    weight = np.where(mono.numpy(), 0.4, 1.0)
    weight /= weight.sum()
    captions = Captions(concepts, AutoTokenizer.from_pretrained(args.model), args.seed)

    model = build_model().train()
    average = copy.deepcopy(model)
    prototypes = Prototypes(len(concepts), model.config.vision_config.hidden_size)
    steps = optimizer(model, prototypes, args.learning_rate, args.weight_decay)
    size = model.config.vision_config.image_size
    all_patches = (size // model.config.vision_config.patch_size) ** 2

    clock, step, losses = Clock(args.minutes * 60), 0, torch.zeros(3)
    while (progress := clock.progress()) < 1:
        rate = learning_rate(progress, args.learning_rate)
        for group in steps.param_groups:
            group["lr"] = rate * group["factor"]

        chosen = np.sort(rng.choice(len(rows), args.batch_size, replace=False, p=weight))
        pixels = augment(torch.from_numpy(drawings[chosen]), mono[chosen], mirror[chosen], size)
        shown = concept_of[chosen]
        ids, true_of = captions.batch(shown.tolist())

        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = embed_images(model, pixels, args.patches if progress < args.all_patches_from else all_patches)
            text = model.text_model(ids).pooler_output
        loss = sigmoid_loss(model, image, text, true_of[:, shown].T)
        of_image = prototypes(image, F.one_hot(shown, len(concepts)).float())
        of_text = prototypes(text, true_of / true_of.sum(1, keepdim=True))
        steps.zero_grad()
        (loss + of_image + of_text).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()

        step += 1
        with torch.no_grad():
            keep = min(0.998, step / (step + 20))
            for kept, new in zip(average.parameters(), model.parameters()):
                kept.lerp_(new, 1 - keep)
        losses.lerp_(torch.stack([loss, of_image, of_text]).detach(), max(1 / step, 0.02))
        if step % 50 == 0:
            sigmoid, image_ce, text_ce = losses.tolist()
            scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
            print(
                f"{step:6} {progress:6.1%} sigmoid {sigmoid:.3f} prototypes {image_ce:.3f} {text_ce:.3f}"
                f" scale {scale:.2f} bias {bias:.2f}",
                flush=True,
            )
        if step % args.export_every == 0:
            export(average, args.model)
    export(average, args.model)


if __name__ == "__main__":
    main()
