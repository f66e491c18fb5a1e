#!/usr/bin/env python3
"""Sends thousands of random requests to a real Triton and to this server, and lists what is answered otherwise.

    cargo build --release -p siglip-server --example echo
    pip install 'tritonclient[grpc]'
    python tools/compare_triton.py target/release/examples/echo FOLDER [--requests 5000] [--seed 1]

Both serve a model of the same formula. FOLDER is where the real Triton is, or is to be fetched to (real_triton.py; Python
3.11, Debian's libpython3.11). Compared are the status, the headers that matter and the body: JSON by value, errors word
for word. Ends with 1 if there is a difference that is none of the chosen ones below.
"""

import argparse
import collections
import gzip
import http.client
import json
import re
import struct
import sys
import zlib
from pathlib import Path

import grpc
import real_triton
from conformance.grpc_requests import Call, Calls
from conformance.http_requests import Request, Requests
from started import start
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

# Of our answer, where ours differs on purpose, with the reason. Over gRPC the path is the method's name.
CHOSEN = [
    (r"token id .* is outside the vocabulary", "an id outside the vocabulary is an error"),
    (r"inference request batch-size must be >= 1", "an empty batch is an error before it is queued"),
    (r"has too many elements", "a shape that no memory holds is an error, where Triton's process may abort"),
    (r"unexpected additional input data", "what follows the tensors is noticed before a region is looked up"),
    (r"Got input\(s\) \['.*','.*','", "of more than two inputs, the order is that of a table of hashes"),
]
# What says who a server is and how it was set up.
IDENTITY = re.compile(r"/v2/?(\?.*)?|/v2/repository/(x/)?index.*|.*/config.*|.*/stats.*|/metrics|ModelConfig|ModelStatistics")


class Server:
    def __init__(self, command: list[str], http_port: int):
        self.http_port = http_port
        self.stub = GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{http_port + 1}"))
        self.process = start(command, http_port)

    def send(self, request: Request) -> tuple:
        """Status, headers that matter, and the body in a form that can be compared."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        if request.method in ("POST", "PUT"):
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body or None)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        encoding, length = response.headers["Content-Encoding"], response.headers["Inference-Header-Content-Length"]
        body = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding, bytes)(body)
        split = int(length) if length else len(body)
        headers = (response.headers["Content-Type"], encoding, length is not None)
        return response.status, headers, document(body[:split]), body[split:]

    def call(self, call: Call) -> tuple:
        try:
            return "OK", str(getattr(self.stub, call.method)(call.message, timeout=30))
        except grpc.RpcError as error:
            return str(error.code()), error.details()


def document(body: bytes) -> str:
    """JSON by value, floats as f32."""

    def rounded(value):
        match value:
            case float():
                return struct.unpack("f", struct.pack("f", value))[0]
            case list():
                return [rounded(each) for each in value]
            case dict():
                return {name: rounded(each) for name, each in value.items()}
        return value

    event = body.removeprefix(b"data: ")
    try:
        return json.dumps(rounded(json.loads(event)), sort_keys=True)
    except ValueError:
        return body.decode("utf-8", "backslashreplace")


def reason(path: str, theirs: tuple, ours: tuple) -> str | None:
    if theirs[0] == ours[0] and theirs[0] in (200, "OK") and (IDENTITY.fullmatch(path) or "platform" in str(ours)):
        return "a server says who it is and how it was set up"
    if theirs[0] == ours[0] and theirs[0] in (200, "OK") and path in ("/v2/logging", "LogSettings"):
        return "of log settings of which one is wrong, Triton has applied those before it"
    return next((why for words, why in CHOSEN if re.search(words, str(ours))), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the example `echo`")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requests", type=int, default=5000, help="over HTTP, and half as many over gRPC")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    triton = Server(real_triton.command(args.folder, [18090, 18091, 18092]), 18090)
    echo = Server([args.program, "18100", "18101", "18102"], 18100)
    counts, chosen, groups = collections.Counter(), collections.Counter(), {}
    try:
        requests, calls = Requests(args.seed), Calls(args.seed)
        for index in range(args.requests + args.requests // 2):
            if index < args.requests:
                request = requests.next()
                path, theirs, ours = request.path, triton.send(request), echo.send(request)
            else:
                request = calls.next()
                path, theirs, ours = request.method, triton.call(request), echo.call(request)
            door = "HTTP" if index < args.requests else "gRPC"
            why = None if theirs == ours else reason(path, theirs, ours)
            counts[door, "alike" if theirs == ours else "differ on purpose" if why else "differ"] += 1
            if why:
                chosen[why] += 1
            elif theirs != ours:
                kind = tuple(re.sub(r"\d+|'[^']*'", "…", str(answer))[:120] for answer in (theirs, ours))
                groups.setdefault(kind, []).append((request, theirs, ours))
    finally:
        for server in (triton, echo):
            server.process.terminate()
            server.process.wait()
    for examples in sorted(groups.values(), key=len, reverse=True):
        request, theirs, ours = examples[0]
        print(f"{len(examples)} like\n  {str(request)[:600]}\n  Triton: {str(theirs)[:300]}\n  here:   {str(ours)[:300]}")
    for why, count in chosen.most_common():
        print(f"{count} differ on purpose: {why}")
    for (door, outcome), count in sorted(counts.items()):
        print(f"{door}: {count} {outcome}")
    return int(bool(groups))


if __name__ == "__main__":
    sys.exit(main())
