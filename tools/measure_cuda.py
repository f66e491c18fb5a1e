#!/usr/bin/env python3
"""Measures the CUDA engine on the card of this machine, beside PyTorch and the card's own matrix peak.

    cargo build --release -p siglip-cli && cargo build --release -p siglip-server --example load
    python3 tools/measure_cuda.py [--program target/release/siglip] [--model DIR] [--perf-analyzer PROGRAM]
                                  [--load target/release/examples/load] [--cuda-libraries PATH] [--seconds 5]
                                  [--parts speed compiled parity served] [--towers text vision] [--precisions bf16 …]
                                  [--batches 1 8 …] > cuda.md

One command for everything, given the program, an NVIDIA driver and PyPI: where PyTorch and the rest are not installed
it makes an environment for itself in .venv-cuda. It makes so400m with random weights (unless --model names a folder),
fetches perf_analyzer (unless it is named), and then writes, as Markdown: the cards and the libraries; for each tower,
precision (fp8 where the card has it) and batch size items a second and the share of cuBLASLt's peak, with one batch at a
time from the host's memory to the host's memory, and with two in flight, as the server has them; PyTorch in bf16, eager
and compiled with max-autotune, likewise; the lowest cosine to PyTorch in f32 over random inputs; and what is served at
concurrency 60 and 512, as JSON, binary and over gRPC, from the first card and, where there are several, from all, driven by
perf_analyzer and by the project's own driver (crates/siglip-server/examples/load.rs), which costs less.
Everything but the last is measured on the first card. The options leave parts out: what is compiled, for one, takes a
minute a batch size.
"""

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
# PyTorch brings NVRTC and cuBLASLt along, of its own version of CUDA.
PACKAGES = ["torch", "transformers>=4.56", "safetensors", "numpy"]


def use_own_environment():
    """Runs this script again in an environment that has what it imports, unless this one does."""
    if all(importlib.util.find_spec(name) for name in ["torch", "transformers", "safetensors", "numpy"]):
        return
    folder = TOOLS.parent / ".venv-cuda"
    python = folder / "bin" / "python"
    if Path(sys.prefix) == folder:
        sys.exit(f"{folder} lacks {' or '.join(PACKAGES)}: remove it, and it is made anew")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, stdout=sys.stderr)
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, stdout=sys.stderr)
    os.execv(python, [python, __file__, *sys.argv[1:]])


if __name__ == "__main__":
    use_own_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import SiglipTextModel, SiglipVisionModel  # noqa: E402

from served import Server  # noqa: E402

TOWERS = {"text": SiglipTextModel, "vision": SiglipVisionModel}
PRECISIONS = ["bf16", "f16", "f32", "fp8"]
PARTS = ["speed", "compiled", "parity", "served"]
CONCURRENCIES = [60, 512]


def random_input(tower, config, batch, seed):
    """Token ids or pixels of a batch, different in every row."""
    random = np.random.default_rng(seed)
    if tower == "text":
        return random.integers(0, config.vocab_size, (batch, config.max_position_embeddings))
    shape = (batch, config.num_channels, config.image_size, config.image_size)
    return random.uniform(-1, 1, shape).astype(np.float32)


def torch_model(tower, folder, dtype):
    return TOWERS[tower].from_pretrained(folder, dtype=dtype).eval().cuda()


