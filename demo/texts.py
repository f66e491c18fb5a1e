"""What the training says about a picture, and which pictures a text is true of."""

import random
import string

import torch

MAX_LENGTH = 64
TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "a photo of a {}",
    "this is a photo of {}",
    "a picture of {}",
    "a drawing of a {}",
    "an emoji of {}",
    "{} emoji",
    "an icon of a {}",
    "clip art of {}",
    "an illustration of the {}",
    "a cartoon {}",
    "{} on a plain background",
)


def canonical(text: str) -> str:
    """What `SiglipTokenizer` does to a text first: no punctuation, lower case, single spaces."""
    return " ".join(text.translate(str.maketrans("", "", string.punctuation)).lower().split())


class Captions:
    """Draws captions for concepts and knows, for every caption drawn, all concepts that it describes.

    A caption is a template around one name, or around two keywords. Concepts that share the name, or both keywords,
    are positives of that caption whoever it was drawn for: to call them negatives would teach a falsehood.
    """

    def __init__(self, concepts: list[dict], tokenizer, seed: int) -> None:
        self._random = random.Random(seed)
        self._tokenizer = tokenizer
        self._names = [canonical(c["name"]) for c in concepts]
        self._synonyms = [[canonical(s) for s in c["synonyms"]] for c in concepts]
        self._keywords = [[k for k in map(canonical, c["keywords"]) if len(k) > 2] for c in concepts]
        self._true_of: dict[str, torch.Tensor] = {}
        for i, (name, synonyms, keywords) in enumerate(zip(self._names, self._synonyms, self._keywords)):
            for phrase in [name, *synonyms, *keywords]:
                self._true_of.setdefault(phrase, torch.zeros(len(concepts), dtype=torch.bool))[i] = True

    def draw(self, concept: int) -> tuple[str, torch.Tensor]:
        """A caption for the concept, and a mask over all concepts of those it is true of."""
        rng = self._random
        dice = rng.random()
        if dice < 0.3 and self._keywords[concept]:
            phrases = rng.choices(self._keywords[concept], k=rng.choice((1, 2)))
        elif dice < 0.5 and self._synonyms[concept]:
            phrases = [rng.choice(self._synonyms[concept])]
        else:
            phrases = [self._names[concept]]
        caption = rng.choice(TEMPLATES).format(" ".join(dict.fromkeys(phrases)))
        return caption, torch.stack([self._true_of[phrase] for phrase in phrases]).all(0)

    def batch(self, concepts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [n, 64] of one caption a concept, and the mask [n, all concepts] of what each is true of."""
        captions, masks = zip(*map(self.draw, concepts))
        return tokenize(self._tokenizer, list(captions)), torch.stack(masks)


def tokenize(tokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids as SigLIP wants them: always padded to the full context."""
    return tokenizer(
        [canonical(t) for t in texts], padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    )["input_ids"]
