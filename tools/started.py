"""A server that was started and answers."""

import subprocess
import sys
import time
import urllib.request


def start(command: list[str], http_port: int) -> subprocess.Popen:
    """Starts a server, quietly, and waits until it says over HTTP that it is ready."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{http_port}/v2/health/ready")
            return process
        except OSError:
            time.sleep(0.05)
    process.kill()
    sys.exit(f"{command[0]} does not answer on port {http_port}")
