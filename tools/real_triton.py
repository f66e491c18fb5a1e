"""A real Triton Inference Server to measure beside: the unmodified `tritonserver` of PyPI's nvidia-pytriton (Triton 24.10,
for x86-64 and Python 3.11), with a model of the Python backend that computes the formula of the example `echo`."""

import os
import subprocess
import sys
from pathlib import Path

# NumPy 2 breaks this version of the backend.
PACKAGES = ["nvidia-pytriton==0.7.0", "numpy==1.26.4"]

CONFIG = """
name: "siglip_text"
backend: "python"
max_batch_size: 32
input [ { name: "INPUT_IDS" data_type: TYPE_INT64 dims: [64] } ]
output [ { name: "EMBEDDING" data_type: TYPE_FP32 dims: [1152] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching: {}
"""

MODEL = '''
import numpy
import triton_python_backend_utils as triton

COLUMNS = numpy.arange(1152, dtype=numpy.float32)


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        ids = triton.get_input_tensor_by_name(request, "INPUT_IDS").as_numpy().astype(numpy.float32)
        embedding = numpy.tile(ids * numpy.float32(0.001), (1, 18)) + COLUMNS
        return triton.InferenceResponse([triton.Tensor("EMBEDDING", embedding)])
'''


def command(folder: Path, ports: list[int]) -> list[str]:
    """Starts it on three ports: HTTP, gRPC and metrics. What it needs is fetched into `folder` the first time."""
    folder = folder.resolve()
    server = folder / "packages/pytriton/tritonserver"
    if not server.exists():
        install(folder, server)
    repository = folder / "models"
    (repository / "siglip_text/1").mkdir(parents=True, exist_ok=True)
    (repository / "siglip_text/config.pbtxt").write_text(CONFIG)
    (repository / "siglip_text/1/model.py").write_text(MODEL)
    names = ["http", "grpc", "metrics"]
    return [
        str(server / "bin/tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        *[f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)],
    ]


def install(folder: Path, server: Path) -> None:
    if sys.version_info[:2] != (3, 11):
        sys.exit("the real Triton's Python backend is laid out for Python 3.11 here")
    packages = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
    subprocess.run([*pip, *PACKAGES], check=True)
    # The backend's Python reads no search path but the folder that its program is in.
    python = server / "backends/python"
    (python / "triton_python_backend_stub").symlink_to(server / "python_backend_stubs/3.11/triton_python_backend_stub")
    for package in ["numpy", "numpy.libs"]:
        (python / package).symlink_to(packages / package)
    for program in [server / "bin/tritonserver", python / "triton_python_backend_stub"]:
        os.chmod(program, 0o755)
