#!/usr/bin/env python3
"""Compares `siglip validate` with transformers and scikit-learn, image by image, on the same weights and folders.

    pip install torch transformers sentencepiece protobuf pillow numpy scikit-learn
    siglip validate --model MODEL --valid DIR --train DIR --synsets FILE --precision f32 --json > ours.json
    python tools/compare_validate.py ours.json --model MODEL --valid DIR --train DIR --synsets FILE

It embeds the images and texts with transformers in f32, fits `KNeighborsClassifier(n_neighbors=10, weights="distance",
metric="cosine")`, and counts the images whose first prediction, and whose five, are others than ours. A difference is a
tie if the classes cannot be told apart: their parts of the votes, or their cosines, differ by less than the rounding of
the two programs' embeddings makes of them, or the tenth and the eleventh neighbour are equally near, as where one picture
lies in the folders of two classes, and either may vote. Exit code 1 if anything but ties differs.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

BATCH = 64
TIE = 2e-3  # of the larger value
EDGE = 2e-6  # of a distance


@torch.no_grad()
def embed_images(model, processor, paths):
    parts = []
    for start in range(0, len(paths), BATCH):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + BATCH]]
        parts.append(model.vision_model(processor(images, return_tensors="pt")["pixel_values"]).pooler_output)
    return torch.cat(parts).numpy()


@torch.no_grad()
def embed_texts(model, tokenizer, texts):
    length = model.config.text_config.max_position_embeddings
    parts = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        ids = tokenizer(batch, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        parts.append(model.text_model(ids["input_ids"]).pooler_output)
    return torch.cat(parts).numpy()


def normalized(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def class_embeddings(model, tokenizer, texts, prompts):
    by_prompt = [normalized(embed_texts(model, tokenizer, [p.replace("{text}", t) for t in texts])) for p in prompts]
    return by_prompt[0] if len(prompts) == 1 else normalized(np.mean(by_prompt, axis=0))


def knn(train, labels, queries):
    """For each query, the value of every class, which is its part of the votes; the first class; and whether the last
    neighbour that votes is as near as the next, which does not."""
    neighbours = min(10, len(train))
    model = KNeighborsClassifier(n_neighbors=neighbours, weights="distance", metric="cosine").fit(train, labels)
    values = np.zeros((len(queries), labels.max() + 1))
    values[:, model.classes_] = model.predict_proba(queries)
    first = model.predict(queries)
    assert (values[np.arange(len(values)), first] == values.max(1)).all()
    tied = np.zeros(len(queries), bool)
    if len(train) > neighbours:
        distances, _ = model.kneighbors(queries, neighbours + 1)
        tied = distances[:, -1] - distances[:, -2] < EDGE
    return values, first, tied


def top(values, first):
    """The five first classes of a row, those without any votes left out, ties in the order of the classes."""
    order = [int(i) for i in np.argsort(-values, kind="stable")[:5] if values[i] > 0]
    return [first] + [i for i in order if i != first]


def compare(method, predictions, index, values, first, tied):
    """Counts the images with other first predictions and other fives, and those of them that are more than ties."""
    counts = {"first": 0, "five": 0, "first, no tie": 0, "five, no tie": 0}
    right = {1: 0, 5: 0}
    for prediction, row, one, edge in zip(predictions, values, first, tied):
        ours = [index[synset] for synset, _ in prediction["predicted"]]
        theirs = top(row, int(one))
        truth = index[prediction["synset"]]
        right[1] += theirs[0] == truth
        right[5] += truth in theirs
        # Places where the two orders differ, each with how far apart the two classes there are by their values.
        gaps = [abs(row[a] - row[b]) / max(row[a], row[b], 1e-9) for a, b in zip(ours, theirs) if a != b]
        tie = edge or (all(gap < TIE for gap in gaps) and len(ours) == len(theirs))
        for name, other in (("first", ours[0] != theirs[0]), ("five", ours != theirs)):
            counts[name] += other
            counts[f"{name}, no tie"] += other and not tie
    images = len(predictions)
    print(
        f"{method['method']:14} top-1 {method['top1']:.4f} here, {right[1] / images:.4f} there; "
        f"top-5 {method['top5']:.4f}, {right[5] / images:.4f}; of {images} images "
        f"{counts['first']} have another first class ({counts['first, no tie']} more than a tie), "
        f"{counts['five']} another five or order ({counts['five, no tie']} more than ties)"
    )
    return counts["first, no tie"] + counts["five, no tie"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path, help="what `siglip validate --json` printed")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--synsets", type=Path, required=True)
    args = parser.parse_args()

    ours = json.loads(args.ours.read_text())
    lines = [line.split() for line in args.synsets.read_text(encoding="utf-8").splitlines() if line.strip()]
    names, texts = [words[0] for words in lines], [" ".join(words[1:]) for words in lines]
    index = {name: i for i, name in enumerate(names)}
    assert [c["synset"] for c in ours["classes"]] == names and [c["text"] for c in ours["classes"]] == texts

    model = SiglipModel.from_pretrained(args.model, dtype=torch.float32).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(args.model), AutoTokenizer.from_pretrained(args.model)
    found = [(path, i) for i, name in enumerate(names) for path in sorted((args.valid / name).iterdir())]
    queries = embed_images(model, processor, [path for path, _ in found])
    by_name = class_embeddings(model, tokenizer, texts, ours["prompts"])

    wrong = 0
    for method in ours["methods"]:
        predictions = method["predictions"]
        assert [Path(p["path"]).resolve() for p in predictions] == [path.resolve() for path, _ in found]
        if method["method"] == "zero-shot":
            values = normalized(queries) @ by_name.T
            first, tied = values.argmax(1), np.zeros(len(values), bool)
        elif method["method"] == "zero-shot-knn":
            values, first, tied = knn(by_name, np.arange(len(names)), queries)
        else:
            shots = [
                (path, i)
                for i, name in enumerate(names)
                if (args.train / name).is_dir()
                for path in sorted((args.train / name).iterdir())[:10]
            ]
            train = embed_images(model, processor, [path for path, _ in shots])
            values, first, tied = knn(train, np.array([i for _, i in shots]), queries)
        wrong += compare(method, predictions, index, values, first, tied)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
