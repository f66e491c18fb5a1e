"""`siglip serve` for the scripts here: token ids and pixels in, embeddings out, as binary tensors."""

import json
import re
import subprocess
import sys
import urllib.request

import numpy as np


class Server:
    """`siglip serve` on a free port."""

    def __init__(self, program, folder, precision, options=()):
        ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
        command = [program, "serve", "--model", folder, "--precision", precision, *ports, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        log = ""
        for line in self.process.stderr:
            log += line
            if found := re.search(r"HTTP on ([\d.]+:\d+)", line):
                self.address = found[1]
                self.grpc_address = re.search(r"gRPC on ([\d.]+:\d+)", line)[1]
                return
        sys.exit(f"the server did not start: {log}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()

    def text(self, ids):
        """The embeddings of token ids, [N, context]."""
        return self.infer("siglip_text", "INPUT_IDS", "INT64", ids.astype(np.int64))

    def vision(self, pixels):
        """The embeddings of pixel values, [N, channels, height, width]."""
        return self.infer("siglip_vision", "PIXEL_VALUES", "FP32", pixels.astype(np.float32))

    def infer(self, model, name, datatype, rows):
        """The embeddings of rows, sent and read as binary tensors."""
        data = rows.tobytes()
        tensor = dict(name=name, shape=rows.shape, datatype=datatype, parameters={"binary_data_size": len(data)})
        header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        request = urllib.request.Request(
            f"http://{self.address}/v2/models/{model}/infer", header + data,
            {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request) as response:
            body, length = response.read(), int(response.headers["Inference-Header-Content-Length"])
        (output,) = json.loads(body[:length])["outputs"]
        return np.frombuffer(body[length:], np.float32).reshape(output["shape"])
