"""gRPC requests at random, as in http_requests."""

import itertools
import random
from typing import NamedTuple

from tritonclient.grpc import service_pb2 as pb

from .http_requests import IDS, MODEL, PARAMETERS, RAW

VERSIONS = ["", "1", "2", "x", "-1", "01", " 1", "1.0", "1x", "0", "99999999999999999999"]
DATATYPES = ["", "INT32", "FP32", "BYTES", "int64", "BOOL", "UINT64", "FP16", "BF16"]
SHAPES = [[], [64], [2, 64], [1, 63], [1, -1], [1, 64, 1], [33, 64], [32, 64], [1, 2**40], [1, -64]]
TRACE_VALUES = [["TENSORS"], ["OFF"], ["OFF", "x"], ["x"], [], ["5"], ["-1"], ["-5"], ["1", "2"], ["4294967296"]]


class Call(NamedTuple):
    method: str
    message: object


class Calls:
    """An endless supply, the same for the same seed."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.pick = self.random.choice
        self.others = itertools.cycle(list(others()))

    def next(self) -> Call:
        match self.random.randrange(10):
            case 0:
                return next(self.others)
            case 1:
                return self.settings()
            case _:
                return self.infer()

    def infer(self) -> Call:
        request = pb.ModelInferRequest(model_name=MODEL)
        tensor = request.inputs.add(name="INPUT_IDS", datatype="INT64", shape=[1, 64])
        if self.random.random() < 0.6:
            request.raw_input_contents.append(RAW)
        else:
            tensor.contents.int64_contents.extend(IDS)
        for _ in range(self.pick([1, 1, 2, 3])):
            self.change(request)
        return Call("ModelInfer", request)

    def change(self, request) -> None:
        tensor = request.inputs[0] if request.inputs else request.inputs.add(name="INPUT_IDS", datatype="INT64")
        match self.random.randrange(16):
            case 0:
                request.model_name = self.pick(["", "nope", MODEL + " "])
            case 1:
                request.model_version = self.pick(VERSIONS)
            case 2:
                request.id = self.pick(["", "a", "é", "my-id"])
            case 3:
                tensor.name = self.pick(["", "X", "input_ids"])
            case 4:
                tensor.datatype = self.pick(DATATYPES)
            case 5:
                tensor.ClearField("shape")
                tensor.shape.extend(self.pick(SHAPES))
            case 6:
                self.parameter(tensor.parameters)
            case 7:
                # One only: of several that are wrong, Triton names any.
                request.ClearField("parameters")
                self.parameter(request.parameters)
            case 8:
                request.outputs.add(name=self.pick(["EMBEDDING", "EMBEDDING", "X", ""]))
            case 9:
                self.parameter(request.outputs.add(name="EMBEDDING").parameters)
            case 10:
                classes = request.outputs.add(name="EMBEDDING").parameters["classification"]
                classes.int64_param = self.pick([0, 1, 3, -1, 2000, 2**32 + 2, 2**31])
            case 11:
                request.raw_input_contents.append(self.pick([b"", RAW, b"x"]))
            case 12:
                request.ClearField("raw_input_contents")
                request.raw_input_contents.append(self.pick([b"", RAW[:8], RAW + RAW, RAW[:511]]))
            case 13:
                more = request.inputs.add(name=self.pick(["X", "INPUT_IDS"]), datatype="INT64", shape=[1])
                more.contents.int64_contents.append(1)
            case 14:
                tensor.contents.int_contents.extend([1, 2])
            case 15:
                tensor.contents.int64_contents.extend(self.pick([[1], IDS, []]))

    def parameter(self, parameters) -> None:
        value = parameters[self.pick(PARAMETERS)]
        match self.random.randrange(7):
            case 0:
                value.bool_param = self.pick([True, False])
            case 1 | 2:
                value.int64_param = self.pick([0, 1, -1, 5, 512, 2**31, 2**63 - 1, -(2**63)])
            case 3:
                value.string_param = self.pick(["", "x", "1", "true"])
            case 4:
                value.double_param = self.pick([0.0, 1.5, -1.0])
            case 5:
                value.uint64_param = self.pick([0, 1, 5, 2**63, 2**64 - 1])

    def settings(self) -> Call:
        if self.random.random() < 0.5:
            request = pb.TraceSettingRequest(model_name=self.pick(["", MODEL, "nope"]))
            for _ in range(self.pick([0, 1, 1, 2])):
                name = self.pick(["trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "x"])
                values = request.settings[name].value
                del values[:]
                values.extend(self.pick(TRACE_VALUES))
            return Call("TraceSetting", request)
        request = pb.LogSettingsRequest()
        names = ["log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format", "x"]
        value = request.settings[self.pick(names)]
        match self.random.randrange(4):
            case 0:
                value.bool_param = self.pick([True, False])
            case 1:
                value.uint32_param = self.pick([0, 1, 5])
            case 2:
                value.string_param = self.pick(["", "x", "default", "ISO8601"])
        return Call("LogSettings", request)


def others():
    """Everything but inference and settings, in all that is different about it."""
    for name, version in itertools.product([MODEL, "nope", ""], VERSIONS):
        for question in ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"]:
            yield Call(question, getattr(pb, question + "Request")(name=name, version=version))
    for model, repository in itertools.product([MODEL, "nope", ""], ["", "x"]):
        yield Call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=model, repository_name=repository))
        yield Call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=model, repository_name=repository))
    yield Call("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x"))
    for name in ["", "x"]:
        for kind in ["System", "Cuda"]:
            yield Call(f"{kind}SharedMemoryStatus", getattr(pb, f"{kind}SharedMemoryStatusRequest")(name=name))
            yield Call(f"{kind}SharedMemoryUnregister", getattr(pb, f"{kind}SharedMemoryUnregisterRequest")(name=name))
        for key, offset, size in itertools.product(["", "/none", "none"], [0, 5], [0, 64]):
            region = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
            yield Call("SystemSharedMemoryRegister", region)
        yield Call("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name=name, raw_handle=b"x", byte_size=5))
    yield Call("ServerLive", pb.ServerLiveRequest())
    yield Call("ServerReady", pb.ServerReadyRequest())
