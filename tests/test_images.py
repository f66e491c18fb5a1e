"""The commands that read images: `embed --images`, `classify`, `validate`."""

import base64
import io
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import zlib

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from conftest import MODEL, PROGRAM, ROOT, run, wait_for

PICTURES = ROOT / "demo" / "images"
TENCH = "n01440764"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def png_header(width, height):
    """A PNG file of which there is only the header, whole and right."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.fixture()
def folder(tmp_path):
    """Good images among bad ones, each bad one with a word that must be said of it."""
    images = tmp_path / "images"
    (images / "b").mkdir(parents=True)
    shutil.copy(PICTURES / "cat.png", images / "a.png")
    Image.open(PICTURES / "dog.png").convert("RGB").save(images / "b" / "dog.jpg", quality=95)
    Image.fromarray(np.zeros((10000, 1, 3), np.uint8)).save(images / "thin.png")
    bad = {
        "b/truncated.jpg": ((images / "b" / "dog.jpg").read_bytes()[:700], "the data ends before"),
        "empty.png": (b"", "empty"),
        "huge.png": (png_header(30000, 30000), "30000 × 30000"),
        "nothing.png": (png_header(0, 0), "dimensions"),
        "text.jpg": (b"This is a letter.", "not an image"),
    }
    for name, (content, _) in bad.items():
        (images / name).write_bytes(content)
    (images / "gone.png").symlink_to(tmp_path / "nowhere")
    (images / "notes.txt").write_text("not looked at")
    words = {name: word for name, (_, word) in bad.items()} | {"gone.png": "cannot be read"}
    return images, words


def embed(*args):
    return run("embed", "--demo", *args)


def test_the_three_formats_hold_the_same_and_bad_files_lose_nothing_else(tmp_path, folder):
    images, words = folder
    order = ["a.png", "b/dog.jpg", "b/truncated.jpg", "empty.png", "gone.png", "huge.png", "nothing.png", "text.jpg", "thin.png"]
    for name in ("e.npy", "e.parquet", "e.jsonl"):
        done = embed("--images", images, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert f"{len(words)} of {len(order)} images could not be embedded" in done.stderr
        for file, word in words.items():
            assert re.search(rf"{re.escape(str(images / file))}: .*{word}", done.stderr), (file, done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.files.jsonl", "e.jsonl", "e.npy", "e.parquet", "images"]

    lines = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(images / name) for name in order]
    for line, name in zip(lines, order):
        if name in words:
            assert words[name] in line["error"]
            assert line["width"] is line["height"] is line["format"] is line["embedding"] is None
        else:
            assert line["error"] is None and len(line["embedding"]) == 128
    assert [(line["width"], line["height"], line["format"]) for line in lines if not line["error"]] == [
        (128, 128, "PNG"), (128, 128, "JPEG"), (1, 10000, "PNG"),
    ]
    assert pyarrow.parquet.read_table(tmp_path / "e.parquet").to_pylist() == [
        line | {"embedding": line["embedding"] and [float(np.float32(x)) for x in line["embedding"]]} for line in lines
    ]
    array = np.load(tmp_path / "e.npy")
    listed = [json.loads(line) for line in (tmp_path / "e.files.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "row"} for row in listed] == [
        {k: v for k, v in line.items() if k != "embedding"} for line in lines
    ]
    assert array.shape == (3, 128)
    for row, line in zip(listed, lines):
        assert (row["row"] is None) == (line["embedding"] is None)
        if row["row"] is not None:
            assert np.array_equal(array[row["row"]], np.array(line["embedding"], np.float32))


def test_embeddings_are_those_of_transformers(tmp_path):
    import torch
    from transformers import AutoImageProcessor, SiglipVisionModel

    done = embed("--images", PICTURES, "-o", tmp_path / "e.npy", "--precision", "f32")
    assert done.returncode == 0, done.stderr
    files = sorted(PICTURES.iterdir())
    pixels = AutoImageProcessor.from_pretrained(MODEL)([Image.open(f).convert("RGB") for f in files], return_tensors="pt")
    with torch.no_grad():
        model = SiglipVisionModel.from_pretrained(MODEL, dtype=torch.float32).eval()
        expected = model(pixels["pixel_values"]).pooler_output.double().numpy()
    got = np.load(tmp_path / "e.npy").astype(np.float64)
    cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert len(got) == len(files) and cosine.min() >= 0.99999, cosine

    done = embed("--images", PICTURES, "-o", tmp_path / "n.npy", "--precision", "f32", "--normalize")
    assert done.returncode == 0 and np.allclose(np.linalg.norm(np.load(tmp_path / "n.npy"), axis=1), 1, atol=1e-6)


def test_files_patterns_and_lists_keep_their_order(tmp_path):
    names = ["dog.png", "cat.png", "tree.png"]
    (tmp_path / "list.txt").write_text("".join(f"{PICTURES / name}\n" for name in names))
    paths = lambda file: [json.loads(line)["path"] for line in file.read_text().splitlines()]
    for images in ([PICTURES / name for name in names], [f"@{tmp_path / 'list.txt'}"]):
        done = embed("--images", *images, "-o", tmp_path / "e.jsonl")
        assert done.returncode == 0 and paths(tmp_path / "e.jsonl") == [str(PICTURES / name) for name in names], done.stderr
    done = embed("--images", PICTURES / "ca*.png", "--images", PICTURES / "b*.png", "-o", tmp_path / "e.jsonl")
    expected = ["car.png", "cat.png", "banana.png", "bicycle.png"]
    assert done.returncode == 0 and paths(tmp_path / "e.jsonl") == [str(PICTURES / name) for name in expected]


def test_strict_stops_at_a_bad_image(tmp_path, folder):
    images, _ = folder
    done = embed("--images", images, "-o", tmp_path / "e.npy", "--strict")
    assert done.returncode == 1 and "truncated.jpg: " in done.stderr, done.stderr
    assert not (tmp_path / "e.npy").exists()


def test_a_long_low_image_is_refused_before_it_takes_memory(tmp_path):
    for size in [(1, 8388608), (8388608, 1)]:
        Image.new("1", size).save(tmp_path / "long.png")
        done = embed("--images", tmp_path / "long.png", "-o", tmp_path / "e.npy")
        assert done.returncode == 1 and "each side may have at most 65535" in done.stderr, done.stderr


def test_names_that_are_not_utf8(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    pictures = [Image.open(PICTURES / f"{name}.png").convert("RGB") for name in ("cat", "dog")]
    # Nothing but their names tells them apart.
    for name, picture in zip([b"\xfe.bmp", b"\xff.bmp"], pictures):
        path = os.path.join(os.fsencode(images), name)
        with open(path, "wb") as file:
            picture.save(file, "BMP")
        os.utime(path, (10**9, 10**9))
    done = embed("--images", images, "-o", tmp_path / "e.npy")
    assert done.returncode == 0, done.stderr
    cat, dog = np.load(tmp_path / "e.npy")
    assert not np.allclose(cat, dog)
    (tmp_path / "list").write_bytes(os.fsencode(images) + b"/\xff.bmp\n")
    for sources in ([os.path.join(os.fsencode(images), b"\xff.bmp")], [f"@{tmp_path / 'list'}".encode()]):
        command = [os.fsencode(word) for word in (PROGRAM, "embed", "--demo", "-o", tmp_path / "one.npy", "--images")]
        done = subprocess.run([*command, *sources], capture_output=True)
        assert done.returncode == 0 and np.array_equal(np.load(tmp_path / "one.npy"), [dog]), done.stderr
    shutil.copy(PICTURES / "cat.png", images / "a.png")
    done = embed("--images", images / "*", "-o", tmp_path / "e.npy")
    assert done.returncode == 0 and len(np.load(tmp_path / "e.npy")) == 1, done.stderr


def test_options_that_make_no_engine_leave_nothing_behind(tmp_path):
    other = "neon" if os.uname().machine == "x86_64" else "avx2"
    done = embed("--images", PICTURES / "cat.png", "-o", tmp_path / "e.npy", "--isa", other)
    assert done.returncode == 2 and list(tmp_path.iterdir()) == [], done.stderr
    done = embed("--images", PICTURES / "cat.png", "-o", tmp_path / "e.npy")
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_changed_during_the_run_has_the_embedding_of_what_was_read(tmp_path):
    images = many(tmp_path / "images", 6)
    output, partial = tmp_path / "e.npy", tmp_path / "e.npy.partial"
    command = ["embed", "--demo", "--images", str(images), "-o", str(output), "--strict", *SLOW]
    process = subprocess.Popen([PROGRAM, *command], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: partial.exists() and partial.stat().st_size > 1000)
    os.utime(images / "0000.png")
    log = process.stderr.read()
    assert process.wait(timeout=60) == 0 and np.load(output).shape == (6, 128), log
    assert all(json.loads(line)["error"] is None for line in (tmp_path / "e.files.jsonl").read_text().splitlines())


def catches(pid, sent):
    """Whether a process has a handler for a signal."""
    mask = re.search(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]
    return int(mask, 16) >> (sent - 1) & 1


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_labels_are_interrupted_too(tmp_path, sent):
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"label {i}\n" for i in range(100_000)))
    command = ["classify", "--demo", "--images", str(PICTURES), "--labels", str(labels), *SLOW]
    process = subprocess.Popen([PROGRAM, *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: catches(process.pid, sent))
    process.send_signal(sent)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1 and re.search(r"interrupted after \d+ of 100000 texts", log), log


def many(folder, count):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{i:04}.png")
    return folder


SLOW = ("--isa", "portable", "--precision", "f32", "--threads", "1", "--batch-size", "1")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ended_early_is_continued(tmp_path, sent):
    images = many(tmp_path / "images", 10)
    output, partial = tmp_path / "e.npy", tmp_path / "e.npy.partial"
    command = ["embed", "--demo", "--images", str(images), "-o", str(output), *SLOW]
    process = subprocess.Popen([PROGRAM, *command], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: partial.exists() and partial.stat().st_size > 1500)
    process.send_signal(sent)
    log = process.stderr.read()
    if sent == signal.SIGINT:
        assert process.wait(timeout=60) == 1 and re.search(r"\d+ of 10 images are kept in .*e.npy.partial", log), log
    else:
        process.wait(timeout=60)
    assert not output.exists() and partial.exists()
    with partial.open("ab") as file:  # as if it had been cut in the middle of a record
        file.write(b"\x50\x02\x00\x00half a record")

    done = run("embed", "--demo", "--images", images, "-o", output, *SLOW, "--normalize")
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"(\d+) images are done already", done.stderr)[1]) >= 2
    assert "dropped 17 bytes" in done.stderr
    assert not partial.exists()
    done = run("embed", "--demo", "--images", images, "-o", tmp_path / "whole.npy", *SLOW, "--normalize")
    assert done.returncode == 0 and np.array_equal(np.load(output), np.load(tmp_path / "whole.npy"))


def test_a_run_with_other_options_does_not_go_on(tmp_path, folder):
    images, _ = folder
    done = embed("--images", images, "-o", tmp_path / "e.npy", "--strict", "--batch-size", "1")
    assert done.returncode == 1 and (tmp_path / "e.npy.partial").exists(), done.stderr
    done = embed("--images", images, "-o", tmp_path / "e.npy", "--precision", "f32", "--isa", "portable")
    assert done.returncode == 1 and "another model or with other options" in done.stderr, done.stderr
    (tmp_path / "e.npy.partial").write_bytes(b"something else")
    done = embed("--images", images, "-o", tmp_path / "e.npy")
    assert done.returncode == 1 and "e.npy.partial cannot be continued" in done.stderr, done.stderr
    assert (tmp_path / "e.npy.partial").read_bytes() == b"something else"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_keeps_what_is_done(tmp_path):
    images = many(tmp_path / "images", 120)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this system does not mount a tmpfs")
    try:
        done = embed("--images", images, "-o", disk / "e.npy")
        assert done.returncode == 1 and "No space left" in done.stderr, done.stderr
        assert [path.name for path in disk.iterdir()] == ["e.npy.partial"]
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        done = embed("--images", images, "-o", disk / "e.npy")
        assert done.returncode == 0 and "images are done already" in done.stderr, done.stderr
        assert np.load(disk / "e.npy").shape == (120, 128)
    finally:
        subprocess.run(["umount", disk])


def test_wrong_usage_of_image_commands(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_text("no")
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\n\ndog\n")
    classify = ["classify", "--demo", "--images", PICTURES, "--labels"]
    for args, code, words in [
        (["embed", "--demo", "-o", "x.npy"], 2, "--text FILE, or --images"),
        (["embed", "--demo", "--text", "-", "--images", PICTURES, "-o", "x.npy"], 2, "cannot be used with"),
        (["embed", "--demo", "--images", tmp_path / "none", "-o", "x.npy"], 1, "no file or folder"),
        (["embed", "--demo", "--images", tmp_path / "empty", "-o", tmp_path / "x.npy"], 1, "holds no image"),
        (["embed", "--demo", "--images", tmp_path / "*.gif", "-o", tmp_path / "x.npy"], 1, "no file matches"),
        (["embed", "--demo", "--images", tmp_path / "broken.png", "-o", tmp_path / "x.npy"], 1, "none of the 1 images"),
        ([*classify, ""], 2, "names no label"),
        ([*classify, "cat,,dog"], 2, "label 2 of --labels is empty"),
        ([*classify, labels], 2, f"label 2 of {labels} is empty"),
        ([*classify, "cat,dog,cat"], 2, "the label `cat` is given twice in --labels: as number 1 and number 3"),
        ([*classify, "cat,dog", "--prompt", "a photo"], 2, "`a photo` has no {text}"),
        ([*classify, "cat " * 100], 1, "give --truncate"),
        (["embed", "--demo", "--images", "@", "-o", tmp_path / "x.npy"], 1, "`@` names no list"),
        (["validate", "--demo"], 2, "--valid DIR and --synsets FILE, or --reference DIR"),
    ]:
        done = run(*args)
        assert done.returncode == code and words in done.stderr, (args, done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.png", "empty", "labels.txt"]


def test_classify_scores_as_transformers_does(tmp_path, folder):
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

    labels = ["cat", "dog", "pizza", "<b>&\"house'"]
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    images, words = folder
    page = tmp_path / "page.html"
    arguments = ["classify", "--demo", "--precision", "f32", "--images", images, "--labels", tmp_path / "labels.txt"]
    done = run(*arguments, "--json", "--html", page)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["path"].removeprefix(f"{images}/"): line["error"] for line in lines if "error" in line}.keys() == words.keys()

    model = SiglipModel.from_pretrained(MODEL, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(MODEL)(
        [f"A photo of a {label}." for label in labels], padding="max_length", max_length=64, return_tensors="pt"
    )
    good = [line for line in lines if "error" not in line]
    pixels = AutoImageProcessor.from_pretrained(MODEL)([Image.open(line["path"]).convert("RGB") for line in good], return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=ids["input_ids"], pixel_values=pixels["pixel_values"]).logits_per_image
    for line, expected in zip(good, torch.sigmoid(logits).numpy()):
        scores = [(score["label"], score["score"]) for score in line["scores"]]
        assert [score for _, score in scores] == sorted((score for _, score in scores), reverse=True)
        got = [dict(scores)[label] for label in labels]
        assert np.allclose(got, expected, rtol=2e-3, atol=1e-6), (line["path"], got, expected)

    html = page.read_text()
    assert html.count("<div class=\"card\">") == len(lines)
    assert "&lt;b&gt;&amp;&quot;house&#39;" in html and "<b>" not in html
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(addresses) == len(good) and all(address.startswith("data:image/jpeg;base64,") for address in addresses)
    sizes = [Image.open(io.BytesIO(base64.b64decode(a.split(",")[1]))).size for a in addresses]
    assert sizes[0] == (128, 128) and sizes[2] == (1, 320)

    done = run(*arguments, "--top-k", "1", "--html", page)
    assert page.read_text().count("<div class=\"bar\">") == len(good)
    assert done.returncode == 0 and re.search(r"a\.png\n +0\.\d{4}  cat\n.*dog\.jpg\n +0\.\d{4}  dog\n", done.stdout), done.stdout


def test_several_prompts_are_one_ensemble(tmp_path):
    (tmp_path / "prompts.txt").write_text("a photo of a {text}\na drawing of a {text}\n")
    scores = []
    for prompts in (["a photo of a {text}"], ["a drawing of a {text}"], [f"@{tmp_path / 'prompts.txt'}"]):
        arguments = [word for prompt in prompts for word in ("--prompt", prompt)]
        done = run("classify", "--demo", "--images", PICTURES / "cat.png", "--labels", "cat", "--json", *arguments)
        scores.append(json.loads(done.stdout)["scores"][0]["score"])
    assert len(set(scores)) == 3


@pytest.fixture()
def dataset(tmp_path):
    """The demo's pictures in ImageNet's layout."""
    root = tmp_path / "data"
    lines = []
    for number, picture in enumerate(sorted(PICTURES.iterdir())):
        synset = f"n{number:08}"
        lines.append(f"{synset} {picture.stem}, {picture.stem} picture\n")
        for split, count in (("train", 12), ("valid", 2)):
            target = root / split / synset
            target.mkdir(parents=True)
            for i in range(count):
                image = Image.open(picture).convert("RGB").rotate(5 * i - 10, fillcolor="white")
                image.save(target / f"{synset}_{i + (3 if split == 'valid' else 0)}.JPEG", quality=95)
    (root / "LOC_synset_mapping.txt").write_text("".join(lines))
    return root


def validate(dataset, *args):
    places = ["--valid", dataset / "valid", "--synsets", dataset / "LOC_synset_mapping.txt"]
    return run("validate", "--demo", *places, *args)


def test_validate_is_scikit_learn_on_the_same_embeddings(tmp_path, dataset):
    neighbors = pytest.importorskip("sklearn.neighbors")
    # A copy among the training images: a neighbour at distance zero.
    copied = dataset / "valid" / "n00000004" / "n00000004_3.JPEG"
    shutil.copy(copied, dataset / "train" / "n00000005" / "n00000005_0.JPEG")
    done = validate(dataset, "--train", dataset / "train", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [method["method"] for method in found["methods"]] == ["zero-shot-knn", "zero-shot", "few-shot-knn"]

    synsets = [c["synset"] for c in found["classes"]]
    shots = [path for synset in synsets for path in sorted((dataset / "train" / synset).iterdir())[:10]]
    asked = [path for synset in synsets for path in sorted((dataset / "valid" / synset).iterdir())]
    (tmp_path / "texts").write_text("".join(f"A photo of a {c['text']}.\n" for c in found["classes"]))
    embeddings = {}
    for name, source in (("shots", shots), ("asked", asked)):
        (tmp_path / name).write_text("\n".join(map(str, source)))
        assert embed("--images", f"@{tmp_path / name}", "-o", tmp_path / f"{name}.npy").returncode == 0
        embeddings[name] = np.load(tmp_path / f"{name}.npy")
    assert embed("--text", tmp_path / "texts", "-o", tmp_path / "texts.npy").returncode == 0
    embeddings["texts"] = np.load(tmp_path / "texts.npy")

    for method, train, labels in (
        ("zero-shot-knn", embeddings["texts"], synsets),
        ("few-shot-knn", embeddings["shots"], [path.parent.name for path in shots]),
    ):
        model = neighbors.KNeighborsClassifier(n_neighbors=10, weights="distance", metric="cosine").fit(train, labels)
        votes = model.predict_proba(embeddings["asked"])
        predictions = next(m for m in found["methods"] if m["method"] == method)["predictions"]
        assert [p["path"] for p in predictions] == list(map(str, asked))
        for prediction, label, row in zip(predictions, model.predict(embeddings["asked"]), votes):
            order = [i for i in np.argsort(-row, kind="stable")[:5] if row[i] > 1e-4]
            ours = [(synset, part) for synset, part in prediction["predicted"] if part > 1e-4]
            assert ours[0][0] == label
            assert [synset for synset, _ in ours] == [model.classes_[i] for i in order]
            assert np.allclose([part for _, part in ours], row[order], atol=1e-3)
    few = next(m for m in found["methods"] if m["method"] == "few-shot-knn")
    at = next(p for p in few["predictions"] if p["path"] == str(copied))
    # Rotated by the same angle, the right class has the very picture too: both are at distance zero.
    assert [part for _, part in at["predicted"]] in ([1.0], [0.5, 0.5])
    assert few["images"] == 24 and few["top1"] >= 0.9


def test_validate_caches_and_distrusts_its_cache(tmp_path, dataset):
    cache = tmp_path / "cache"
    first = validate(dataset, "--cache", cache, "--json")
    assert first.returncode == 0, first.stderr
    files = {path: path.read_bytes() for path in cache.iterdir()}
    assert len(files) == 2, "one for each tower"
    again = validate(dataset, "--cache", cache, "--json")
    assert again.stdout == first.stdout and {path: path.read_bytes() for path in cache.iterdir()} == files
    # What is taken from the cache is what is there: a run with another prompt adds texts only.
    other = validate(dataset, "--cache", cache, "--prompt", "a drawing of a {text}", "--json")
    assert other.returncode == 0 and sum(path.read_bytes() != files[path] for path in files) == 1

    damages = [
        lambda data: data[: len(data) // 2],
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: b"garbage" * 100,
        lambda data: data[:30],
    ]
    for damage in damages:
        for path, data in files.items():
            path.write_bytes(damage(data))
        done = validate(dataset, "--cache", cache, "--json")
        assert done.returncode == 0 and done.stdout == first.stdout, done.stderr
    # Another file under the same name is another image.
    changed = next((dataset / "valid" / "n00000000").iterdir())
    Image.open(PICTURES / "dog.png").convert("RGB").save(changed, quality=95)
    done = validate(dataset, "--cache", cache, "--json")
    assert done.returncode == 0 and done.stdout != first.stdout
    assert done.stdout == validate(dataset, "--no-cache", "--json").stdout


def test_validate_names_what_is_wrong_and_goes_on(tmp_path, dataset):
    whole = json.loads(validate(dataset, "--method", "zero-shot", "--json").stdout)["methods"][0]
    mapping = dataset / "LOC_synset_mapping.txt"
    with mapping.open("a") as file:
        file.write(f"{TENCH}\nn99999999 nothing that is here\nn00000000 twice\n")
    (dataset / "valid" / "n99999999").mkdir()
    (dataset / "valid" / "stranger").mkdir()
    shutil.rmtree(dataset / "valid" / "n00000001")
    next((dataset / "valid" / "n00000002").iterdir()).write_bytes(b"not an image")
    page = tmp_path / "page.html"
    done = validate(dataset, "--method", "zero-shot", "--json", "--html", page)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    words = [
        f"line 13 of {mapping}: `{TENCH}` has no text",
        f"line 15 of {mapping}: `n00000000` is there since line 1",
        "n99999999 holds no image",
        "n00000001 is missing",
        "stranger is the folder of no class",
        "not an image: it begins with `not an i`",
    ]
    assert len(found["problems"]) == len(words)
    for word in words:
        assert word in done.stderr and any(word in problem for problem in found["problems"]), word
    left = {p["path"]: p["predicted"] for p in found["methods"][0]["predictions"]}
    before = {p["path"]: p["predicted"] for p in whole["predictions"]}
    assert len(left) == len(before) - 3
    assert all([x for x in left[path] if x[0] != "n99999999"][:4] == [x for x in before[path]][:4] for path in left)
    assert "stranger is the folder of no class" in page.read_text()

    for args, words in [
        (["--train", tmp_path / "none"], "none is not a folder"),
        (["--method", "few-shot-knn"], "give --train DIR"),
        (["--prompt", "no place"], "`no place` has no {text}"),
    ]:
        done = validate(dataset, *args)
        assert done.returncode != 0 and words in done.stderr, done.stderr
    mapping.unlink()
    done = validate(dataset)
    assert done.returncode == 1 and f"{mapping} cannot be read" in done.stderr, done.stderr


def test_validate_reports_on_one_page(tmp_path, dataset):
    mapping = dataset / "LOC_synset_mapping.txt"
    mapping.write_text(mapping.read_text().replace("dog picture", "<i>dog</i>"))
    page = tmp_path / "page.html"
    done = validate(dataset, "--train", dataset / "train", "--html", page)
    assert done.returncode == 0, done.stderr
    for method in ("zero-shot-knn", "zero-shot", "few-shot-knn"):
        assert re.search(rf"^{method} +24 +[01]\.\d{{4}} +[01]\.\d{{4}}$", done.stdout, re.MULTILINE), done.stdout
    assert "least accurate classes, few-shot-knn" in done.stdout and "most confused pairs" in done.stdout
    html = page.read_text()
    assert "&lt;i&gt;dog&lt;/i&gt;" in html and "<i>" not in html
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    matrices = [np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data in pictures]
    assert [matrix.shape for matrix in matrices] == [(12, 12, 4)] * 3
    # Nearly all pictures are named rightly: the diagonal is solid, the rest nearly empty.
    assert np.mean(matrices[2][..., 3].diagonal()) > 200 and np.mean(matrices[2][..., 3]) < 40


def test_validate_compares_with_published_logits(tmp_path):
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

    names, texts = ["cat.png", "dog.png"], ["a cat", "a dog", "a house"]
    model = SiglipModel.from_pretrained(MODEL, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(MODEL)(texts, padding="max_length", max_length=64, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(MODEL)([Image.open(PICTURES / n).convert("RGB") for n in names], return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=ids["input_ids"], pixel_values=pixels["pixel_values"]).logits_per_image - model.logit_bias
    logits = logits.tolist()
    logits[1][2] += 3.0
    entry = {
        "model": "the demo", "bias": model.logit_bias.item(), "texts": texts,
        "images": [[name, [128, 128]] for name in names], "tempered_logits_without_bias": logits,
    }
    (tmp_path / "one").mkdir()
    for name in names:
        shutil.copy(PICTURES / name, tmp_path / "one")
    (tmp_path / "logits.json").write_text(json.dumps({"one": entry}))
    done = run("validate", "--demo", "--precision", "f32", "--reference", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["demonstrations"]
    assert one["pairs"] == 6 and abs(one["largest_difference"] - 3) < 0.01 and one["logits"][0]["text"] == "a house"
    assert all(abs(logit["difference"]) < 0.01 for logit in one["logits"][1:])
    done = run("validate", "--demo", "--precision", "f32", "--reference", tmp_path)
    assert re.search(r"6 logits, off by 0\.50\d\d in the mean, (3\.00|2\.99)\d\d at most", done.stdout), done.stdout

    published = {"one": entry, "none": entry | {"texts": []}}
    (tmp_path / "logits.json").write_text(json.dumps(published))
    done = run("validate", "--demo", "--precision", "f32", "--reference", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and [one["demonstration"] for one in found["demonstrations"]] == ["one"], done.stderr
    assert "none has no texts or no images" in done.stderr and len(found["problems"]) == 1

    (tmp_path / "one" / "dog.png").unlink()
    done = run("validate", "--demo", "--reference", tmp_path)
    assert done.returncode == 0 and "dog.png: it cannot be read" in done.stderr and "3 logits" in done.stdout, done
    (tmp_path / "logits.json").write_text("{")
    done = run("validate", "--demo", "--reference", tmp_path)
    assert done.returncode == 1 and "logits.json cannot be read" in done.stderr, done.stderr
