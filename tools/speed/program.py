"""This program, measured from outside."""

import json
import statistics
import subprocess
import time

import numpy as np

from served import Server


class Program:
    def __init__(self, program, model, tower, threads):
        self.program, self.model, self.tower, self.threads = program, model, tower, str(threads)

    def bench(self, precision, batches, seconds):
        """What `siglip bench` says of each batch size, measured one after the other in one process."""
        sizes = ",".join(map(str, batches))
        options = ["--tower", self.tower, "--batch-size", sizes, "--seconds", str(seconds), "--json"]
        return [json.loads(line) for line in self.run("bench", precision, options).splitlines()]

    def first_embedding_s(self, precision, rounds, work):
        """The median time from the start of `siglip embed` with one text or image to its end."""
        if self.tower == "text":
            options, text = ["--text", "-"], "a photo of two cats\n"
        else:
            from PIL import Image

            image, text = work / "image.png", ""
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (384, 384, 3), np.uint8)).save(image)
            options = ["--images", str(image)]
        times = []
        # The first one brings the weights into the page cache.
        for _ in range(rounds + 1):
            start = time.perf_counter()
            self.run("embed", precision, [*options, "--output", str(work / "siglip.npy")], text)
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    def embeddings(self, precision, parts):
        """Those of rows in several parts, through the server."""
        with Server(self.program, self.model, precision, ["--threads", self.threads]) as server:
            return np.concatenate([(server.text if self.tower == "text" else server.vision)(part) for part in parts])

    def run(self, command, precision, options, text=""):
        arguments = ["--model", str(self.model), "--precision", precision, "--threads", self.threads, *options]
        command = [self.program, "--log", "error", command, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, input=text, text=True).stdout
