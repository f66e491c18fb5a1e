#!/usr/bin/env python3
"""Texts per second of this program and of other engines, in turns, in one run.

    python tools/make_so400m.py DIR --tower text
    python tools/compare_speed.py DIR [--peers torch onnxruntime openvino] [--program target/release/siglip]
                                  [--threads 2] [--rounds 3] [--precisions f32 bf16 int8]

For each precision and batch size all are measured one after the other, round by round (A B C A B C …), each in a
process of its own that is stopped while another runs. All have the same number of threads. Prints the best and the
median of the rounds, the ratio of the medians, and the lowest cosine of each to PyTorch in f32 over the same texts.

The peers: `torch` is `transformers`' SiglipTextModel, eager, in f32 and bf16 (needs torch and transformers, as all do);
`onnxruntime` runs its export in f32 and, quantised dynamically by channel, in int8 (needs onnx, onnxscript,
onnxruntime); `openvino` runs the same export in f32 and bf16 (needs these and openvino). Where a peer lacks a
precision, its row is left out.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TEXTS = [f"a photo of {n} {thing}, seen from the {side}" for n in ("one", "two") for thing in
         ("cats", "red cars", "old houses", "trees in autumn") for side in ("left", "right", "front", "air")]


def torch_engine(model, precision, threads, work):
    """A function from token ids to embeddings, computed by PyTorch."""
    import torch
    from transformers import SiglipTextModel

    torch.set_num_threads(threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    tower = SiglipTextModel.from_pretrained(model, dtype=dtype).eval()

    def embed(ids):
        with torch.inference_mode():
            return tower(input_ids=torch.from_numpy(ids)).pooler_output.float().numpy()

    return embed


def export(model, work):
    """The path of the tower's ONNX export; made once."""
    path = work / "tower.onnx"
    if not path.exists():
        import torch
        from transformers import SiglipTextModel

        class Pooled(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.tower = SiglipTextModel.from_pretrained(model, dtype=torch.float32).eval()

            def forward(self, input_ids):
                return self.tower(input_ids=input_ids).pooler_output

        ids = torch.ones((2, 64), dtype=torch.int64)
        shapes = {"input_ids": {0: torch.export.Dim("batch", min=1, max=512)}}
        program = torch.onnx.export(Pooled(), (ids,), dynamo=True, dynamic_shapes=shapes, input_names=["input_ids"])
        program.save(path, external_data=True)
    return path


def onnxruntime_engine(model, precision, threads, work):
    """The same by ONNX Runtime."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = export(model, work)
    if precision == "int8":
        quantized = work / "tower_int8.onnx"
        if not quantized.exists():
            options = {"weight_type": QuantType.QInt8, "per_channel": True, "use_external_data_format": True}
            quantize_dynamic(path, quantized, **options)
        path = quantized
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, {"input_ids": ids})[0]


def openvino_engine(model, precision, threads, work):
    """The same by OpenVINO."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(export(model, work)), "CPU", options)
    return lambda ids: compiled({"input_ids": ids})[compiled.output(0)].copy()


# Each peer: how it is built, and the precisions that it has.
PEERS = {
    "torch": (torch_engine, ("f32", "bf16")),
    "onnxruntime": (onnxruntime_engine, ("f32", "int8")),
    "openvino": (openvino_engine, ("f32", "bf16")),
}


def serve(peer, precision, model, threads, work):
    """Answers `BATCH SECONDS` on standard input with batches a second on standard output; `-` with embeddings."""
    from transformers import AutoTokenizer

    # Standard output is the answers' alone: what libraries print while they load goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    embed = PEERS[peer][0](model, precision, threads, work)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = tokenizer(TEXTS, padding="max_length", max_length=64, truncation=True, return_tensors="np")["input_ids"]
    ids = np.random.default_rng(0).integers(2, 32000, (512, 64)).astype(np.int64)
    print("ready", file=answers)
    for line in sys.stdin:
        if line.strip() == "-":
            np.save(work / f"{peer}_{precision}.npy", embed(texts.astype(np.int64)))
            print("saved", file=answers)
            continue
        batch, seconds = line.split()
        rows = ids[: int(batch)]
        embed(rows)
        times, end = [], time.perf_counter() + float(seconds)
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            embed(rows)
            times.append(time.perf_counter() - start)
        print(len(times) / sum(times), file=answers)


class Peer:
    """A peer in a process of its own, which is stopped except while it is asked."""

    def __init__(self, name, precision, args, work):
        self.name, self.precision, self.work = name, precision, work
        command = [sys.executable, __file__, str(args.model), "--serve", name, precision, "--threads", str(args.threads)]
        self.log = open(work / f"{name}_{precision}.log", "w+")
        self.process = subprocess.Popen(
            [*command, "--work", str(work)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"{self.name} in {self.precision} failed:\n{self.log.read()[-3000:]}")
        self.process.send_signal(signal.SIGSTOP)
        return line

    def ask(self, line):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()

    def rate(self, batch, seconds):
        return batch * float(self.ask(f"{batch} {seconds}"))

    def embeddings(self):
        self.ask("-")
        return np.load(self.work / f"{self.name}_{self.precision}.npy")

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="where exports are kept for the next run; by default nowhere")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["torch"])
    parser.add_argument("--precisions", nargs="+", choices=["f32", "bf16", "int8"], default=["f32", "bf16"])
    parser.add_argument("--program", default="target/release/siglip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    if args.serve:
        return serve(*args.serve, args.model, args.threads, args.work)
    with tempfile.TemporaryDirectory() as folder:
        if args.work:
            args.work.mkdir(parents=True, exist_ok=True)
        compare(args, args.work or Path(folder))


def compare(args, work):
    def program(*arguments, **options):
        command = [args.program, "--log", "error", *map(str, arguments)]
        command += ["--model", str(args.model), "--threads", str(args.threads)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout

    def ours(precision):
        output = work / "siglip.npy"
        program("embed", "--precision", precision, "--text", "-", "--output", output, input="\n".join(TEXTS))
        return np.load(output)

    def measure_ours(precision, batch):
        options = "--precision", precision, "--batch-size", batch, "--seconds", args.seconds
        line = json.loads(program("bench", *options, "--json"))
        return line["items_per_s"], line["fraction_of_peak"]

    def lowest_cosine(got):
        got = got.astype(np.float64)
        return ((got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)).min()

    truth = Peer("torch", "f32", args, work)
    expected = truth.embeddings().astype(np.float64)
    truth.close()

    print("| precision | batch | peer | siglip best (median) | of peak | peer best (median) | ratio of medians | cosine siglip / peer |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for precision in args.precisions:
        peers = [Peer(name, precision, args, work) for name in args.peers if precision in PEERS[name][1]]
        cosine = lowest_cosine(ours(precision))
        cosines = [lowest_cosine(peer.embeddings()) for peer in peers]
        for batch in args.batch_sizes:
            rounds = [
                (measure_ours(precision, batch), [peer.rate(batch, args.seconds) for peer in peers])
                for _ in range(args.rounds)
            ]
            rates = [rate for (rate, _), _ in rounds]
            best, median = max(rates), statistics.median(rates)
            fraction = max(fraction for (_, fraction), _ in rounds)
            left = f"{best:.2f} ({median:.2f}) | {fraction:.3f}"
            for i, peer in enumerate(peers):
                theirs = [peer_rates[i] for _, peer_rates in rounds]
                their_best, their_median = max(theirs), statistics.median(theirs)
                print(
                    f"| {precision} | {batch} | {peer.name} | {left} | {their_best:.2f} ({their_median:.2f}) "
                    f"| {median / their_median:.2f} | {cosine:.7f} / {cosines[i]:.7f} |",
                    flush=True,
                )
            if not peers:
                print(f"| {precision} | {batch} | none | {left} | | | {cosine:.7f} |", flush=True)
        for peer in peers:
            peer.close()


if __name__ == "__main__":
    main()
