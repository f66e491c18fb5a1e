"""`perf_analyzer` against the real program, over both doors and with the options that people use."""

import json
import os
import re
import subprocess

import pytest

from conftest import ROOT

PROGRAM = os.environ.get("PERF_ANALYZER")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="PERF_ANALYZER is not set: perf_analyzer could not be had")

IDS = ROOT / "examples" / "data" / "siglip_text" / "input_ids.json"


def report(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def measure(server, *options, model="siglip_text", data=IDS):
    """One short run with the server's side of it. How steady it is depends on what else the machine does."""
    door = server.grpc if "grpc" in options else server.http
    steadiness = ["--stability-percentage=99999", "--measurement-interval=300", "--max-trials=3"]
    return report([PROGRAM, "-m", model, "-u", door, "-v", f"--input-data={data}", *steadiness, *options])


def assert_the_servers_side_is_there(text):
    for section in text.split("Server:")[1:]:
        assert int(re.search(r"Inference count: (\d+)", section)[1]) > 0
        assert int(re.search(r"Execution count: (\d+)", section)[1]) > 0
        assert int(re.search(r"Successful request count: (\d+)", section)[1]) > 0
        for part in ("queue", "compute input", "compute infer", "compute output"):
            assert re.search(rf"{part} \d+ usec", section), section
    assert "Server:" in text and "Throughput: 0 infer/sec" not in text and not re.search(r"\bfailed|Failed", text)


def test_the_pages_command(server):
    text = report([ROOT / "examples" / "perf_analyzer.sh", "1500", "--stability-percentage=99999"])
    assert_the_servers_side_is_there(text)
    server_side = text[text.index("Server:") :]
    counts = [int(re.search(rf"{name} count: (\d+)", server_side)[1]) for name in ("Inference", "Execution")]
    assert counts[0] > 2 * counts[1], "60 concurrent requests must be merged into batches"


@pytest.mark.parametrize(
    "options",
    [
        ["-i", "http", "--concurrency-range=1:5:4"],
        ["-i", "http", "--async", "--concurrency-range=16"],
        ["-i", "http", "--input-tensor-format=json", "--output-tensor-format=json"],
        ["-i", "http", "--shared-memory=system", "--output-shared-memory-size=65536", "--concurrency-range=4"],
        ["-i", "http", "-b", "8"],
        ["-i", "http", "--request-rate-range=50:100:50"],
        ["-i", "http", "-x", "1"],
        ["-i", "http", "--request-count=100"],
        ["-i", "grpc", "--concurrency-range=16"],
        ["-i", "grpc", "--async", "--concurrency-range=16"],
        ["-i", "grpc", "--streaming", "--concurrency-range=4"],
        ["-i", "grpc", "--shared-memory=system", "--output-shared-memory-size=65536", "--concurrency-range=4"],
        ["-i", "grpc", "--request-rate-range=100", "-b", "4"],
        ["-i", "grpc", "--request-parameter=any:5:int", "-x", "1"],
        ["-i", "grpc", "--grpc-compression-algorithm=gzip"],
    ],
    ids=" ".join,
)
def test_the_options(server, options):
    assert_the_servers_side_is_there(measure(server, *options))


def test_texts_with_a_parameter_that_counts(server, tmp_path):
    data = tmp_path / "texts.json"
    data.write_text(json.dumps({"data": [{"INPUT_TEXT": {"content": ["word " * 200], "shape": [1]}}]}))
    # This version has the option over gRPC only.
    options = ["-i", "grpc", "--request-parameter=truncation:true:bool", "--concurrency-range=4"]
    assert_the_servers_side_is_there(measure(server, *options, model="embed_text", data=data))


def test_its_questions_for_the_metrics(server):
    text = measure(server, "-i", "http", "--collect-metrics", f"--metrics-url={server.metrics}/metrics")
    assert_the_servers_side_is_there(text)
