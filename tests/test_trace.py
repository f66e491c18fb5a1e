"""Traces in a file, in the form of Triton's documentation (Triton Server Trace, JSON Trace Output)."""

import json
import time

import numpy as np
import tritonclient.grpc
import tritonclient.http

from conftest import run

IDS = np.random.default_rng(3).integers(0, 32000, (2, 64))
STEPS = [
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
]


def infer(module, address, request_id="", ids=IDS, model="siglip_text"):
    with module.InferenceServerClient(address) as client:
        tensor = module.InferInput("INPUT_IDS", ids.shape, "INT64")
        tensor.set_data_from_numpy(ids)
        return client.infer(model, [tensor], request_id=request_id).as_numpy("EMBEDDING")


def read(path):
    """A file's requests, each with its timestamps and tensors."""
    requests = {}
    for entry in json.loads(path.read_text()):
        if "model_name" in entry:
            requests[entry["id"]] = entry | {"timestamps": [], "tensors": {}}
        elif "timestamps" in entry:
            requests[entry["id"]]["timestamps"] += entry["timestamps"]
        else:
            requests[entry["id"]]["tensors"][entry["activity"]] = entry["tensor"]
    return list(requests.values())


def test_times_and_tensors_of_requests_at_every_door(other_server, tmp_path):
    file = tmp_path / "trace.json"
    server = other_server(
        "--demo", "--trace-file", str(file), "--trace-rate", "1", "--trace-level", "TIMESTAMPS,TENSORS"
    )
    before = time.time_ns()
    embedding = infer(tritonclient.http, server.http, "over HTTP")
    infer(tritonclient.grpc, server.grpc, "over gRPC")
    with tritonclient.http.InferenceServerClient(server.http) as client:
        text = tritonclient.http.InferInput("INPUT_TEXT", (1, 1), "BYTES")
        text.set_data_from_numpy(np.array([["a photo of a cat"]], dtype=object))
        client.infer("embed_text", [text])
        shown = client.get_trace_settings()
    assert server.stop() == 0
    assert shown["trace_file"] == str(file) and shown["trace_level"] == ["TIMESTAMPS", "TENSORS"]

    traces = read(file)
    assert [trace["request_id"] for trace in traces] == ["over HTTP", "over gRPC", ""]
    assert [trace["model_name"] for trace in traces] == ["siglip_text", "siglip_text", "embed_text"]
    assert len({trace["id"] for trace in traces}) == 3 and all(trace["model_version"] == 1 for trace in traces)
    for trace in traces:
        assert [step["name"] for step in trace["timestamps"]] == STEPS
        times = [step["ns"] for step in trace["timestamps"]]
        assert before < times[0] and times == sorted(times) and times[-1] < time.time_ns()
    for trace in traces[:2]:
        given = trace["tensors"]["TENSOR_QUEUE_INPUT"]
        assert (given["name"], given["shape"], given["dtype"]) == ("INPUT_IDS", "2,64", "INT64")
        assert [int(value) for value in given["data"].split(",")] == IDS.flatten().tolist()
        taken = trace["tensors"]["TENSOR_BACKEND_OUTPUT"]
        assert (taken["name"], taken["dtype"]) == ("EMBEDDING", "FP32")
        values = np.array(taken["data"].split(","), dtype=np.float32)
        assert np.array_equal(values, embedding.flatten())
    assert traces[2]["tensors"]["TENSOR_QUEUE_INPUT"]["data"] == "a photo of a cat"


def test_rate_count_and_files_of_a_few_traces(other_server, tmp_path):
    file = tmp_path / "trace.json"
    options = ["--trace-rate", "2", "--trace-count", "5", "--trace-log-frequency", "2"]
    server = other_server("--demo", "--trace-file", str(file), *options)
    for index in range(14):
        infer(tritonclient.http, server.http, str(index))
    with tritonclient.http.InferenceServerClient(server.http) as client:
        assert client.get_trace_settings()["trace_count"] == "0"
        # A model's own setting begins anew, and is for that model alone.
        client.update_trace_settings("siglip_text", {"trace_count": "1", "trace_rate": "1"})
    for index in range(14, 17):
        infer(tritonclient.http, server.http, str(index))
    assert server.stop() == 0
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["trace.json.0", "trace.json.1", "trace.json.2"]
    assert [[trace["request_id"] for trace in read(path)] for path in files] == [["1", "3"], ["5", "7"], ["9", "14"]]


def test_nothing_is_traced_until_a_client_asks(other_server, tmp_path):
    file = tmp_path / "trace.json"
    server = other_server("--demo", "--trace-file", str(file), "--trace-level", "OFF", "--trace-rate", "1")
    infer(tritonclient.http, server.http, "before")
    with tritonclient.http.InferenceServerClient(server.http) as client:
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
        infer(tritonclient.http, server.http, "while")
        client.update_trace_settings(settings={"trace_level": None})
    infer(tritonclient.http, server.http, "after")
    assert server.stop() == 0
    assert [trace["request_id"] for trace in read(file)] == ["while"]


def test_a_request_that_fails_has_its_beginning_and_its_end(other_server, tmp_path):
    file = tmp_path / "trace.json"
    server = other_server("--demo", "--trace-file", str(file), "--trace-rate", "1")
    try:
        infer(tritonclient.http, server.http, ids=IDS[:, :3].copy())
    except tritonclient.utils.InferenceServerException:
        pass
    assert server.stop() == 0
    (trace,) = read(file)
    assert [step["name"] for step in trace["timestamps"]] == ["REQUEST_START", "REQUEST_END"]


def test_a_trace_file_that_cannot_be_written(tmp_path, other_server):
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    result = run("serve", "--demo", "--trace-file", tmp_path / "no" / "folder", *ports)
    assert result.returncode != 0 and "--trace-file" in result.stderr and "folder" in result.stderr
    assert run("serve", "--demo", "--trace-rate", "5").returncode == 2
    # Without a byte of room: said once, and requests are answered as ever.
    server = other_server("--demo", "--trace-file", "/dev/full", "--trace-rate", "1")
    for _ in range(3):
        assert infer(tritonclient.http, server.http).shape[0] == 2
    assert server.stop() == 0
    assert server.log.count("nothing is traced any more") == 1
