"""The program's commands: files, exit codes, sentences, signals."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from http.client import HTTPConnection

import numpy as np
import pyarrow.parquet
import pytest
import requests

from conftest import MODEL, PROGRAM, run, wait_for


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory):
    """The folder of a random text tower that keeps one thread of the portable kernels busy long enough for a queue."""
    from transformers import SiglipTextConfig, SiglipTextModel

    config = SiglipTextConfig(hidden_size=256, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=4)
    folder = tmp_path_factory.mktemp("slow")
    SiglipTextModel(config).save_pretrained(folder)
    return str(folder)


def test_the_three_formats_hold_the_same(tmp_path):
    lines = ["a photo of a cat", "", "犬の写真", "naïve café — “quotes”", "x" * 60]
    source = tmp_path / "texts.txt"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("e.npy", "e.parquet", "e.jsonl"):
        done = run("embed", "--demo", "--text", source, "--output", tmp_path / name, "--truncate")
        assert done.returncode == 0, done.stderr
    array = np.load(tmp_path / "e.npy")
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text(encoding="utf-8").splitlines()]
    assert array.dtype == np.float32 and array.shape[0] == len(lines)
    assert table["text"].to_pylist() == [row["text"] for row in rows] == lines
    assert np.array_equal(array, np.array(table["embedding"].to_pylist(), np.float32))
    assert np.array_equal(array, np.array([row["embedding"] for row in rows], np.float32))
    assert os.stat(tmp_path / "e.npy").st_mode & 0o044, "the file is for its owner alone"

    done = run("embed", "--demo", "--text", "-", "-o", tmp_path / "stdin.npy", "--truncate", input="\n".join(lines))
    assert done.returncode == 0 and np.array_equal(np.load(tmp_path / "stdin.npy"), array)
    done = run("embed", "--demo", "--text", "-", "-o", tmp_path / "none.npy", input="")
    assert done.returncode == 0 and np.load(tmp_path / "none.npy").shape == (0, array.shape[1])


def test_embeddings_are_those_of_transformers(tmp_path):
    import torch
    from transformers import AutoTokenizer, SiglipTextModel

    texts = ["a photo of a dog", "red car", "the number seven", "a slice of pizza on a plate"]
    for precision, lowest in [("f32", 0.99999), ("bf16", 0.9998), ("int8", 0.995)]:
        output = tmp_path / f"{precision}.npy"
        done = run("embed", "--demo", "--text", "-", "-o", output, "--precision", precision, input="\n".join(texts))
        assert done.returncode == 0, done.stderr
        ids = AutoTokenizer.from_pretrained(MODEL)(texts, padding="max_length", max_length=64, return_tensors="pt")
        with torch.no_grad():
            model = SiglipTextModel.from_pretrained(MODEL, dtype=torch.float32).eval()
            expected = model(input_ids=ids["input_ids"]).pooler_output.double().numpy()
        got = np.load(output).astype(np.float64)
        cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() >= lowest, (precision, cosine)


@pytest.mark.parametrize(
    "text, words", [(b"ok\n\xff\xfe\n", "line 2 of standard input is not UTF-8"), (b"a\n" + b"word " * 300, "line 2")]
)
def test_a_bad_line_is_named_and_nothing_is_left(tmp_path, text, words):
    done = subprocess.run(
        [PROGRAM, "embed", "--demo", "--text", "-", "-o", tmp_path / "e.npy"], input=text, capture_output=True
    )
    assert done.returncode == 1 and words in done.stderr.decode(), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing_that_looks_whole(tmp_path):
    process = subprocess.Popen(
        [PROGRAM, "embed", "--demo", "--text", "-", "-o", tmp_path / "e.npy"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(b"a line\n" * 100)
    process.stdin.flush()
    wait_for(lambda: any(tmp_path.iterdir()))
    # The input stays open and says nothing more: nobody waits for it.
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 1 and b"interrupted" in process.stderr.read()
    assert list(tmp_path.iterdir()) == []
    process.stdin.close()


@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 1), (signal.SIGKILL, -signal.SIGKILL)])
def test_whatever_ends_a_run_the_output_of_the_last_one_stays(tmp_path, sent, code):
    (tmp_path / "e.npy").write_bytes(b"of an earlier run")
    process = subprocess.Popen(
        [PROGRAM, "embed", "--demo", "--text", "-", "-o", tmp_path / "e.npy"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    process.stdin.write(b"a line\n" * 100)
    process.stdin.flush()
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    process.send_signal(sent)
    process.stdin.close()
    assert process.wait(timeout=60) == code
    assert (tmp_path / "e.npy").read_bytes() == b"of an earlier run"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this system does not mount a tmpfs")
    try:
        for name in ("e.npy", "e.parquet", "e.jsonl"):
            done = run("embed", "--demo", "--text", "-", "-o", tmp_path / name, input="a line\n" * 2000)
            assert done.returncode == 1 and "No space left" in done.stderr, done.stderr
            assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path])


def test_what_cannot_be_written_is_said_before_the_work(tmp_path):
    folder = tmp_path / "dir.npy"
    folder.mkdir()
    # A pipe that nobody writes to: whoever reads it first never comes to an end.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for output, words in [(folder, "is a directory"), (tmp_path / "nowhere" / "e.npy", "No such file or directory")]:
        done = run("embed", "--demo", "--text", pipe, "-o", output)
        assert done.returncode == 1 and f"{output} cannot be written: {words}" in done.stderr, done.stderr
    (tmp_path / "e.files.jsonl").mkdir()
    done = run("embed", "--demo", "--images", tmp_path / "none", "-o", tmp_path / "e.npy")
    assert done.returncode == 1 and "e.files.jsonl cannot be written: is a directory" in done.stderr, done.stderr
    for command in (["classify", "--demo", "--images", "none", "--labels", "a,b"], ["validate", "--demo"]):
        done = run(*command, "--html", tmp_path / "nowhere" / "page.html")
        assert done.returncode == 1 and "page.html cannot be written" in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir.npy", "e.files.jsonl", "pipe"]


def test_the_command_line_wins_over_the_environment(tmp_path):
    def doing(*args, **variables):
        return run(*args, env=os.environ | {f"SIGLIP_{name}": value for name, value in variables.items()})

    text, none = tmp_path / "text", tmp_path / "none"
    text.write_text("a cat")
    embed = ["embed", "-o", tmp_path / "e.npy"]
    for args, variables in [
        ([*embed, "--demo", "--text", text], {"MODEL": str(none)}),
        ([*embed, "--model", MODEL, "--text", text], {"DEMO": "true"}),
        ([*embed, "--model", MODEL, "--text", text], {"DEMO": "false"}),
        ([*embed, "--text", text], {"DEMO": "false", "MODEL": str(MODEL)}),
        ([*embed, "--demo", "--text", text], {"IMAGES": str(none)}),
    ]:
        done = doing(*args, **variables)
        assert done.returncode == 0, (args, variables, done.stderr)
    page = str(tmp_path / "nowhere" / "page.html")
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    for args, variables, words in [
        (["validate", "--demo", "--reference", none], {"HTML": page, "VALID": str(none)}, "logits.json cannot be read"),
        (["validate", "--demo", "--no-cache"], {"CACHE": str(none)}, "validate needs --valid"),
        # What traces are like is no request for any.
        (["serve", "--model", none, *ports], {"TRACE_RATE": "5"}, "none` is not a folder"),
        # Two that were typed still exclude each other, as do two variables.
        ([*embed, "--demo", "--model", MODEL, "--text", text], {}, "cannot be used with"),
        ([*embed, "--text", text], {"DEMO": "true", "MODEL": str(MODEL)}, "cannot be used with"),
        (["serve", "--demo", "--trace-rate", "5"], {}, "--trace-file"),
    ]:
        done = doing(*args, **variables)
        assert done.returncode in (1, 2) and words in done.stderr, (args, variables, done.stderr)


def test_wrong_usage_is_2_and_failed_work_is_1(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(MODEL, tmp_path / name / "m")
    for args, code, words in [
        (["embed", "--demo", "--text", "-", "-o", "x.txt"], 2, ".npy, .parquet or .jsonl"),
        (["serve", "--demo", "--device", "cuda:99"], 1, "NVIDIA driver"),
        (["serve", "--demo", "--http-port", "99999"], 2, "99999"),
        (["bench", "--demo", "--precision", "fp8"], 2, "f32, bf16 or int8"),
        (["serve", "--demo", "--log", "verbose"], 2, "`verbose` is not a level"),
        (["serve", "--model", tmp_path / "a" / "m", "--model", tmp_path / "b" / "m"], 2, "two models that are called `m`"),
        (["embed", "--demo", "--text", tmp_path / "none", "-o", tmp_path / "e.npy"], 1, "none cannot be read"),
        (["bench", "--model", tmp_path], 1, "no config.json"),
        (["bench", "--model", tmp_path / "nowhere"], 1, "is not a folder"),
    ]:
        done = run(*args)
        assert done.returncode == code and words in done.stderr, (args, done)


def test_a_broken_model_is_named(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    done = run("bench", "--model", model)
    assert done.returncode == 1 and "model.safetensors" in done.stderr, done.stderr
    weights.write_bytes(whole[:5])
    assert run("bench", "--model", model).returncode == 1
    weights.write_bytes(whole)
    (model / "spiece.model").unlink()
    (model / "tokenizer.json").unlink()
    done = run("embed", "--model", model, "--text", "-", "-o", tmp_path / "e.npy", input="a")
    assert done.returncode == 1 and "tokenizer" in done.stderr, done.stderr


def test_a_model_without_a_tokenizer_serves_ids(tmp_path, other_server):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model, ignore=shutil.ignore_patterns("tokenizer.json", "spiece.model"))
    server = other_server("--model", str(model))
    assert "neither spiece.model nor tokenizer.json" in server.log
    tensor = {"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", "data": [5] * 64}
    assert requests.post(f"{server.models}/siglip_text/infer", json={"inputs": [tensor]}).status_code == 200
    response = requests.get(f"{server.models}/embed_text")
    assert response.status_code == 404 and "embed_text" in response.json()["error"]


def test_a_port_in_use_is_named(server):
    done = run("serve", "--demo")
    assert done.returncode == 1 and "port 8000" in done.stderr and "--http-port" in done.stderr, done.stderr
    ports = {"--http-port": "0", "--grpc-port": "0", "--metrics-port": "0"}
    for option, port in [("--grpc-port", "8001"), ("--metrics-port", "8002")]:
        done = run("serve", "--demo", *(word for pair in (ports | {option: port}).items() for word in pair))
        assert done.returncode == 1 and f"port {port}" in done.stderr and option in done.stderr, done.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_what_was_taken_in_is_answered_before_the_end(other_server, slow_model, sent):
    # The grace is no part of this: a slow machine may need longer than usual for the rows below.
    kernels = "--threads", "1", "--isa", "portable", "--precision", "f32"
    server = other_server("--model", slow_model, *kernels, "--shutdown-grace", "600")
    connections = [HTTPConnection(server.http, timeout=600) for _ in range(24)]
    for number, connection in enumerate(connections):
        # No row twice: it would be computed once.
        ids = [4 * number + row for row in range(4) for _ in range(64)]
        tensor = {"name": "INPUT_IDS", "shape": [4, 64], "datatype": "INT64", "data": ids}
        connection.request("POST", "/v2/models/siglip_text/infer", json.dumps({"inputs": [tensor]}))
    # All are sent, and the server reads them while the first batch is computed: 96 rows are three batches at least.
    wait_for(lambda: server.metric("nv_inference_pending_request_count") >= 12)
    time.sleep(0.3)
    waiting = server.metric("siglip_queue_rows")
    assert waiting > 0, "nothing waited: this test would show nothing"
    server.process.send_signal(sent)
    for connection in connections:
        response = connection.getresponse()
        assert response.status == 200
        assert json.load(response)["outputs"][0]["shape"] == [4, 256]
    assert server.process.wait(timeout=60) == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_though_clients_keep_coming(other_server, sent):
    server = other_server("--demo")
    tensor = {"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", "data": [5] * 64}
    statuses, refused = [], threading.Event()

    def post():
        while True:
            try:
                statuses.append(requests.post(f"{server.models}/siglip_text/infer", json={"inputs": [tensor]}).status_code)
            except requests.ConnectionError:
                return refused.set()

    threads = [threading.Thread(target=post) for _ in range(16)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(statuses) > 200)
    assert server.stop(sent) == 0, server.log
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert refused.is_set() and set(statuses) == {200}, set(statuses)


def test_a_full_queue_is_503(other_server, slow_model):
    server = other_server("--model", slow_model, "--threads", "1", "--isa", "portable", "--precision", "f32", "--max-queue-size", "8")
    tensor = {"name": "INPUT_IDS", "shape": [8, 64], "datatype": "INT64", "data": [5] * 64 * 8}
    responses = []

    def post():
        responses.append(requests.post(f"{server.models}/siglip_text/infer", json={"inputs": [tensor]}))

    threads = [threading.Thread(target=post) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 503} and len(statuses) == 40, statuses
    assert all(response.json()["error"] for response in responses if response.status_code == 503)


def test_bench_and_doctor_speak_json():
    done = run("bench", "--demo", "--seconds", "0.1", "--batch-size", "1,4", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [line["batch_size"] for line in lines] == [1, 4], done.stderr
    contract = (
        "model tower precision device batch_size engines threads items_per_s p50_ms gflop_per_item peak_gflops "
        "fraction_of_peak load_s rss_mb"
    )
    assert set(contract.split()) <= set(lines[0])
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cache"].keys() == {"models", "embeddings"}
    assert any(kernels["isa"] == "portable" and kernels["available"] for kernels in report["kernels"])


def test_the_config_file_and_the_environment(tmp_path, other_server):
    config = tmp_path / "siglip.toml"
    config.write_text("demo = true\nmax-batch-size = 4\nlog = 'warn,siglip=info'\n")
    server = other_server("--config", str(config))
    assert requests.get(f"{server.models}/siglip_text/config").json()["max_batch_size"] == 4
    done = run("serve", "--config", config, env=os.environ | {"SIGLIP_HTTP_PORT": "no"})
    assert done.returncode == 2 and "http-port" in done.stderr and "'no'" in done.stderr, done.stderr
