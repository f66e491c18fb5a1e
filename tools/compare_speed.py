#!/usr/bin/env python3
"""Texts per second of this program and of PyTorch, in turns, in one run.

    python tools/make_so400m.py DIR --tower text
    python tools/compare_speed.py DIR [--program target/release/siglip] [--threads 2] [--rounds 3]

For each precision and batch size the two are measured one after the other, round by round (A B A B …), each in a
process of its own that rests while the other runs. PyTorch is `transformers`' SiglipTextModel, eager, with the same
number of threads. Prints the best and the median of the rounds, the ratio of the medians, and the lowest cosine of
both to PyTorch in f32 over the same texts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TEXTS = [f"a photo of {n} {thing}, seen from the {side}" for n in ("one", "two") for thing in
         ("cats", "red cars", "old houses", "trees in autumn") for side in ("left", "right", "front", "air")]


def serve_torch(model, precision, threads, save):
    """Answers batch sizes on standard input with seconds a batch on standard output; `-` with embeddings of TEXTS."""
    import torch
    from transformers import AutoTokenizer, SiglipTextModel

    torch.set_num_threads(threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    tower = SiglipTextModel.from_pretrained(model, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = tokenizer(TEXTS, padding="max_length", max_length=64, truncation=True, return_tensors="pt")["input_ids"]
    ids = torch.randint(2, 32000, (512, 64), generator=torch.Generator().manual_seed(0))
    print("ready", flush=True)
    for line in sys.stdin:
        with torch.inference_mode():
            if line.strip() == "-":
                np.save(save, tower(input_ids=texts).pooler_output.float().numpy())
                print("saved", flush=True)
                continue
            batch, seconds = line.split()
            batch = ids[: int(batch)]
            tower(input_ids=batch)
            times, end = [], time.perf_counter() + float(seconds)
            while not times or time.perf_counter() < end:
                start = time.perf_counter()
                tower(input_ids=batch)
                times.append(time.perf_counter() - start)
        print(len(times) / sum(times), flush=True)


class Torch:
    def __init__(self, model, precision, threads):
        self.saved = Path(tempfile.mkdtemp()) / "embeddings.npy"
        arguments = [sys.executable, __file__, str(model), "--serve-torch", precision, "--threads", str(threads)]
        arguments += ["--save", str(self.saved)]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout.readline() == "ready\n", "PyTorch did not start"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def rate(self, batch, seconds):
        return batch * float(self.ask(f"{batch} {seconds}"))

    def embeddings(self):
        self.ask("-")
        return np.load(self.saved)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--save", help=argparse.SUPPRESS)
    parser.add_argument("--serve-torch", help=argparse.SUPPRESS)
    parser.add_argument("--program", default="target/release/siglip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    if args.serve_torch:
        return serve_torch(args.model, args.serve_torch, args.threads, args.save)

    def program(*arguments, **options):
        command = [args.program, "--log", "error", *map(str, arguments), "--model", str(args.model), "--threads", str(args.threads)]
        return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout

    def ours(precision):
        output = Path(tempfile.mkdtemp()) / "ours.npy"
        program("embed", "--precision", precision, "--text", "-", "--output", output, input="\n".join(TEXTS))
        return np.load(output)

    truth = Torch(args.model, "f32", args.threads)
    expected = truth.embeddings().astype(np.float64)
    truth.close()

    def lowest_cosine(got):
        got = got.astype(np.float64)
        return ((got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)).min()

    print("| precision | batch | siglip best (median) | of peak | PyTorch best (median) | ratio of medians | cosine siglip / PyTorch |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for precision in ("f32", "bf16"):
        torch = Torch(args.model, precision, args.threads)
        cosines = lowest_cosine(ours(precision)), lowest_cosine(torch.embeddings())
        for batch in args.batch_sizes:
            a, b, fractions = [], [], []
            for _ in range(args.rounds):
                line = json.loads(program("bench", "--precision", precision, "--batch-size", batch, "--seconds", args.seconds, "--json"))
                a.append(line["items_per_s"])
                fractions.append(line["fraction_of_peak"])
                b.append(torch.rate(batch, args.seconds))
            ma, mb = statistics.median(a), statistics.median(b)
            print(
                f"| {precision} | {batch} | {max(a):.2f} ({ma:.2f}) | {max(fractions):.3f} | {max(b):.2f} ({mb:.2f}) "
                f"| {ma / mb:.2f} | {cosines[0]:.7f} / {cosines[1]:.7f} |",
                flush=True,
            )
        torch.close()


if __name__ == "__main__":
    main()
