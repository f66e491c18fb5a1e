"""Compares the speed of decoding, resizing and normalising image files: ours, Pillow and torchvision, one thread each.

    cargo build --release -p siglip --example prepare_images
    python tools/compare_image_speed.py target/release/examples/prepare_images FILE… [--size 384] [--rounds 7]

All three turn the same bytes, already in memory, into float32 [3, size, size]: Pillow with NumPy as the slow processor
of `transformers`, torchvision with `decode_image`, antialiased resize and normalisation as its fast one. Each file's
figure is the fastest round; rounds of the three alternate. Pillow-SIMD takes part where it is what `import PIL` finds.
"""

import argparse
import io
import pathlib
import subprocess
import time

import numpy as np
import PIL
from PIL import Image

try:
    import torch
    import torchvision
    from torchvision.transforms.v2 import functional as F
except ImportError:
    torchvision = None


def with_pillow(data, size):
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    values = np.asarray(image).astype(np.float32) * np.float32(1 / 255)
    return np.ascontiguousarray(((values - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1))


def with_torchvision(data, size):
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    image = torchvision.io.decode_image(buffer, mode=torchvision.io.ImageReadMode.RGB)
    image = F.resize(image, [size, size], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    return image.float().sub_(127.5).div_(127.5)


def timed(work, data, size):
    start = time.perf_counter()
    work(data, size)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    others = {"Pillow": with_pillow}
    print(f"Pillow {PIL.__version__}", end="")
    if torchvision:
        torch.set_num_threads(1)
        others["torchvision"] = with_torchvision
        print(f", torch {torch.__version__}, torchvision {torchvision.__version__}", end="")
    print(f"; {arguments.size} × {arguments.size}, milliseconds, fastest of {arguments.rounds} rounds")

    contents = {file: pathlib.Path(file).read_bytes() for file in arguments.files}
    best = {name: dict.fromkeys(contents, float("inf")) for name in ["ours", *others]}
    for _ in range(arguments.rounds):
        command = [arguments.program, str(arguments.size), "bicubic", "1", *contents]
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
            file, *rest = line.split("\t")
            if rest[0] != "error":
                best["ours"][file] = min(best["ours"][file], float(rest[0]))
        for name, work in others.items():
            for file, data in contents.items():
                try:
                    best[name][file] = min(best[name][file], timed(work, data, arguments.size))
                except (OSError, RuntimeError):
                    pass
    print("".join(f"{name:>13}" for name in best) + "".join(f"{'ours/' + name:>18}" for name in others) + "  file")
    totals = dict.fromkeys(best, 0.0)
    for file in contents:
        times = {name: seconds[file] for name, seconds in best.items()}
        ratios = [times["ours"] / times[name] for name in others]
        if max(times.values()) < float("inf"):
            totals = {name: totals[name] + times[name] for name in totals}
        print("".join(f"{seconds * 1e3:13.2f}" for seconds in times.values()) + "".join(f"{r:18.2f}" for r in ratios), "", pathlib.Path(file).name)
    ratios = [totals["ours"] / totals[name] for name in others]
    print("".join(f"{seconds * 1e3:13.2f}" for seconds in totals.values()) + "".join(f"{r:18.2f}" for r in ratios), "", "all that all could read")


if __name__ == "__main__":
    main()
