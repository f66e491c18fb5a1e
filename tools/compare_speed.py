#!/usr/bin/env python3
"""Compares this program with other engines on the same processor, in turns, in one run.

    pip install torch transformers sentencepiece protobuf pillow numpy onnx onnxscript onnxruntime openvino nncf
    python tools/make_so400m.py DIR
    python tools/compare_speed.py DIR [--peers torch onnxruntime openvino] [--precisions f32 bf16 int8] [--goals]
                                  [--program target/release/siglip] [--threads 2] [--rounds 3] [--work FOLDER]
    python tools/compare_speed.py DIR --line [--goals]

Measures the towers that the model folders have, or the one that --tower names. For each precision and batch size all
engines are measured one after the other, round by round (A B C A B C …), each in a process of its own that is stopped
while another runs, all with the same number of threads. Two tables for each tower:

- Rows a second: the best and the median of the rounds, the median of their fractions of the matrix peak that `siglip
  bench` measures before and after every stretch, and the ratio of the medians. "Of peak" counts the products that are
  computed; "of the limit" those of a plain pass, as one counts for engines that compute all positions in the last
  block: what a machine at its peak would do with them is its limit, and it is what the goals are about.
- Each engine: the lowest cosine to PyTorch in f32 over the same rows (texts and random ids, or random pixels); the
  process's peak memory over all batch sizes, files it has mapped included; and seconds from the process's start to the
  first embedding with a warm page cache. Ours is the median of the rounds, to the end of `siglip embed`; a peer's is
  its only start, Python and its imports included.

--line instead measures ours alone, at batch sizes between those that kernels are made for, in turns with these, and
prints the ratio to the straight line between the neighbours; it needs no peer.

The peers: `torch` is `transformers`, eager, in f32 and bf16 (torch and transformers are always needed: they are the
truth); `onnxruntime` runs an export in f32 and, quantised dynamically by channel, in int8 (onnx, onnxscript,
onnxruntime); `openvino` runs the same export in f32 and bf16, and in int8 after NNCF's post-training quantisation with
random rows (also openvino, nncf). Where a peer lacks a precision, its row is left out. --goals adds what we mean to
reach, with so400m and two threads.
"""

import argparse
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from speed import goals, inputs
from speed.peer_process import PeerProcess
from speed.peers import PEERS
from speed.program import Program

