#!/usr/bin/env python3
"""Measures what the server itself costs: CPU time a request, and requests a second, with an engine that costs nothing.

    cargo build --release -p siglip-server --example echo
    python3 tools/server_cost.py target/release/examples/echo [OTHER …] [--seconds 4] [--concurrency 1 16 60 512]
    python3 tools/server_cost.py target/release/examples/echo --triton FOLDER
    python3 tools/server_cost.py target/release/examples/echo --card 10000
    python3 tools/server_cost.py target/release/examples/echo --latency

Drivers are `wrk` for HTTP and `h2load` for gRPC, one thread each, on the same machine (Debian: wrk, nghttp2-client).
CPU time is the user and system time of the server's processes over the requests that were answered. Several servers are
measured in turns, so that what else happens on the machine meets all of them. A request has 64 ids, its answer 1,152
floats.

With --triton a real Triton is measured too, which real_triton.py fetches into the folder once; the libraries of its
Python backend are Debian's libpython3.11.

With --latency each request's time is taken down by `h2load`, which is kept on one core; the servers have the others. A
machine that is shared stops for milliseconds now and then, which is why the calmest round is shown beside the median;
epoll_yardstick.c is the least that a server can do in the same minutes.
(`wrk` does not show what it measured: to what is slower than twice the average it adds what it would have sent
meanwhile.)

With --card the engine takes the time, but no processor, of a card that embeds so many texts a second: how much of it is
served? The requests are different then, since equal ones in a batch are computed once (over HTTP only: h2load has one
body).
"""

import argparse
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import real_triton
from started import start

MODEL = "siglip_text"
DOORS = ["JSON", "binary", "gRPC"]
# All rows differ in one id: identical rows of a batch would be computed once.
IDS = [(37 * index) % 32000 for index in range(64)]


def json_request() -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", "data": IDS}
    return json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"}


def binary_request() -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "INPUT_IDS", "datatype": "INT64", "shape": [1, 64], "parameters": {"binary_data_size": 512}}
    output = {"name": "EMBEDDING", "parameters": {"binary_data": True}}
    head = json.dumps({"id": "", "inputs": [tensor], "outputs": [output]}, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return head + struct.pack("<64q", *IDS), headers


def grpc_request() -> tuple[bytes, dict[str, str]]:
    """inference.ModelInferRequest by hand: model_name 1, inputs 5 {name 1, datatype 2, shape 3}, raw contents 7."""

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    def field(number: int, value: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(value)) + value

    tensor = field(1, b"INPUT_IDS") + field(2, b"INT64") + field(3, varint(1) + varint(64))
    message = field(1, MODEL.encode()) + field(5, tensor) + field(7, struct.pack("<64q", *IDS))
    return b"\0" + struct.pack(">I", len(message)) + message, {"content-type": "application/grpc", "te": "trailers"}


def lua(request: tuple[bytes, dict[str, str]]) -> str:
    body, headers = request
    lines = ['wrk.method = "POST"', 'wrk.body = "' + "".join(f"\\{byte:03d}" for byte in body) + '"']
    return "\n".join(lines + [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()])


def lua_of_many(request: tuple[bytes, dict[str, str]]) -> str:
    """The same with another first id in each of 2,048 requests."""
    body, _ = request
    binary = struct.pack("<64q", *IDS)
    if body.endswith(binary):
        one = f"wrk.body:sub(1, -{len(binary) + 1}) .. string.char(i % 256, math.floor(i / 256), 0, 0, 0, 0, 0, 0) .. wrk.body:sub(-{len(binary) - 8})"
    else:
        one = 'wrk.body:gsub("%[0, 37,", "[" .. i .. ", 37,", 1)'
    return lua(request) + f"""
local bodies, count = {{}}, 0
for i = 0, 2047 do bodies[i] = {one} end
request = function()
    count = (count + 1) % 2048
    return wrk.format(nil, nil, nil, bodies[count])
end
"""


class Server:
    """A server that was started on ports of its own, on the given cores or on all."""

    def __init__(self, name: str, command: list[str], ports: list[int], cores: list[int]):
        self.name = name
        self.http, self.grpc, _ = ports
        self.process = start(on(cores) + command, self.http)

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, with_children(self.process.pid)))


