"""The engines beside ours: each makes a function from rows to embeddings, float32 [N, D]."""


def torch_tower(model, tower, dtype):
    """A tower of `transformers`, eager."""
    from transformers import SiglipTextModel, SiglipVisionModel

    return {"text": SiglipTextModel, "vision": SiglipVisionModel}[tower].from_pretrained(model, dtype=dtype).eval()


def torch(model, tower, name, precision, threads):
    import torch

    torch.set_num_threads(threads)
    module = torch_tower(model, tower, {"f32": torch.float32, "bf16": torch.bfloat16}[precision])

    def embed(rows):
        tensor = torch.from_numpy(rows)
        with torch.inference_mode():
            tensor = tensor.to(module.dtype) if tensor.is_floating_point() else tensor
            return module(**{name: tensor}).pooler_output.float().numpy()

    return embed


def onnxruntime(file, tower, name, precision, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {name: rows})[0]


def openvino(file, tower, name, precision, threads):
    import openvino

    core = openvino.Core()
    # What is left unquantised is computed in bf16, which is faster and what OpenVINO does by itself where it can.
    hint = "bf16" if precision == "int8" else precision
    options = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(file), "CPU", options)
    return lambda rows: compiled({name: rows})[compiled.output(0)].copy()


# Each peer: its name, how it is loaded, and for each precision it has the export it reads; None is the model folder.
PEERS = {
    "torch": ("PyTorch", torch, {"f32": None, "bf16": None}),
    "onnxruntime": ("ONNX Runtime", onnxruntime, {"f32": "onnx", "int8": "onnx-int8"}),
    "openvino": ("OpenVINO", openvino, {"f32": "onnx", "bf16": "onnx", "int8": "openvino-int8"}),
}
