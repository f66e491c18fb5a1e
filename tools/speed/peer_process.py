"""A peer in a process of its own, which is stopped except while it is asked."""

import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path

from speed import exports
from speed.peers import PEERS

# How long a peer may take to end by itself.
ENDING_S = 20


class PeerProcess:
    """Use it in a `with`: a stopped process does not end by itself."""

    def __init__(self, peer, precision, model, tower, inputs, threads, work):
        self.name, _, files = PEERS[peer]
        self.precision, self.log = precision, work / f"{tower}-{peer}-{precision}.log"
        kind = files[precision]
        file = exports.path(kind, model, tower, inputs, work) if kind else model
        read(file if file.is_dir() else file.parent)
        start = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = serve, self.log, theirs, peer, file, tower, inputs, precision, threads
        self.process = context.Process(target=exports.logged, args=arguments, daemon=True)
        self.process.start()
        # Else the connection would stay open when the process ends.
        theirs.close()
        self.answer()
        #: From the process's start, Python's included, to its first embedding; its files are in the page cache.
        self.first_embedding_s = time.perf_counter() - start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGCONT)
        self.connection.close()
        self.process.join(ENDING_S)
        self.process.kill()
        self.process.join()

    def rate(self, batch, seconds):
        """Rows a second."""
        return self.ask((batch, seconds))

    def embeddings(self, rows):
        return self.ask(rows)

    def peak_mb(self):
        """The process's peak memory so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024 / 1e6

    def ask(self, question):
        os.kill(self.process.pid, signal.SIGCONT)
        self.connection.send(question)
        return self.answer()

    def answer(self):
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            sys.exit(f"{self.name} in {self.precision} failed:\n{self.log.read_text()[-3000:]}")
        os.kill(self.process.pid, signal.SIGSTOP)
        return answer


def read(folder):
    """Brings a model's files into the page cache."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def serve(connection, peer, file, tower, inputs, precision, threads):
    """The other end: answers (batch, seconds) with rows a second, and rows with their embeddings."""
    embed = PEERS[peer][1](file, tower, inputs.name, precision, threads)
    embed(inputs.rows[:1])
    connection.send("ready")
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        if isinstance(question, tuple):
            connection.send(measure(embed, inputs.rows, *question))
        else:
            connection.send(embed(question))


def measure(embed, rows, batch, seconds):
    rows = rows[:batch]
    embed(rows)
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        embed(rows)
        times.append(time.perf_counter() - start)
    return batch * len(times) / sum(times)
