"""`siglip fetch` and Python's `huggingface_hub` against one stand-in for the Hub, and with one cache."""

import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import MODEL, PROGRAM, ROOT, run, wait_for

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/model"


class Hub(http.server.BaseHTTPRequestHandler):
    """The files of the demo model, as the Hub serves them: large ones by a redirect."""

    protocol_version = "HTTP/1.1"
    files = {path.name: path.read_bytes() for path in MODEL.iterdir()}

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        if self.path.startswith(f"/api/models/{REPO}/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            return self.reply(json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())
        if self.path.startswith(f"/api/models/{REPO}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": self.etag(name)[:40]}
                | ({"lfs": {"oid": self.etag(name), "size": len(data), "pointerSize": 134}} if large(name) else {})
                for name, data in self.files.items()
            ]
            return self.reply(json.dumps(entries).encode())
        name = self.path.rsplit("/", 1)[-1].split("?")[0]
        if name not in self.files:
            code = "EntryNotFound" if self.path.startswith(f"/{REPO}/resolve/") else "RepoNotFound"
            return self.reply(b"", 404, {"X-Error-Code": code})
        data, commit = self.files[name], {"X-Repo-Commit": COMMIT}
        if large(name) and "/resolve/" in self.path:
            linked = {"X-Linked-Etag": f'"{self.etag(name)}"', "X-Linked-Size": str(len(data))}
            return self.reply(b"", 302, commit | linked | {"Location": f"http://{self.server.cdn}/large/{name}"})
        headers = commit | {"ETag": f'"{self.etag(name)}"'}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            return self.reply(data[start:end], 206, headers)
        self.reply(data, 200, headers)

    do_HEAD = do_GET

    def reply(self, body, status=200, headers={}):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.hold and self.path.startswith("/large/") and len(body) > 1 << 20:
            self.wfile.write(body[:-1000])
            self.server.holding.set()
            self.server.hold.wait(60)
            body = body[-1000:]
        self.wfile.write(body)

    def etag(self, name):
        return hashlib.sha256(self.files[name]).hexdigest()[: 64 if large(name) else 40]

    def log_message(self, *args):
        pass


def large(name):
    return name.endswith((".safetensors", ".model"))


@pytest.fixture()
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    # While it is set and not yet fired, the last bytes of a large file do not come.
    server.hold, server.holding = None, threading.Event()
    # Another name of the same machine is another host.
    server.cdn = f"localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture()
