"""Makes the fuzzers' corpora in `fuzz/corpus/` out of the recorded exchanges: the bodies of their requests, without those
that exercise nothing that others do not.

    python tools/make_fuzz_corpus.py

Needs cargo-fuzz (see `tools/fuzz.sh`). An input keeps the name of the exchange that it comes from. Inputs named
`regression-…` are what a fuzzer once found, or somebody thought of; they stay as they are.
"""

import base64
import gzip
import hashlib
import json
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "crates" / "siglip-server" / "tests" / "fixtures"
LARGEST = 16 << 10


def recorded(name):
    with gzip.open(FIXTURES / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def seeds():
    """target -> name -> bytes"""
    found = {"infer_json": {}, "infer_binary": {}, "bytes_tensor": {}, "grpc_request": {}}
    for exchange in recorded("http"):
        request, name = exchange["request"], exchange["name"]
        if not request.get("path", "").endswith("/infer"):
            continue
        body = request["body_text"].encode() if "body_text" in request else base64.b64decode(request.get("body_b64", ""))
        headers = {key.lower(): value for key, value in request.get("headers", [])}
        if body[:2] == b"\x1f\x8b" or not body:
            continue
        length = headers.get("inference-header-content-length", "")
        if not length.isdecimal():
            found["infer_json"][name] = body
            continue
        length = min(int(length), len(body))
        found["infer_binary"][name] = length.to_bytes(2, "little") + body
        if b"BYTES" in body[:length]:
            found["bytes_tensor"][name] = body[length:]
    for exchange in recorded("grpc"):
        if exchange.get("rpc") == "ModelInfer" and "request_bytes_b64" in exchange:
            found["grpc_request"][exchange["name"]] = base64.b64decode(exchange["request_bytes_b64"])
    return {
        target: {name: data for name, data in inputs.items() if len(data) <= LARGEST} for target, inputs in found.items()
    }


def minimised(target, inputs):
    """Those of the inputs that are needed to reach what all of them reach."""
    names = {hashlib.sha1(data).hexdigest(): name for name, data in sorted(inputs.items(), reverse=True)}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in inputs.items():
            (pathlib.Path(folder) / name).write_bytes(data)
        subprocess.run([ROOT / "tools" / "fuzz.sh", "minimise", target, folder], check=True)
        kept = {hashlib.sha1(path.read_bytes()).hexdigest() for path in pathlib.Path(folder).iterdir()}
    return {name: inputs[name] for digest, name in names.items() if digest in kept}


for target, inputs in seeds().items():
    folder = ROOT / "fuzz" / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if not path.name.startswith("regression-"):
            path.unlink()
    kept = minimised(target, inputs)
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    print(f"{target}: {len(kept)} of {len(inputs)} inputs, {sum(map(len, kept.values()))} bytes")