def on(cores: list[int]) -> list[str]:
    """What a command begins with that is to stay on these cores."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []


def with_children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [process] + [each for child in children for each in with_children(child)]


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"the driver did not say what it did:\n{text}")
    return float(found.group(1))


def milliseconds(percentile: str, text: str) -> float:
    found = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", text)
    if not found:
        sys.exit(f"the driver did not say the {percentile} percentile:\n{text}")
    return float(found.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found.group(2)]


class Drivers:
    """What sends requests, in files of one folder."""

    def __init__(self, folder: str, requests: dict[str, tuple[bytes, dict[str, str]]], different: bool):
        self.folder = folder
        self.headers = {door: headers for door, (_, headers) in requests.items()}
        for door, request in requests.items():
            self.file(f"{door}.body").write_bytes(request[0])
            if door != "gRPC":
                self.file(f"{door}.lua").write_text((lua_of_many if different else lua)(request))

    def file(self, name: str) -> Path:
        return Path(self.folder, name)

    def wrk(self, server: Server, door: str, concurrency: int, seconds: int) -> tuple[int, list[float]]:
        """Requests that were answered, and the median and the 99th percentile of their time in milliseconds."""
        command = ["wrk", "--latency", "-t1", f"-c{concurrency}", f"-d{seconds}s", "-s", str(self.file(f"{door}.lua"))]
        command += [f"http://127.0.0.1:{server.http}/v2/models/{MODEL}/infer"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in text or "Socket errors" in text:
            sys.exit(f"requests failed:\n{text}")
        return int(number(r"(\d+) requests in", text)), [milliseconds("50%", text), milliseconds("99%", text)]

    def h2load(self, server: Server, door: str, concurrency: int, seconds: int, options: list[str]) -> int:
        """Requests that were answered."""
        command = ["h2load", "-t1", f"-D{seconds}", "-d", str(self.file(f"{door}.body")), *options]
        command += [part for name, value in self.headers[door].items() for part in ("-H", f"{name}: {value}")]
        if door == "gRPC":
            # Several streams a connection, as real clients have them.
            connections = max(1, concurrency // 16)
            command += [f"-c{connections}", f"-m{concurrency // connections}"]
            command += [f"http://127.0.0.1:{server.grpc}/inference.GRPCInferenceService/ModelInfer"]
        else:
            command += ["--h1", f"-c{concurrency}", "-m1", f"http://127.0.0.1:{server.http}/v2/models/{MODEL}/infer"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if number(r"(\d+) failed", text) or number(r"(\d+) errored", text) or number(r"(\d+) 5xx", text):
            sys.exit(f"requests failed:\n{text}")
        return int(number(r"(\d+) succeeded", text))

    def timed(self, server: Server, door: str, concurrency: int, seconds: int) -> tuple[int, list[float]]:
        """As wrk() does, of every request as it was."""
        log = self.file("log")
        # It would be appended to.
        log.unlink(missing_ok=True)
        done = self.h2load(server, door, concurrency, seconds, [f"--log-file={log}"])
        times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
        return done, [times[len(times) * percent // 100] / 1e3 for percent in (50, 99)]


def drive(server: Server, door: str, concurrency: int, seconds: int, drivers: Drivers, timed: bool) -> tuple[float, ...]:
    """Requests a second, microseconds of the server's CPU time a request, and the median and the 99th percentile of the
    latency in milliseconds, where the driver says them."""
    before = server.cpu_seconds()
    if timed:
        done, latency = drivers.timed(server, door, concurrency, seconds)
    elif door == "gRPC":
        done, latency = drivers.h2load(server, door, concurrency, seconds, []), []
    else:
        done, latency = drivers.wrk(server, door, concurrency, seconds)
    used = server.cpu_seconds() - before
    if not done:
        sys.exit("no request was answered")
    return done / seconds, used / done * 1e6, *latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+", help="programs that take three ports: HTTP, gRPC, metrics")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 60, 512])
    parser.add_argument("--triton", metavar="FOLDER", type=Path)
    parser.add_argument("--doors", nargs="+", choices=DOORS, default=DOORS)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--card", metavar="TEXTS_PER_SECOND")
    args = parser.parse_args()
    if args.latency and args.card:
        sys.exit("--latency and --card do not go together: h2load has one request, a card needs different ones")
    for tool, package in [("wrk", "wrk"), ("h2load", "nghttp2-client")]:
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing: it is in Debian's package {package}")
    with tempfile.TemporaryDirectory() as folder:
        requests = {"JSON": json_request(), "binary": binary_request(), "gRPC": grpc_request()}
        if args.card:
            del requests["gRPC"]
        requests = {door: request for door, request in requests.items() if door in args.doors}
        drivers = Drivers(folder, requests, different=bool(args.card))
        cores = []
        if args.latency:
            # A driver is a child of this process.
            last, *cores = sorted(os.sched_getaffinity(0), reverse=True)
            os.sched_setaffinity(0, [last])
        servers = []
        try:
            for index, program in enumerate(args.servers):
                ports = [18100 + 10 * index + door for door in range(3)]
                command = [program, *map(str, ports)] + ([args.card] if args.card else [])
                servers.append(Server(program, command, ports, cores))
            if args.triton:
                ports = [18090, 18091, 18092]
                servers.append(Server("Triton", real_triton.command(args.triton, ports), ports, cores))
            names = ["door", "concurrency", "server", "requests/s", "server CPU µs a request", "p50 ms", "p99 ms"]
            names += ["p99 / p50", "in the calmest round"] if args.latency else []
            print(f"| {' | '.join(names)} |\n" + "| --- " * len(names) + "|")
            for door in requests:
                for concurrency in args.concurrency:
                    results = [[] for _ in servers]
                    for _ in range(args.rounds):
                        for server, result in zip(servers, results):
                            result.append(drive(server, door, concurrency, args.seconds, drivers, args.latency))
                    for server, result in zip(servers, results):
                        rate, cost, *latency = (statistics.median(column) for column in zip(*result))
                        if args.latency:
                            ratios = [p99 / p50 for _, _, p50, p99 in result]
                            latency += [statistics.median(ratios), min(ratios)]
                        times = " | ".join(f"{time:.2f}" for time in latency) or " | "
                        print(f"| {door} | {concurrency} | {server.name} | {rate:,.0f} | {cost:.1f} | {times} |", flush=True)
        finally:
            for server in servers:
                server.process.terminate()
            for server in servers:
                server.process.wait()


if __name__ == "__main__":
    main()
