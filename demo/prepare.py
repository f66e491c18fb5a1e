"""Fetch the emoji art and its vocabulary from npm and turn them into training data.

The work directory afterwards holds

    npm/            the unpacked packages
    concepts.json   one entry per emoji: id, name, synonyms, keywords, is it a country flag, does a mirror image harm it
    train.npy       uint8 [n, 128, 128, 4], premultiplied RGBA, every hand but the held-out one
    train.json      for each row of train.npy: concept (index into concepts.json) and hand
    heldout.npy     the same for the held-out hand
    heldout.json

A "hand" is one artist's way to draw the whole emoji repertoire. Usage:

    python prepare.py WORK_DIRECTORY
"""

import argparse
import io
import json
import re
import subprocess
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

SIZE = 128
HELD_OUT = "twemoji"


@dataclass(frozen=True)
class Hand:
    """One artist's drawings, an Iconify set on npm."""

    name: str
    package: str
    version: str


HANDS = (
    Hand("noto", "@iconify-json/noto", "1.2.9"),
    Hand("noto-v1", "@iconify-json/noto-v1", "1.2.5"),
    Hand("fluent", "@iconify-json/fluent-emoji", "1.2.7"),
    Hand("fluent-flat", "@iconify-json/fluent-emoji-flat", "1.2.6"),
    Hand("fluent-mono", "@iconify-json/fluent-emoji-high-contrast", "1.2.6"),
    Hand("fxemoji", "@iconify-json/fxemoji", "1.2.2"),
    Hand("emojione", "@iconify-json/emojione", "1.2.3"),
    Hand("emojione-mono", "@iconify-json/emojione-monotone", "1.2.1"),
    Hand("streamline", "@iconify-json/streamline-emojis", "1.2.4"),
    Hand(HELD_OUT, "@iconify-json/twemoji", "1.2.5"),
)
EMOJIBASE = ("emojibase-data", "17.0.0")
EMOJILIB = ("emojilib", "4.0.3")
SHORTCODES = ("cldr", "emojibase", "github", "iamcal", "joypixels")
DIRECTED_GROUPS = {8, 9}  # symbols, flags
DIRECTED = re.compile(r"\b(left|right|leftwards|rightwards|clock|thirty|calendar|moon|globe|arrow|keyboard|music\w*)\b")
FLAG_SUBGROUPS = {"country-flag", "subdivision-flag"}


def fetch(package: str, version: str, npm: Path) -> Path:
    """Download one npm package, once, and return the folder it was unpacked into."""
    folder = npm / f"{package.replace('@', '').replace('/', '-')}-{version}"
    if not folder.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", npm, f"{package}@{version}"]
        archive = npm / subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        unpacked = folder.with_suffix(".part")
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        (unpacked / "package").rename(folder)
        unpacked.rmdir()
        archive.unlink()
    return folder


def code_key(hexcode: str) -> str:
    """A code point sequence in a form that does not depend on variation selectors or case."""
    return "-".join(part.lstrip("0") for part in hexcode.lower().split("-") if part != "fe0f")


