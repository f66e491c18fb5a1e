"""The KServe SDK's inference clients, over REST (v2) and gRPC."""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import requests

CLIENT = pathlib.Path(__file__).parent / "kserve_client.py"


def test_the_kserve_clients(server):
    python = os.environ.get("KSERVE_PYTHON")
    if not python:
        pytest.skip("KSERVE_PYTHON is not set: the KServe SDK could not be installed")
    done = subprocess.run([python, CLIENT, server.http, server.grpc], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    tensor = {"name": "INPUT_IDS", "shape": [2, 64], "datatype": "INT64", "data": [1] * 128}
    reply = requests.post(f"{server.models}/siglip_text/infer", json={"inputs": [tensor]}).json()
    expected = np.array(reply["outputs"][0]["data"], np.float32).reshape(2, -1)
    for door, said in json.loads(done.stdout.splitlines()[-1]).items():
        assert said["health"] and all(said["health"]), door
        for answer in said["answers"]:
            assert (answer["id"], answer["model"]) == ("mine", "siglip_text"), door
            assert np.array_equal(np.array(answer["embeddings"], np.float32).reshape(2, -1), expected), door
        assert said["texts"]["model"] == "embed_text"
        assert np.array(said["texts"]["embeddings"]).size == expected.size