BATCH_SIZES = {"text": [1, 8, 32], "vision": [1, 4]}
# How many rows are embedded at once where only the result matters.
PART = 4
# Odd batch sizes, and their neighbours below and above.
NEIGHBOURS = {2: (1, 4), 3: (1, 4), 5: (4, 8), 7: (4, 8), 17: (16, 32), 31: (16, 32)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--tower", choices=BATCH_SIZES, help="by default each that a folder has")
    parser.add_argument("--line", action="store_true", help="odd batch sizes of the text tower")
    parser.add_argument("--goals", action="store_true")
    parser.add_argument("--work", type=Path, help="where exports are kept for the next run; by default nowhere")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["torch"])
    parser.add_argument("--precisions", nargs="+", choices=["f32", "bf16", "int8"], default=["f32", "bf16"])
    parser.add_argument("--program", default="target/release/siglip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each is measured in each round")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="by default 1 8 32 texts and 1 4 images")
    args = parser.parse_args()

    # Ended by a signal, it must still end its peers, some of which are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = "text" if args.line else args.tower
    towers = [(model, tower) for model in args.models for tower in inputs.towers(model) if wanted in (tower, None)]
    if not towers:
        parser.error(f"no {wanted} tower in {', '.join(map(str, args.models))}")
    if not args.line:
        try:
            print(", ".join(f"{PEERS[peer][0]} {version(peer)}" for peer in args.peers), flush=True)
        except PackageNotFoundError as error:
            parser.error(f"the package {error.name} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for model, tower in towers:
            program = Program(args.program, model, tower, args.threads)
            if args.line:
                line(program, args)
            else:
                compare(program, args, work)


def compare(program, args, work):
    """The two tables of one tower."""
    model, tower = program.model, program.tower
    batches = args.batch_sizes or BATCH_SIZES[tower]
    rows = inputs.make(model, tower, max(batches))
    parts = [rows.samples[start : start + PART] for start in range(0, len(rows.samples), PART)]

    def process(peer, precision):
        return PeerProcess(peer, precision, model, tower, rows, args.threads, work)

    with process("torch", "f32") as truth:
        expected = embeddings(truth, parts)

    print(f"\n## {tower} tower\n")
    ours, theirs = ("siglip best (median)", "of peak", "of the limit"), ("peer best (median)", "ratio of medians")
    header(args, "precision", "batch", "peer", *ours, *theirs)
    engines = []
    for precision in args.precisions:
        with ExitStack() as stack:
            having = [peer for peer in args.peers if precision in PEERS[peer][2]]
            peers = [stack.enter_context(process(peer, precision)) for peer in having]
            peak_mb = max(rates(program, peers, precision, batch, args) for batch in batches)
            # Before anything else is asked of them: the memory is that of measuring, as ours is.
            peaks_mb = [peer.peak_mb() for peer in peers]
            theirs = [
                (peer.name, lowest_cosine(embeddings(peer, parts), expected), peak, peer.first_embedding_s)
                for peer, peak in zip(peers, peaks_mb)
            ]
        cosine = lowest_cosine(program.embeddings(precision, parts), expected)
        first_s = program.first_embedding_s(precision, args.rounds, work)
        ours = "siglip", cosine, peak_mb, first_s
        goal = goals.engine(tower, precision, *ours[1:], {name: cosine for name, cosine, *_ in theirs})
        engines += [(precision, ours, goal), *((precision, their, "") for their in theirs)]

    print()
    header(args, "precision", "engine", "lowest cosine", "peak MB", "first embedding s")
    for precision, (name, cosine, memory, first_s), goal in engines:
        row(args, goal, precision, name, f"{cosine:.7f}", f"{memory:.0f}", f"{first_s:.2f}")


def rates(program, peers, precision, batch, args):
    """Prints the rows of one batch size, and returns our process's peak memory in MB."""
    rounds = [
        (program.bench(precision, [batch], args.seconds)[0], [peer.rate(batch, args.seconds) for peer in peers])
        for _ in range(args.rounds)
    ]
    ours = [bench["items_per_s"] for bench, _ in rounds]
    fraction = statistics.median(bench["fraction_of_peak"] for bench, _ in rounds)
    of_limit = fraction * goals.PLAIN_GFLOP[program.tower] / rounds[0][0]["gflop_per_item"]
    fractions = f"{fraction:.3f}", f"{of_limit:.3f}"
    median = statistics.median(ours)
    for i, peer in enumerate(peers):
        theirs = [others[i] for _, others in rounds]
        ratio = median / statistics.median(theirs)
        goal = goals.rate(program.tower, precision, batch, peer.name, ratio, of_limit)
        cells = best_and_median(ours), *fractions, best_and_median(theirs), f"{ratio:.2f}"
        row(args, goal, precision, batch, peer.name, *cells)
    if not peers:
        goal = goals.rate(program.tower, precision, batch, None, None, of_limit)
        row(args, goal, precision, batch, "", best_and_median(ours), *fractions, "", "")
    return max(bench["rss_mb"] for bench, _ in rounds)


def line(program, args):
    """The table of odd batch sizes."""
    batches = sorted({*NEIGHBOURS, *(size for pair in NEIGHBOURS.values() for size in pair)})
    header(args, "precision", "batch", "neighbours", "texts/s", "on the line", "ratio: median (lowest)")
    for precision in args.precisions:
        rounds = [
            {bench["batch_size"]: bench["items_per_s"] for bench in program.bench(precision, batches, args.seconds)}
            for _ in range(args.rounds)
        ]
        for batch, (below, above) in NEIGHBOURS.items():
            share = (batch - below) / (above - below)
            lines = [rates[below] + share * (rates[above] - rates[below]) for rates in rounds]
            ratios = [rates[batch] / straight for rates, straight in zip(rounds, lines)]
            ratio, rate = statistics.median(ratios), statistics.median(rates[batch] for rates in rounds)
            cells = f"{rate:.2f}", f"{statistics.median(lines):.2f}", f"{ratio:.3f} ({min(ratios):.3f})"
            row(args, goals.line(ratio), precision, batch, f"{below}, {above}", *cells)


def embeddings(peer, parts):
    return np.concatenate([peer.embeddings(part) for part in parts])


def lowest_cosine(got, expected):
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    return ((got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)).min()


def best_and_median(rates):
    return f"{max(rates):.2f} ({statistics.median(rates):.2f})"


def header(args, *names):
    row(args, "goals", *names)
    row(args, "---", *["---"] * len(names))


def row(args, goal, *cells):
    print("| " + " | ".join(map(str, [*cells, goal] if args.goals else cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
