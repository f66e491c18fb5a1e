"""The original page's clients, as they are in `examples/`, and requests by hand, against the real program."""

import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import tritonclient.http as http

from conftest import MODEL, ROOT


@pytest.fixture(scope="session")
def reference():
    """token ids -> `pooler_output` of `transformers` in f32, from the same folder."""
    import torch
    from transformers import SiglipTextModel

    model = SiglipTextModel.from_pretrained(MODEL, dtype=torch.float32).eval()

    def embed(ids):
        with torch.no_grad():
            return model(input_ids=torch.tensor(ids)).pooler_output.numpy()

    return embed


@pytest.fixture(scope="session")
def hard_texts():
    cases = json.loads((ROOT / "fixtures" / "tokenizer" / "siglip.json").read_text())["cases"]
    return [case for case in cases if case["tokens"] <= 64]


def infer(server, ids):
    ids = np.asarray(ids)
    request = {"name": "INPUT_IDS", "shape": list(ids.shape), "datatype": "INT64", "data": ids.flatten().tolist()}
    return embedding(requests.post(f"{server.models}/siglip_text/infer", json={"inputs": [request]}))


def binary(server, size, data):
    """Posts one row of ids in the binary form: the header states `size` bytes, `data` is sent."""
    tensor = {"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    return requests.post(f"{server.models}/siglip_text/infer", data=header + data, headers=headers)


def embed_texts(server, texts, **parameters):
    request = {"name": "INPUT_TEXT", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}
    body = {"inputs": [request], "parameters": parameters}
    return requests.post(f"{server.models}/embed_text/infer", json=body)


def embedding(response):
    assert response.status_code == 200, response.text
    output = response.json()["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def example(name):
    """Runs an example as it is and returns its variables."""
    source = (ROOT / "examples" / name).read_text()
    variables = {"__name__": "__main__"}
    argv, sys.argv = sys.argv, [name, str(MODEL)] if name == "single_request.py" else [name]
    try:
        exec(compile(source, name, "exec"), variables)
    finally:
        sys.argv = argv
    return variables


def test_the_pages_single_request(server, reference):
    client = example("single_request.py")
    response = client["model_response"]
    assert (response["model_name"], response["model_version"]) == ("siglip_text", "1")
    output = response["outputs"][0]
    assert (output["name"], output["datatype"]) == ("EMBEDDING", "FP32")
    expected = reference(client["input_ids_np"])
    assert output["shape"] == list(expected.shape)
    assert cosines(client["embedding"][None], expected)[0] >= 0.9998


def test_the_pages_120_requests_from_60_threads(server, other_server, reference):
    client = example("many_requests.py")
    assert sorted(client["embeddings"]) == list(range(120))
    together = np.stack([client["embeddings"][i] for i in range(120)])
    ids = client["input_ids_batch"]
    alone = np.concatenate([infer(server, row[None]) for row in ids])
    assert np.array_equal(together, alone), "an embedding depended on the batch it was computed in"

    expected = reference(ids)
    exact = other_server("--demo", "--precision", "f32")
    in_f32 = np.concatenate([infer(exact, ids[start : start + 32]) for start in range(0, 120, 32)])
    assert cosines(in_f32, expected).min() >= 0.99999
    # Noise as input is hard on bf16: over 24,000 random rows of the embedded model the lowest cosine to f32 was 0.99963
    # here and 0.99917 with PyTorch's bf16 (below 0.9998: 0.2 % of the rows here, 9 % there). The page draws anew each
    # time, so this asks for what every draw gives; real captions are held to 0.9998 elsewhere.
    assert cosines(together, expected).min() >= 0.999


def test_the_other_examples_run_as_they_are(server):
    def output(*command):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT / "examples")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert output("embed_text.py", "a photo of a dog").startswith("[")
    assert np.array_equal(example("embed_text.py")["embedding"], embedding(embed_texts(server, ["a photo of a cat"]))[0])
    lines = output("triton_client.py").splitlines()
    assert [line.split()[0] for line in lines] == ["binary", "JSON"] and all("(2, 128)" in line for line in lines), lines


def test_embed_text_is_siglip_text_of_the_tokenizers_ids(server, hard_texts):
    assert len(hard_texts) >= 100
    for start in range(0, len(hard_texts), 32):
        cases = hard_texts[start : start + 32]
        got = embedding(embed_texts(server, [case["text"] for case in cases]))
        ids = np.ones((len(cases), 64), np.int64)
        for row, case in zip(ids, cases):
            row[: len(case["ids"])] = case["ids"]
        assert np.array_equal(got, infer(server, ids))


def test_perf_analyzers_input_is_what_the_programs_tokenizer_makes(server):
    examples = ROOT / "examples"
    names = (examples / "data" / "class_names.txt").read_text(encoding="utf-8").splitlines()
    rows = json.loads((examples / "data" / "siglip_text" / "input_ids.json").read_text())["data"]
    assert len(rows) == len(names) >= 300
    for start in range(0, len(rows), 32):
        ids = [row["INPUT_IDS"]["content"] for row in rows[start : start + 32]]
        texts = [f"A photo of a {name}." for name in names[start : start + 32]]
        assert np.array_equal(embedding(embed_texts(server, texts)), infer(server, ids))


def test_a_long_text_is_an_error_unless_it_may_be_cut(server):
    response = embed_texts(server, ["word " * 200])
    assert response.status_code == 400 and re.search(r"\d+ tokens", response.json()["error"]), response.text
    response = embed_texts(server, ["word " * 200], truncation=True)
    assert response.status_code == 200, response.text


def refused(server, response, status, words):
    """A request was refused with a sentence, and the server goes on."""
    assert response.status_code == status, response.text
    sentence = response.json()["error"]
    assert words in sentence and sentence and "\n" not in sentence, sentence
    assert len(infer(server, np.ones((1, 64), np.int64))) == 1


@pytest.mark.parametrize(
    "change, status, words",
    [
        ({"shape": [1, 3], "data": [1, 2, 3]}, 400, "Expected [-1,64], got [1,3]"),
        ({"datatype": "FP32"}, 400, "'FP32', but model 'siglip_text' expects 'INT64'"),
        ({"name": "WRONG"}, 400, "WRONG"),
        ({"data": [32000] + [1] * 63}, 400, "token id 32000 at row 0, position 0 of INPUT_IDS is outside the vocabulary (0 to 31999)"),
        ({"data": [-1] + [1] * 63}, 400, "-1"),
        ({"data": [2**62] + [1] * 63}, 400, str(2**62)),
        ({"shape": [33, 64], "data": [1] * 64 * 33}, 400, "batch-size must be <= 32"),
        ({"shape": [10**9, 64]}, 400, "too many elements"),
        ({"data": ["a"] * 64}, 500, "Unable to parse 'data'"),
        ({"data": [1.5] * 64}, 500, "Unable to parse 'data'"),
        ({"data": [1] * 63}, 500, "Shape does not match"),
    ],
)
def test_bad_requests_are_refused_in_words(server, change, status, words):
    tensor = {"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", "data": [1] * 64} | change
    refused(server, requests.post(f"{server.models}/siglip_text/infer", json={"inputs": [tensor]}), status, words)


@pytest.mark.parametrize(
    "body, headers, status, words",
    [
        (b"hello", {}, 500, "failed to parse the request JSON buffer"),
        (b'{"inputs": [{"name": "INPUT_IDS", "shape": [1, 6', {}, 500, "failed to parse the request JSON buffer"),
        (b"[" * 100_000, {}, 400, "Nesting deeper"),
        (b"\xff\xfe", {}, 500, "failed to parse the request JSON buffer"),
        (b"{}", {}, 500, "'inputs'"),
        (b"", {}, 400, "Expected 512, got 0"),
        (b"x" * 100, {"Inference-Header-Content-Length": "0"}, 400, "Expected 512, got 100"),
        (b'{"inputs":[]}', {"Inference-Header-Content-Length": "9999"}, 400, "9999"),
    ],
)
def test_bodies_that_are_none_are_refused(server, body, headers, status, words):
    response = requests.post(f"{server.models}/siglip_text/infer", data=body, headers=headers)
    refused(server, response, status, words)


def test_truncated_bodies_are_refused(server):
    row = np.ones((1, 64), np.int64).tobytes()
    assert np.array_equal(embedding(binary(server, 512, row)), infer(server, np.ones((1, 64), np.int64)))
    refused(server, binary(server, 512, row[:100]), 400, "412 additional bytes")
    refused(server, binary(server, 100, row[:100]), 400, "Expected 512, got 100")
    refused(server, binary(server, 512, row + b"x"), 400, "unexpected additional input data")

    # A body that ends before its Content-Length, with the line half closed and with it cut.
    head = b'POST /v2/models/siglip_text/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"inputs":'
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(head)
        line.shutdown(socket.SHUT_WR)
        answer = line.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"error" in answer, answer
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(head)
    assert len(infer(server, np.ones((1, 64), np.int64))) == 1


def test_unknown_models_and_paths_are_refused(server):
    refused(server, requests.post(f"{server.models}/nope/infer", json={"inputs": []}), 404, "'nope'")
    refused(server, requests.get(f"{server.models}/nope"), 404, "'nope'")
    refused(server, requests.get(f"http://{server.http}/nowhere"), 404, "")
    with pytest.raises(http.InferenceServerException, match="nope"):
        http.InferenceServerClient(server.http).get_model_metadata("nope")


def test_metrics(server):
    infer(server, np.ones((2, 64), np.int64))
    text = requests.get(f"http://{server.metrics}/metrics").text
    assert re.search(r'nv_inference_request_success\{model="siglip_text",version="1"\} [1-9]', text), text


def test_answers_say_how_they_were_batched(server):
    with ThreadPoolExecutor(40) as executor:
        ids = np.ones((1, 64), np.int64).flatten().tolist()
        tensor = {"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", "data": ids}
        post = lambda _: requests.post(f"{server.models}/siglip_text/infer", json={"inputs": [tensor]})
        sizes = [int(response.headers["x-siglip-batch-size"]) for response in executor.map(post, range(200))]
    assert all(1 <= size <= 32 for size in sizes) and max(sizes) > 1
