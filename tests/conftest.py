"""Starts the real program on the embedded model, once for all tests, on the ports that the page's clients expect."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest
import requests

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "demo" / "model"
PROGRAM = os.environ.get("SIGLIP_BIN", str(ROOT / "target" / "debug" / "siglip"))
# The tests read the program's words and choose its options: none may come from outside.
for name in [name for name in os.environ if name.startswith("SIGLIP_") and name != "SIGLIP_BIN"]:
    del os.environ[name]


class Server:
    """A running `siglip serve`."""

    def __init__(self, *args):
        self.process = subprocess.Popen(
            [PROGRAM, "serve", *args], stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}
        )
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            if found := re.search(r"HTTP on (\S+), gRPC on (\S+), metrics on (\S+)", line):
                self.http, self.grpc, self.metrics = found.groups()
                return
        raise RuntimeError(f"the server did not start: {self.log}")

    @property
    def models(self):
        return f"http://{self.http}/v2/models"

    def metric(self, series):
        """The value of one series of the metrics; the sum over its models or towers, if no labels are named."""
        text = requests.get(f"http://{self.metrics}/metrics").text
        values = re.findall(rf"^{re.escape(series)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert values, f"there is no series {series} in: {text}"
        return sum(map(float, values))

    def stop(self, sent=signal.SIGTERM):
        """Sends a signal and returns the exit code."""
        self.process.send_signal(sent)
        self.log += self.process.stderr.read()
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def server():
    for port in (8000, 8001, 8002):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.fail(f"port {port} is in use: the page's clients speak to it, so these tests need it free")
    server = Server("--demo")
    yield server
    assert server.process.poll() is None, f"the server ended during the tests: {server.log}"
    assert server.stop() == 0


@pytest.fixture()
def other_server():
    """Starts further servers on free ports and ends them with the test."""
    servers = []

    def start(*args):
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        servers.append(Server(*args, *ports))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


def run(*args, **options):
    """Runs the program to its end."""
    return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=300, **options)


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
