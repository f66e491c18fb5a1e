#!/usr/bin/env python3
"""Makes fixtures/knn.json: embeddings, and what scikit-learn's nearest-neighbour classifier says of them.

    pip install numpy scikit-learn
    python tools/make_knn_fixture.py

Each case has training embeddings with classes, queries, and for each query the label of `predict` and the five most
likely classes of `predict_proba` with their probabilities, those without a vote left out and equal ones by class.

`exact_*`: vectors of ±1/2 and of few such values, whose lengths, products and distances single precision holds exactly,
so that ties are ties and zeros are zeros: equal votes, equal distances, queries that are training embeddings, several
times and of several classes. Where a tie of distances decides who is among the ten, NumPy's partition picks at will;
the script checks that each query has a clear tenth. `random_*`: normal vectors around class means, as embeddings are.
"""

import json
from pathlib import Path

import numpy as np
import sklearn
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import KNeighborsClassifier

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "knn.json"
K = 10
MOST = 50  # queries of a case


def exact(rng, width, values, training, classes):
    """Vectors with `values` entries of ±1/2 and the rest zeros: of length sqrt(values) / 2, a power of two."""
    base = np.zeros((training, width), np.float32)
    for row in base:
        row[rng.choice(width, values, replace=False)] = rng.choice([-0.5, 0.5], values)
    base = base[rng.integers(0, training, training)]  # drawn with repetition: some are there several times
    queries = np.concatenate([base, base[rng.integers(0, training, 400)][:, rng.permutation(width)]])
    return base, rng.integers(0, classes, training), queries


def random(rng, width, training, classes, queries):
    means = rng.normal(size=(classes, width))
    labels = rng.integers(0, classes, training)
    train = (means[labels] + rng.normal(size=(training, width)) * 1.5).astype(np.float32)
    asked = (means[rng.integers(0, classes, queries)] + rng.normal(size=(queries, width)) * 1.5).astype(np.float32)
    return train, labels, asked


def shortest(array):
    """The numbers that are written shortest of those that read as these in single precision."""
    return [float(str(x)) for x in array.ravel()]


def case(train, labels, queries):
    distances = np.sort(cosine_distances(queries, train), axis=1)
    if len(train) > K:  # a query whose tenth neighbour is not clear has no one answer
        queries = queries[distances[:, K] - distances[:, K - 1] > 1e-6]
    queries = queries[:MOST]
    model = KNeighborsClassifier(n_neighbors=K, weights="distance", metric="cosine").fit(train, labels)
    answers = []
    for label, votes in zip(model.predict(queries), model.predict_proba(queries)):
        order = np.lexsort((model.classes_, -votes))[:5]
        top = [[int(model.classes_[i]), float(votes[i])] for i in order if votes[i] > 0]
        answers.append({"label": int(label), "top": top})
    return {
        "width": train.shape[1],
        "training": shortest(train),
        "classes": labels.tolist(),
        "queries": shortest(queries),
        "answers": answers,
    }


def main():
    rng = np.random.default_rng(5)
    cases = {
        "exact_ties_few_classes": case(*exact(rng, 12, 4, 60, 4)),
        "exact_ties_many_classes": case(*exact(rng, 20, 4, 60, 30)),
        "exact_wide": case(*exact(rng, 40, 16, 80, 10)),
        "exact_all_are_neighbours": case(*exact(rng, 10, 4, 10, 3)),
        "random": case(*random(rng, 24, 150, 12, 80)),
        "random_one_each": case(*random(rng, 33, 40, 40, 60)),
    }
    for name, made in cases.items():
        zeros = sum(answer["top"][0][1] == 1 for answer in made["answers"])
        tied = sum(len(a["top"]) > 1 and a["top"][0][1] == a["top"][1][1] for a in made["answers"])
        print(f"{name}: {len(made['answers'])} queries, {zeros} all votes for one class, {tied} with tied first classes")
    made_by = f"tools/make_knn_fixture.py, scikit-learn {sklearn.__version__}, numpy {np.__version__}"
    OUT.write_text(json.dumps({"made_by": made_by, "cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