def environment(hub, tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return clean | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def snapshot_download(environment, **options):
    """The folder that huggingface_hub gives, from a process of its own: it reads the environment when it is imported."""
    code = f"import huggingface_hub; print(huggingface_hub.snapshot_download({REPO!r}, **{options!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def gets_of_weights(hub):
    return [path for method, path in hub.asked if method == "GET" and path.endswith("model.safetensors")]


def test_python_finds_what_we_fetch(hub, environment):
    ours = run("fetch", REPO, env=environment)
    assert ours.returncode == 0, ours.stderr
    folder = ours.stdout.strip()
    assert snapshot_download(environment, local_files_only=True) == folder
    hub.asked.clear()
    # Online it fetches the files that no tower needs, and not one of ours again.
    assert snapshot_download(environment) == folder
    assert gets_of_weights(hub) == []


def test_we_find_what_python_fetched(hub, environment, tmp_path):
    folder = snapshot_download(environment)
    hub.asked.clear()
    ours = run("fetch", REPO, env=environment)
    assert (ours.returncode, ours.stdout.strip()) == (0, folder), ours.stderr
    assert [path for _, path in hub.asked] == [f"/api/models/{REPO}/revision/main"]

    hub.asked.clear()
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\na dog\n")
    outputs = [tmp_path / "hub.npy", tmp_path / "folder.npy"]
    for model, output in zip([REPO, MODEL], outputs):
        done = run("embed", "--model", model, "--text", texts, "--output", output, env=environment)
        assert done.returncode == 0, done.stderr
    assert hub.asked == [], "the model is there, so nothing is asked"
    assert np.array_equal(*map(np.load, outputs))


def test_one_tower(hub, environment, tmp_path):
    ours = run("fetch", REPO, "--tower", "text", env=environment)
    assert ours.returncode == 0, ours.stderr
    weights = os.path.join(ours.stdout.strip(), "model.safetensors")
    from safetensors import safe_open

    with safe_open(weights, "np") as file:
        names = set(file.keys())
    assert names and not any(name.startswith("vision_model.") for name in names)
    assert os.path.getsize(weights) < len(Hub.files["model.safetensors"])
    # Python's tools do not take it for the model.
    code = f"import huggingface_hub as h; print(h.try_to_load_from_cache({REPO!r}, 'model.safetensors'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "None", done.stderr
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\n")
    done = run("embed", "--model", REPO, "--text", texts, "--output", tmp_path / "e.npy", env=environment)
    assert done.returncode == 0 and "text tower only" in done.stderr, done.stderr


def test_both_towers_one_by_one(hub, environment, tmp_path):
    for tower in ("vision", "text"):
        done = run("fetch", REPO, "--tower", tower, env=environment)
        assert done.returncode == 0 and done.stdout.strip().endswith(f"/{tower}"), done.stderr
    hub.asked.clear()
    outputs = [tmp_path / "hub.json", tmp_path / "folder.json"]
    pictures = ROOT / "demo" / "images"
    for model, output in zip([REPO, MODEL], outputs):
        done = run("classify", "--model", model, "--images", pictures, "--labels", "cat,dog", "--json", env=environment)
        assert done.returncode == 0, done.stderr
        output.write_text(done.stdout)
    assert hub.asked == [], "both are there, so nothing is asked"
    assert outputs[0].read_text() == outputs[1].read_text()


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_a_killed_fetch_of_a_tower_goes_on_and_is_right(hub, environment, tower):
    from safetensors.numpy import load

    hub.hold = threading.Event()
    process = subprocess.Popen([PROGRAM, "fetch", REPO, "--tower", tower], env=environment, stderr=subprocess.DEVNULL)
    cache = pathlib.Path(environment["HF_HOME"])
    wait_for(lambda: hub.holding.is_set() and any(cache.rglob("*.siglip.incomplete")))
    process.kill()
    process.wait()
    hub.hold.set()
    done = run("fetch", REPO, "--tower", tower, env=environment)
    assert done.returncode == 0, done.stderr
    got = load(pathlib.Path(done.stdout.strip(), "model.safetensors").read_bytes())
    whole = load(Hub.files["model.safetensors"])
    assert any(name.startswith(f"{tower}_model.") for name in got)
    for name, tensor in got.items():
        assert np.array_equal(tensor, whole[name]), name


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [["embed", "--text", "-", "-o", "e.npy"], ["serve"]])
def test_a_fetch_ends_at_a_signal(hub, environment, tmp_path, command, sent):
    hub.hold = threading.Event()
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"] if command == ["serve"] else []
    process = subprocess.Popen(
        [PROGRAM, *command, "--model", REPO, *ports],
        env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
        # What a shell starts in the background is deaf to SIGINT, and so is what that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(hub.holding.is_set)
    process.send_signal(sent)
    assert process.wait(timeout=20) not in (0, 1)
    hub.hold.set()
    assert not any(path.name.startswith((".e.npy", "e.npy")) for path in tmp_path.iterdir())


def test_offline_in_a_namespace_without_a_route(hub, environment, tmp_path):
    unshare = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let the test make a network namespace")
    assert run("fetch", REPO, env=environment).returncode == 0
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\n")
    command = [PROGRAM, "embed", "--model", REPO, "--text", texts, "--output", tmp_path / "e.npy"]
    for offline in ["0", "1"]:
        env = environment | {"HF_HUB_OFFLINE": offline}
        done = subprocess.run([*unshare, *map(str, command)], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr


def test_words(hub, environment, tmp_path):
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    done = run("bench", "--model", REPO, env=offline)
    assert done.returncode == 1 and "the cache has nothing of org/model (looked in " in done.stderr
    done = run("bench", env=offline)
    assert done.returncode == 1 and "no model is named, so google/siglip-so400m-patch14-384 is meant" in done.stderr
    done = run("fetch", "model", env=environment)
    assert done.returncode == 2 and "`model` is not the name of a model on the Hub" in done.stderr
    done = run("fetch", REPO, "--endpoint", f"http://127.0.0.1:{hub.server_port}/nowhere", env=environment)
    assert done.returncode == 1 and "there is no model org/model on http://127.0.0.1" in done.stderr
