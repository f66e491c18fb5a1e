"""Zero-shot accuracy of the demo model on the hand that it never saw, and that hand as an image folder.

    python evaluate.py WORK_DIRECTORY model
    python evaluate.py WORK_DIRECTORY model --export-dir DIR

Every base emoji is a category (skin tones count as one), its text is its Unicode name, and a picture counts as right
when its own category is among the best k of all. With --export-dir the pictures are also written in the layout of
ImageNet, as `siglip validate` reads it: the held-out ones as DIR/valid/ID/ID_1.png, those of the other hands as
DIR/train/ID/ID_1.png, ID_2.png, …, and DIR/LOC_synset_mapping.txt with lines `ID name, synonym, …`.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

from texts import tokenize

ENSEMBLE = ("{}", "a photo of a {}", "a drawing of a {}", "an emoji of {}", "an icon of a {}", "a cartoon {}")
SCENE = ("dog face", "pizza", "automobile", "rocket", "guitar", "red apple")
SCENE_LABELS = ("a dog", "a pizza", "a car", "a rocket", "a guitar", "an apple", "a tree", "a house")


def on_white(rgba: np.ndarray) -> Image.Image:
    """A premultiplied drawing on white paper."""
    pixels = rgba[..., :3].astype(np.uint16) + 255 - rgba[..., 3:]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@torch.no_grad()
def embed_images(model: SiglipModel, processor, images: list[Image.Image]) -> torch.Tensor:
    parts = []
    for start in range(0, len(images), 256):
        pixels = processor(images[start : start + 256], return_tensors="pt")["pixel_values"]
        parts.append(model.vision_model(pixels).pooler_output)
    return F.normalize(torch.cat(parts).float(), dim=1)


@torch.no_grad()
def embed_texts(model: SiglipModel, tokenizer, texts: list[str]) -> torch.Tensor:
    parts = [model.text_model(tokenize(tokenizer, texts[i : i + 256])).pooler_output for i in range(0, len(texts), 256)]
    return F.normalize(torch.cat(parts).float(), dim=1)


def report(title: str, image: torch.Tensor, text: torch.Tensor) -> None:
    """One line of the table, for picture i being of category i: accuracy beside that of guessing."""
    n = len(text)
    right = (image @ text.T).topk(5, dim=1).indices == torch.arange(n)[:, None]
    top1, top5 = right[:, 0].float().mean().item(), right.any(1).float().mean().item()
    print(f"{title:46} {n:5}  {top1:6.1%} {1 / n:6.2%}  {top5:6.1%} {5 / n:6.2%}")


def export(folder: Path, work: Path, images: list[Image.Image], shown: list[dict], concepts: list[dict]) -> None:
    """Write the pictures and the mapping of their categories as ImageNet has them."""
    rows = json.loads((work / "train.json").read_text())
    others = zip((concepts[row["concept"]] for row in rows), map(on_white, np.load(work / "train.npy", mmap_mode="r")))
    ids = {concept["id"] for concept in shown}
    for split, pictures in (("valid", zip(shown, images)), ("train", others)):
        numbers = Counter()
        for concept, image in pictures:
            if concept["id"] in ids:
                numbers[concept["id"]] += 1
                path = folder / split / concept["id"] / f"{concept['id']}_{numbers[concept['id']]}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    lines = (f"{c['id']} {', '.join([c['name'], *c['synonyms']])}\n" for c in shown)
    (folder / "LOC_synset_mapping.txt").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="work directory of prepare.py")
    parser.add_argument("model", type=Path)
    parser.add_argument("--export-dir", type=Path, help="also write the held-out pictures as an image folder")
    args = parser.parse_args()

    concepts = json.loads((args.work / "concepts.json").read_text())
    rows = json.loads((args.work / "heldout.json").read_text())
    images = [on_white(rgba) for rgba in np.load(args.work / "heldout.npy")]
    shown = [concepts[row["concept"]] for row in rows]
    if args.export_dir:
        export(args.export_dir, args.work, images, shown, concepts)

    model = SiglipModel.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    image = embed_images(model, AutoImageProcessor.from_pretrained(args.model), images)
    names = [concept["name"] for concept in shown]
    by_template = {t: embed_texts(model, tokenizer, [t.format(name) for name in names]) for t in ENSEMBLE}
    ensemble = F.normalize(torch.stack(list(by_template.values())).mean(0), dim=1)

    is_flag = torch.tensor([concept["flag"] for concept in shown])
    main_set, flags = (~is_flag).nonzero()[:, 0], is_flag.nonzero()[:, 0]
    print(f"{'':46} {'of':>5}  {'top-1':>6} {'chance':>6}  {'top-5':>6} {'chance':>6}")
    for template, text in by_template.items():
        report(f'without country flags, "{template}"', image[main_set], text[main_set])
    report("without country flags, mean of the templates", image[main_set], ensemble[main_set])
    report("country flags alone, mean of the templates", image[flags], ensemble[flags])
    report("everything, mean of the templates", image, ensemble)

    scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
    scores = torch.sigmoid(image[main_set] @ by_template["a photo of a {}"][main_set].T * scale + bias)
    right, wrong = scores.diagonal(), scores[~torch.eye(len(scores), dtype=torch.bool)]
    print(f"\nscores: scale {scale:.2f}, bias {bias:.2f}")
    for title, values in (("right pairs", right), ("wrong pairs", wrong)):
        low, middle, high = np.quantile(values.numpy(), (0.1, 0.5, 0.9))
        print(f"  {title}: 10 % below {low:.5f}, median {middle:.5f}, 10 % above {high:.5f}, mean {values.mean():.5f}")

    print(f"\n{'':12}" + "".join(f"{label:>11}" for label in SCENE_LABELS))
    text = embed_texts(model, tokenizer, [f"a photo of {label}" for label in SCENE_LABELS])
    for name in SCENE:
        values = torch.sigmoid(image[names.index(name)] @ text.T * scale + bias)
        print(f"{name:12}" + "".join(f"{value:11.4f}" for value in values.tolist()))


if __name__ == "__main__":
    main()
