"""The `curl` commands of the README and the protocol's page, as they are written there."""

import json
import re
import shutil
import subprocess

import pytest

from conftest import ROOT

PAGES = ["README.md", "docs/protocol.md"]


def commands():
    """Every `curl` of the pages' shell blocks."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL):
            if block.startswith("curl "):
                yield pytest.param(block, id=f"{page}: {block.splitlines()[0][:60]}")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("command", list(commands()))
def test_the_pages_commands_work(server, command):
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout and "error" not in done.stdout, done.stdout
    if done.stdout.startswith("{") and "/infer" in command:
        assert json.loads(done.stdout)["outputs"][0]["data"]


def test_there_are_commands():
    assert len(list(commands())) >= 4