def torch_begin(model, tower, rows):
    """Queues a batch: its results, in pinned memory, and the event after which they are there."""
    name = "input_ids" if tower == "text" else "pixel_values"
    # Memory that is not pinned would be copied only when the batch before is done.
    tensor = torch.from_numpy(rows).pin_memory().cuda(non_blocking=True)
    tensor = tensor if tower == "text" else tensor.to(model.dtype)
    with torch.inference_mode():
        output = model(**{name: tensor}).pooler_output.float()
        results = torch.empty(output.shape, pin_memory=True)
        results.copy_(output, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return results, done


def torch_embed(model, tower, rows):
    results, done = torch_begin(model, tower, rows)
    done.synchronize()
    return results.numpy()


def torch_times(model, tower, rows, seconds):
    """Seconds of each batch from the host's memory to the host's memory, as the engine is measured."""
    for _ in range(3):
        torch_embed(model, tower, rows)
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        torch_embed(model, tower, rows)
        times.append(time.perf_counter() - begin)
    return times


def torch_in_flight(model, tower, rows, seconds):
    """Batches a second where each is queued before the one in front of it is waited for."""
    _, before = torch_begin(model, tower, rows)
    batches, start = 0, time.perf_counter()
    while not batches or time.perf_counter() - start < seconds:
        _, now = torch_begin(model, tower, rows)
        before.synchronize()
        batches, before = batches + 1, now
    return batches / (time.perf_counter() - start)


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def header(*cells):
    print()
    row(*cells)
    row(*["---"] * len(cells))


def bench(args, tower, precision, *options):
    """What `siglip bench` says of each batch size."""
    command = [args.program, "bench", "--model", args.model, "--tower", tower, "--device", "cuda", "--precision", precision,
               "--batch-size", ",".join(map(str, args.batches)), "--seconds", str(args.seconds), "--json", *options]
    done = subprocess.run(command + args.libraries, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def speed(args, tower):
    """This program in each precision, and PyTorch after it."""
    print(f"\n## The {tower} tower alone")
    header("engine", "precision", "batch", "one at a time: items/s", "p50 ms", "of the peak", "two in flight: items/s",
           "of the peak")
    for precision in args.precisions if "speed" in args.parts else []:
        for one, two in zip(bench(args, tower, precision), bench(args, tower, precision, "--all-engines"), strict=True):
            peaks = [f"{it['fraction_of_peak']:.1%} of {it['peak_gflops'] / 1000:.0f} TFLOP/s" for it in (one, two)]
            row("siglip", precision, one["batch_size"], f"{one['items_per_s']:.0f}", f"{one['p50_ms']:.2f}", peaks[0],
                f"{two['items_per_s']:.0f}", peaks[1])
    model = torch_model(tower, args.model, torch.bfloat16)
    engines = [("PyTorch, eager", model)] if "speed" in args.parts else []
    if "compiled" in args.parts:
        # For each batch size by itself: for sizes that vary it would be slower.
        engines.append(("PyTorch, compiled", torch.compile(model, mode="max-autotune", dynamic=False)))
    for name, engine in engines:
        for batch in args.batches:
            rows = random_input(tower, model.config, batch, batch)
            times = torch_times(engine, tower, rows, args.seconds)
            row(name, "bf16", batch, f"{batch * len(times) / sum(times):.0f}",
                f"{statistics.median(times) * 1000:.2f}", "",
                f"{batch * torch_in_flight(engine, tower, rows, args.seconds):.0f}", "")
    del model, engines
    torch.cuda.empty_cache()


def parity(args):
    """The lowest cosine to PyTorch in f32 (without TF32), through the server."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print("\n## Cosine to PyTorch in f32, the lowest of 32 rows")
    header("precision", *args.towers)
    expected = {}
    for tower in args.towers:
        model = torch_model(tower, args.model, torch.float32)
        rows = random_input(tower, model.config, 32, 7)
        expected[tower] = rows, np.concatenate([torch_embed(model, tower, part) for part in np.split(rows, 8)])
        del model
        torch.cuda.empty_cache()
    for precision in args.precisions:
        with Server(args.program, args.model, precision, ["--device", "cuda", *args.libraries]) as server:
            cosines = []
            for tower, (rows, right) in expected.items():
                got = (server.text if tower == "text" else server.vision)(rows)
                norms = np.linalg.norm(got, axis=1) * np.linalg.norm(right, axis=1)
                cosines.append(f"{((got * right).sum(1) / norms).min():.7f}")
            row(precision, *cosines)


# What the project's own driver and perf_analyzer are told for each way in.
DOORS = {
    "HTTP, JSON": ("json", ["-i", "http", "--input-tensor-format", "json", "--output-tensor-format", "json"]),
    "HTTP, binary": ("binary", ["-i", "http"]),
    "gRPC": ("grpc", ["-i", "grpc"]),
}


def driven_by_load(args, address, door, concurrency):
    """Texts a second and milliseconds, or what went wrong, with the project's own driver."""
    command = [args.load, address, door, str(concurrency), str(args.seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr}", file=sys.stderr)
        return (done.stderr.strip().splitlines() or ["no output"])[-1], ""
    result = json.loads(done.stdout)
    return f"{result['requests_per_s']:.0f}", f"{result['p50_ms']:.2f}"


def driven_by_perf_analyzer(args, address, options, file, concurrency):
    """The same with perf_analyzer."""
    command = [args.perf_analyzer, "-m", "siglip_text", "-u", address, *options, "--input-data", file,
               "--concurrency-range", str(concurrency), "--percentile", "50", "--measurement-interval",
               str(int(args.seconds * 1000)), "--stability-percentage", "20"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Concurrency: \d+, throughput: ([\d.]+) infer/sec, latency (\d+) usec", done.stdout)
    if not found:
        # What else was and will be measured is worth keeping.
        print(f"{' '.join(command)}: {done.stdout}{done.stderr}", file=sys.stderr)
        return ((done.stdout + done.stderr).strip().splitlines() or ["no output"])[-1], ""
    return f"{float(found[1]):.0f}", f"{int(found[2]) / 1000:.2f}"


def served(args, devices, precision):
    """Texts a second over all doors, driven from this machine."""
    print(f"\n## Served from {devices}: texts/s, {precision}")
    header("door", "concurrency", "driver", "texts/s", "p50 ms")
    # Different texts: equal ones in a batch are computed once.
    config = json.loads((Path(args.model) / "config.json").read_text()).get("text_config", {})
    ids = np.random.default_rng(3).integers(0, config.get("vocab_size", 32000), (4096, 64)).tolist()
    data = {"data": [{"INPUT_IDS": {"content": row, "shape": [len(row)]}} for row in ids]}
    options = ["--device", devices, "--max-batch-size", "512", "--max-queue-size", "4096", *args.libraries]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, \
            Server(args.program, args.model, precision, options) as server:
        json.dump(data, file)
        file.flush()
        for door, (name, options) in DOORS.items():
            address = server.grpc_address if name == "grpc" else server.address
            for concurrency in CONCURRENCIES:
                if args.load:
                    row(door, concurrency, "load", *driven_by_load(args, address, name, concurrency))
                if args.perf_analyzer:
                    results = driven_by_perf_analyzer(args, address, options, file.name, concurrency)
                    row(door, concurrency, "perf_analyzer", *results)


def perf_analyzer(args, folder):
    """The program that was named, or one that is fetched, or none and why."""
    if args.perf_analyzer:
        return args.perf_analyzer, ""
    script = TOOLS.parent / "examples" / "get_perf_analyzer.sh"
    done = subprocess.run(["bash", script, folder], capture_output=True, text=True)
    return (done.stdout.strip(), "") if done.returncode == 0 else ("", done.stderr.strip())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/siglip")
    parser.add_argument("--model", help="a folder with a model; by default so400m with random weights is made")
    parser.add_argument("--perf-analyzer", help="the program perf_analyzer")
    parser.add_argument("--load", default="target/release/examples/load", help="the project's own driver")
    parser.add_argument("--cuda-libraries", help="as for siglip; pip's packages are found in this Python's environment")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--towers", nargs="+", choices=list(TOWERS), default=list(TOWERS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="by default all that the card has")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128, 256])
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no card: is its CUDA newer than the driver's?")
    if not Path(args.program).is_file():
        sys.exit(f"there is no program {args.program}: cargo build --release makes it, or --program names it")
    args.libraries = ["--cuda-libraries", args.cuda_libraries or sys.prefix]
    doctor = subprocess.run([args.program, "doctor", "--json", *args.libraries], capture_output=True, text=True, check=True)
    gpu = json.loads(doctor.stdout)["gpu"]
    if not gpu["usable"]:
        sys.exit(f"siglip cannot use the card: {json.dumps(gpu)}")
    args.precisions = args.precisions or [name for name in PRECISIONS if name != "fp8" or gpu["cards"][0]["fp8"]]
    with tempfile.TemporaryDirectory() as work:
        if not args.model:
            args.model = f"{work}/so400m"
            subprocess.run([sys.executable, TOOLS / "make_so400m.py", args.model], check=True, stdout=sys.stderr)
        print(f"# {torch.cuda.get_device_name()}\n\n`python {' '.join(sys.argv)}`\n")
        print(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
        for index, card in enumerate(gpu["cards"]):
            print(f"- cuda:{index}: {card['name']}, compute capability {card['compute_capability']}")
        for library in gpu["libraries"]:
            print(f"- {library['name']}: {library['version']}")
        if {"speed", "compiled"} & set(args.parts):
            for tower in args.towers:
                speed(args, tower)
        if "parity" in args.parts:
            parity(args)
        if "served" not in args.parts:
            return
        args.perf_analyzer, why_not = perf_analyzer(args, f"{work}/perf_analyzer")
        if not Path(args.load).is_file():
            why_not += f"\nthere is no program {args.load}: cargo build --release -p siglip-server --example load makes it"
            args.load = None
        if why_not:
            print(f"\n## Served\n\nNot with every driver: {why_not.strip()}")
        if not (args.load or args.perf_analyzer):
            return
        for devices in ["cuda:0"] + (["cuda:all"] if len(gpu["cards"]) > 1 else []):
            for precision in [precision for precision in ["bf16", "fp8"] if precision in args.precisions]:
                served(args, devices, precision)


if __name__ == "__main__":
    main()