def name_key(name: str) -> str:
    """A name without case, spaces and punctuation, as the art packages spell it in different ways."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def load_concepts(npm: Path) -> list[dict]:
    """Every emoji that is not a mere component, with all that is known of its name. Skin tones count as one emoji."""
    emojibase = fetch(*EMOJIBASE, npm)
    emojilib = json.loads((fetch(*EMOJILIB, npm) / "dist/emoji-en-US.json").read_text())
    subgroups = json.loads((emojibase / "meta/groups.json").read_text())["subgroups"]
    shortcodes = [json.loads((emojibase / f"en/shortcodes/{preset}.json").read_text()) for preset in SHORTCODES]

    concepts = []
    for entry in json.loads((emojibase / "en/data.json").read_text()):
        if "group" not in entry or entry["group"] == 2:  # regional indicators; skin tones and hair styles
            continue
        name = entry["label"].replace(": ", " ").replace(":", " ")
        codes = [code for preset in shortcodes for code in as_list(preset.get(entry["hexcode"], []))]
        synonyms = [code.replace("_", " ").replace("-", " ") for code in codes]
        if entry["label"].startswith("flag: "):
            country = entry["label"].removeprefix("flag: ")
            synonyms = [f"flag of {country}", f"flag for {country}", f"{country} flag"]
        elif len(entry["emoji"].rstrip("\ufe0f")) == 1:
            synonyms.append(unicodedata.name(entry["emoji"][0], "").lower().replace("-", " "))
        keywords = entry.get("tags", []) + emojilib.get(entry["emoji"], [])
        concepts.append(
            {
                "id": f"n{entry['order']:08d}",
                "emoji": entry["emoji"],
                "hexcode": entry["hexcode"],
                "name": name,
                "synonyms": unique(s for s in synonyms if s != name and re.search("[a-z]{2}", s)),
                "keywords": unique(k.replace("_", " ").strip().lower() for k in keywords),
                "flag": subgroups[str(entry["subgroup"])] in FLAG_SUBGROUPS,
                "mirror": entry["group"] not in DIRECTED_GROUPS and not DIRECTED.search(name),
            }
        )
    return concepts


def unique(items: Iterator[str]) -> list[str]:
    return [item for item in dict.fromkeys(items) if item]


def iconify_names(folder: Path) -> dict[str, str]:
    """The names that one Iconify set uses, its aliases among them, with the code points they stand for."""
    icons = json.loads((folder / "icons.json").read_text())
    code_of = {name: code for code, name in json.loads((folder / "chars.json").read_text()).items()}
    aliases = {alias: a["parent"] for alias, a in icons.get("aliases", {}).items() if not a.keys() - {"parent"}}
    code_of |= {alias: code_of[parent] for alias, parent in aliases.items() if parent in code_of}
    return code_of


def name_index(concepts: list[dict], npm: Path) -> dict[str, int]:
    """Map every known spelling of a name to its concept; the surest source of a spelling wins."""
    index: dict[str, int] = {}
    by_code = {code_key(c["hexcode"]): i for i, c in enumerate(concepts)}
    for i, concept in enumerate(concepts):
        index.setdefault(name_key(concept["name"]), i)
    for hand in HANDS:
        if hand.name in ("noto", "fluent-flat"):  # the sets that come with code points
            for name, code in iconify_names(fetch(hand.package, hand.version, npm)).items():
                if code_key(code) in by_code:
                    index.setdefault(name_key(name), by_code[code_key(code)])
    for i, concept in enumerate(concepts):
        for synonym in concept["synonyms"]:
            if len(name_key(synonym)) > 2:
                index.setdefault(name_key(synonym), i)
    return index


def render(icon: dict, defaults: dict) -> Image.Image:
    """Rasterise one Iconify icon; `hFlip` is the only transformation that the sets use."""
    left, top, width, height = (
        icon.get(key, defaults.get(key, fallback))
        for key, fallback in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if icon.get("hFlip") else image


def drawings(hand: Hand, npm: Path, concepts: list[dict], by_name: dict[str, int]) -> Iterator[tuple[int, Image.Image]]:
    """All drawings of one hand that show a known concept, each with that concept."""
    folder = fetch(hand.package, hand.version, npm)
    by_code = {code_key(c["hexcode"]): i for i, c in enumerate(concepts)}
    data = json.loads((folder / "icons.json").read_text())
    icons = dict(data["icons"])
    icons |= {alias: icons[a["parent"]] | a for alias, a in data.get("aliases", {}).items() if a["parent"] in icons}
    codes = iconify_names(folder)
    seen = set()
    for name, icon in icons.items():
        if codes:
            concept = by_code.get(code_key(codes.get(name, "")))
        else:
            concept = by_name.get(name_key(re.sub(r"-[1-3]$", "", name)))  # Streamline numbers its variants
        if concept is not None and (concept, icon["body"]) not in seen:
            seen.add((concept, icon["body"]))
            yield concept, render(icon, data)


def premultiplied(image: Image.Image) -> np.ndarray:
    """RGBA pixels with the colours scaled by alpha, so that they can be averaged when the picture is resized."""
    pixels = np.array(image.convert("RGBA"), dtype=np.uint16)
    pixels[..., :3] = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    return pixels.astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="work directory, created when absent")
    work = parser.parse_args().work
    npm = work / "npm"
    npm.mkdir(parents=True, exist_ok=True)

    concepts = load_concepts(npm)
    by_name = name_index(concepts, npm)
    (work / "concepts.json").write_text(json.dumps(concepts, ensure_ascii=False, indent=1))

    for split, hands in (
        ("train", [h for h in HANDS if h.name != HELD_OUT]),
        ("heldout", [h for h in HANDS if h.name == HELD_OUT]),
    ):
        pixels, rows = [], []
        for hand in hands:
            for concept, image in drawings(hand, npm, concepts, by_name):
                pixels.append(premultiplied(image))
                rows.append({"concept": concept, "hand": hand.name})
        np.save(work / f"{split}.npy", np.stack(pixels))
        (work / f"{split}.json").write_text(json.dumps(rows))
        for hand, count in Counter(row["hand"] for row in rows).items():
            print(f"{split:8} {hand:14} {count:5} of {len(concepts)} concepts")


if __name__ == "__main__":
    main()
