"""The files that some peers read instead of the model folder, made once and kept."""

import multiprocessing
import os
import shutil
import sys
import zlib


def path(kind, model, tower, inputs, work):
    """The path of an export of a tower.

    It is made in a process of its own, so that what making it takes does not count as the peer's memory, and appears
    under its name only when it is whole. Another model has another folder, known by its weights' sizes and times."""
    make, file = KINDS[kind]
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(model.glob("*.safetensors"))]
    folder = work / f"{model.name}-{zlib.crc32(repr(files).encode()):08x}" / f"{tower}-{kind}"
    if not folder.exists():
        source = model if kind == "onnx" else path("onnx", model, tower, inputs, work)
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        print(f"making {folder}", file=sys.stderr, flush=True)
        log = partial.with_suffix(".log")
        arguments = make, log, source, tower, inputs, partial / file
        process = multiprocessing.get_context("spawn").Process(target=logged, args=arguments, daemon=True)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{folder} could not be made:\n{log.read_text()[-3000:]}")
        partial.rename(folder)
    return folder / file


def logged(function, log, *arguments):
    """Calls a function in a process of its own whose words go to a file: they are no part of the tables."""
    with open(log, "w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    function(*arguments)


def onnx(model, tower, inputs, file):
    """The tower in ONNX, in f32, for any batch size."""
    import torch

    from speed.peers import torch_tower

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = torch_tower(model, tower, torch.float32)

        def forward(self, rows):
            return self.tower(**{inputs.name: rows}).pooler_output

    rows = torch.from_numpy(inputs.samples[:2])
    shapes = {"rows": {0: torch.export.Dim("batch", min=1, max=512)}}
    program = torch.onnx.export(Pooled().eval(), (rows,), dynamo=True, dynamic_shapes=shapes, input_names=[inputs.name])
    program.save(file, external_data=True)


def onnx_int8(source, tower, inputs, file):
    """ONNX Runtime's dynamic quantisation: weights by channel, activations when they are known."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, file, weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=True)


def openvino_int8(source, tower, inputs, file):
    """NNCF's post-training quantisation: scales of the activations from random rows."""
    import nncf
    import openvino

    rows = nncf.Dataset([{inputs.name: row[None]} for row in inputs.calibration])
    model = openvino.Core().read_model(source)
    count = len(inputs.calibration)
    quantized = nncf.quantize(model, rows, model_type=nncf.ModelType.TRANSFORMER, subset_size=count)
    openvino.save_model(quantized, file, compress_to_fp16=False)


# Each export: how it is made, and the file's name.
KINDS = {
    "onnx": (onnx, "model.onnx"),
    "onnx-int8": (onnx_int8, "model.onnx"),
    "openvino-int8": (openvino_int8, "model.xml"),
}
