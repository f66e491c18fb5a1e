"""Train the demo model: a small SigLIP, both towers from scratch, on what prepare.py made.

    python train.py WORK_DIRECTORY model

The tokenizer is read from the model folder, which also receives the weights and the configuration. The weights are the
moving average of those of the training, in half precision, and are written anew every few minutes.
"""

import argparse
import copy
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoTokenizer, SiglipConfig, SiglipModel

from augment import augment
from texts import MAX_LENGTH, Captions

GENERIC_OPTIONS = {
    *("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder", "label2id"),
    *("output_attentions", "output_hidden_states", "problem_type", "return_dict", "transformers_version"),
}
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
        "projection_size": 128,
        "pad_token_id": 1,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    vision = {
        "image_size": 72,
        "patch_size": 12,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    model.set_attn_implementation("eager")  # on so few positions twice as fast on a CPU as the fused attention
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-5)  # the paper's -10 suits its batches of 32,768: about -ln(texts in a batch)
    return model


@torch.no_grad()
def whiten_patches(model: SiglipModel, pixels: torch.Tensor) -> None:
    """Start the patch embedding from the principal components of real patches, each scaled to the same variance.

    With random filters the network first spends thousands of steps on seeing past the mean colour of a patch.
    """
    embeddings = model.vision_model.embeddings
    filters = embeddings.patch_embedding
    patches = F.unfold(pixels, filters.kernel_size, stride=filters.stride).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    variance, components = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    variance, components = variance.flip(0)[: filters.out_channels], components.flip(1)[:, : filters.out_channels]
    weight = 0.5 * components.T / (variance + 0.05).sqrt()[:, None]
    filters.weight.copy_(weight.view_as(filters.weight))
    filters.bias.copy_(-weight @ mean)
    embeddings.position_embedding.weight.normal_(std=0.3)


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
        self.vectors = nn.Parameter(torch.randn(concepts, size) * 0.03)  # short vectors turn quickly

    def forward(self, embeddings: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Cross entropy to the concepts that each embedding stands for; the rows of `share` sum to one."""
        cosines = F.normalize(embeddings.float(), dim=1) @ F.normalize(self.vectors, dim=1).T
        return F.cross_entropy(self.SCALE * cosines, share)


def build_optimizers(model: SiglipModel, prototypes: Prototypes, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the towers, AdamW for all else; the loss's own scale and bias move faster."""
    inner, outer, own = [], [prototypes.vectors], []
    for name, parameter in model.named_parameters():
        if name.startswith("logit_"):
            own.append(parameter)
        elif parameter.ndim == 2 and "embedding" not in name:
            inner.append(parameter)
        else:
            outer.append(parameter)
    chosen = [
        torch.optim.Muon(inner, lr=4 * rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": outer}, {"params": own, "lr": 5 * rate}], lr=rate, betas=(0.9, 0.98), weight_decay=0
        ),
    ]
    for group in (group for optimizer in chosen for group in optimizer.param_groups):
        group["peak"] = group["lr"]
    return chosen


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


def warm_and_cool(progress: float) -> float:
    """The learning rate as a share of its peak: a rise over the first 2 %, level until 40 %, then down to zero."""
    return min(progress / 0.02, 1.0) * min((1 - progress) / 0.6, 1.0)


def augmentation_strength(progress: float) -> float:
    """Plain pictures first, until the towers agree on anything at all, then ever more varied ones."""
    return 0.2 + 0.5 * min(max(progress - 0.15, 0) / 0.35, 1.0)


def without_generic(config: dict) -> dict:
    """A configuration without the options that every model of the library has and that say nothing of this one."""
    return {
        key: without_generic(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in GENERIC_OPTIONS
    }


def export(model: SiglipModel, folder: Path) -> None:
    """Write the weights in half precision, and a configuration that leaves nothing to a reader's defaults."""
    half = copy.deepcopy(model).half()
    half.save_pretrained(folder)
    config = {"architectures": ["SiglipModel"], "torch_dtype": "float16"} | without_generic(half.config.to_dict())
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="work directory of prepare.py")
    parser.add_argument("model", type=Path, help="folder with the tokenizer, receives the model")
    parser.add_argument("--minutes", type=float, default=47, help="how long to train; the schedule is stretched to it")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures")
    parser.add_argument("--captions", type=int, default=48, help="captions a batch, drawn for its first pictures")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
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
    weight = np.where(mono.numpy(), 0.25, 1.0)
    weight /= weight.sum()
    captions = Captions(concepts, AutoTokenizer.from_pretrained(args.model), args.seed)

    def views(chosen: np.ndarray, strength: float) -> torch.Tensor:
        return augment(torch.from_numpy(drawings[chosen]), mono[chosen], mirror[chosen], size, strength)

    model = build_model().train()
    size = model.config.vision_config.image_size
    whiten_patches(model, views(rng.choice(len(rows), 2048, replace=False), strength=0.5))
    average = copy.deepcopy(model)
    prototypes = Prototypes(len(concepts), model.config.vision_config.hidden_size)
    optimizers = build_optimizers(model, prototypes, args.learning_rate)

    def next_batch(strength: float) -> tuple[torch.Tensor, ...]:
        chosen = rng.choice(len(rows), args.batch_size, replace=False, p=weight)
        shown = concept_of[chosen]
        return views(chosen, strength), shown, *captions.batch(shown[: args.captions].tolist())

    ahead = ThreadPoolExecutor(max_workers=1)  # draws the next batch while the towers learn from this one
    upcoming = ahead.submit(next_batch, augmentation_strength(0))
    clock, step, losses = Clock(args.minutes * 60), 0, torch.zeros(3)
    while (progress := clock.progress()) < 1:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak"] * warm_and_cool(progress)

        pixels, shown, ids, true_of = upcoming.result()
        upcoming = ahead.submit(next_batch, augmentation_strength(progress))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = model.vision_model(pixels).pooler_output
            text = model.text_model(ids).pooler_output
        loss = sigmoid_loss(model, image, text, true_of[:, shown].T)
        of_image = prototypes(image, F.one_hot(shown, len(concepts)).float())
        of_text = prototypes(text, true_of / true_of.sum(1, keepdim=True))
        model.zero_grad()
        prototypes.zero_grad()
        (loss + of_image + of_text).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()

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
