"""HTTP requests at random: those that clients send, with something changed that a server has to notice or forgive."""

import copy
import gzip
import json
import random
import struct
import zlib
from typing import NamedTuple

MODEL = "siglip_text"
INFER = f"/v2/models/{MODEL}/infer"
IDS = [(37 * index) % 32000 for index in range(64)]
RAW = struct.pack("<64q", *IDS)

# Values of every type, among them some at the ends of ranges.
VALUES = [None, True, False, 0, 1, -1, 5, 1.5, 1e3, 1e300, "", "x", "1", "true", [], {}, [1], {"a": 1}, [[]]]
VALUES += [2**31, 2**63 - 1, 2**63, -(2**63)]
PARAMETERS = ["binary_data", "binary_data_size", "classification", "shared_memory_region", "shared_memory_byte_size"]
PARAMETERS += ["shared_memory_offset", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"]
PARAMETERS += ["binary_data_output", "triton_enable_empty_final_response", "headers", "x"]
SHAPES = [[2, 64], [64], [1, 63], [1, 65], [1, -1], ["1", 64], [1.0, 64], [1, 64, 1], [], None, "x", {}, [-1, 64]]
SHAPES += [[33, 64], [32, 64], [1, [64]], [True, 64], [1, None]]
DATATYPES = ["INT32", "FP32", "BYTES", "int64", "", None, 5, "BF16", "BOOL", "UINT64", "INT64 ", "FP64", []]
NAMES = ["input_ids", "", None, 5, "EMBEDDING", "INPUT_IDS ", [], "é", "\n"]
ENCODINGS = ["gzip", "deflate", "identity", "br", "GZIP", "", "gzip, deflate", "x-gzip"]
ACCEPTED = ["gzip", "deflate", "gzip, deflate", "identity", "*", "gzip;q=0", "deflate;q=0.5, gzip;q=0.4", "GZIP"]
ACCEPTED += ["br, gzip", "gzip;q=abc", "identity;q=1, gzip;q=0.5"]
VERSIONS = ["1", "2", "x", "", "01", "-1", "1.0"]
PIECES = ['"', ",", "{", "}", "[", "]", "0", "-", "\\", "\0", " ", "e", ".", "NaN", "Infinity", "\n", "/*c*/", "\ufeff"]
BODIES = ["", "{}", "[]", "null", "5", '"x"', "{", "x", "  ", '{"inputs":', "[1,2", "{} x", "\ufeff{}", "{}\0x"]

PATHS = ["/v2", "/v2/", "/", "/v3", "/metrics", "/v2/x", "/v2/health", "/v2/health/live", "/v2/health/ready", "/v2/models"]
PATHS += [f"/v2/models/{model}{version}{action}" for model in [MODEL, "nope"] for version in ["", *map("/versions/{}".format, VERSIONS)]
          for action in ["", "/ready", "/config", "/stats", "/x"]]  # fmt: skip
PATHS += [f"/v2/repository{rest}" for rest in ["", "/index", "/x/index", f"/models/{MODEL}/load", f"/models/{MODEL}/unload",
          "/models/nope/load", f"/models/{MODEL}/x"]]  # fmt: skip
PATHS += [f"/v2/{kind}sharedmemory{rest}" for kind in ["system", "cuda"] for rest in
          ["", "/x", "/status", "/register", "/unregister", "/region/x/status", "/region/x/register", "/region/x/unregister"]]  # fmt: skip
SETTINGS = ["/v2/logging", "/v2/trace/setting", f"/v2/models/{MODEL}/trace/setting", "/v2/models/nope/trace/setting"]
GENERATE = [f"/v2/models/{model}/{action}" for model in [MODEL, f"{MODEL}/versions/1", "nope"] for action in ["generate", "generate_stream"]]
LOG_SETTINGS = ["log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format", "x"]
TRACE_SETTINGS = ["trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode", "x"]
TRACE_VALUES = [["TIMESTAMPS"], ["OFF"], ["x"], ["TENSORS", "OFF"], "5", "100", "-1", "-5", "5x", " 7", "4294967296", ["1"]]


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Requests:
    """An endless supply, the same for the same seed."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def next(self) -> Request:
        kinds = [self.infer, self.infer, self.binary, self.generate, self.settings, self.other]
        return self.random.choice(kinds)()

    def pick(self, values):
        return copy.deepcopy(self.random.choice(values))

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def parameters(self, names=PARAMETERS):
        if self.chance(0.2):
            return self.pick(VALUES)
        return {self.pick(names): self.pick(VALUES) for _ in range(self.pick([1, 1, 2]))}

    def infer(self) -> Request:
        body = {"inputs": [{"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", "data": list(IDS)}]}
        for _ in range(self.pick([1, 1, 1, 2, 2, 3])):
            self.change(body)
        text = json.dumps(body)
        if self.chance(0.15):
            text = self.garble(text)
        content = text.encode("utf-8", "surrogatepass")
        headers = {"Content-Type": self.pick(["application/json"] * 4 + ["application/octet-stream", "text/plain", ""])}
        if self.chance(0.06):
            lengths = [str(len(content)), str(len(content) + 1), f" {len(content)}", f"{len(content)}x", "5", "-1", "1.5"]
            headers["Inference-Header-Content-Length"] = self.pick(lengths + ["99999999999999999999"])
        path = INFER
        if self.chance(0.1):
            others = [f"/v2/models/{MODEL}/versions/{version}/infer" for version in VERSIONS]
            path = self.pick(others + [INFER + "/", INFER + "?a=b", "/v2/models//infer", "/v2/models/nope/infer", "/" + INFER])
        return self.encoded(path, headers, content)

    def binary(self) -> Request:
        """An infer request with the tensor behind the JSON."""
        tensor = {"name": "INPUT_IDS", "shape": [1, 64], "datatype": "INT64", "parameters": {"binary_data_size": 512}}
        body, raw = {"inputs": [tensor]}, RAW
        if self.chance(0.7):
            body["outputs"] = [{"name": "EMBEDDING", "parameters": {"binary_data": self.pick([True, True, False])}}]
        match self.random.randrange(5):
            case 0:
                tensor["parameters"]["binary_data_size"] = self.pick(VALUES + [511, 513, 504, 520, 1024])
            case 1:
                raw = raw[: self.pick([0, 1, 511, 504, 256])]
            case 2:
                raw += b"12345678" * self.pick([1, 8, 64])
            case 3:
                self.change(body)
        header = json.dumps(body).encode()
        lengths = {len(header)}
        if self.chance(0.08):
            lengths = {len(header) - 1, len(header) + 513}
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(self.pick(sorted(lengths)))}
        if self.chance(0.05):
            del headers["Inference-Header-Content-Length"]
        if self.chance(0.05):
            header, headers["Inference-Header-Content-Length"] = b"", "0"
        return self.encoded(INFER, headers, header + raw)

    def encoded(self, path: str, headers: dict[str, str], body: bytes) -> Request:
        if self.chance(0.07):
            headers["Content-Encoding"] = self.pick(ENCODINGS)
            packers = {"gzip": gzip.compress, "deflate": zlib.compress}
            body = packers.get(headers["Content-Encoding"], bytes)(body)
        if self.chance(0.1):
            headers["Accept-Encoding"] = self.pick(ACCEPTED)
        return Request("POST", path, headers, body)

    def change(self, body: dict) -> None:
        """One change of an infer request's document."""
        inputs = body.get("inputs")
        inputs = [each for each in inputs if isinstance(each, dict)] if isinstance(inputs, list) else []
        tensor = self.random.choice(inputs) if inputs else {}
        output = {"name": "EMBEDDING"}
        match self.random.randrange(13):
            case 0:
                tensor["shape"] = self.pick(SHAPES)
            case 1:
                tensor["datatype"] = self.pick(DATATYPES)
            case 2:
                tensor["name"] = self.pick(NAMES)
            case 3:
                tensor.pop(self.pick(["name", "shape", "datatype", "data"]), None)
            case 4 | 5:
                tensor["data"] = self.data()
            case 6:
                tensor["parameters"] = self.parameters()
            case 7:
                body["parameters"] = self.parameters()
            case 8:
                body["id"] = self.pick(VALUES + ["my-id", "é"])
            case 9:
                outputs = [[{"name": self.pick(NAMES)}], [output, dict(output)], [{**output, "datatype": 5}]]
                body["outputs"] = self.pick(outputs + VALUES)
            case 10:
                forms = {self.pick(PARAMETERS[:6]): self.pick(VALUES + [3, 2000, 2**32 + 2]) for _ in range(self.pick([1, 2]))}
                body["outputs"] = [{**output, "parameters": forms}]
            case 11:
                more = {"name": self.pick(["X", "INPUT_IDS"]), "shape": [1], "datatype": "INT64", "data": [1]}
                body["inputs"] = self.pick([*VALUES, [[]], [{}], [*inputs, more], [more, *inputs], [*inputs, 5]])
            case _:
                body[self.pick(["x", "model_name", "output", ""])] = self.pick(VALUES)

    def data(self):
        """The tensor's elements in another form, or others."""
        wrong = list(IDS)
        wrong[self.random.randrange(64)] = self.pick([value for value in VALUES if not isinstance(value, int)] + [2**63])
        forms = [[IDS], [[[IDS]]], IDS[:63], IDS + [1], wrong, [IDS[:32], IDS[32:]], [[value] for value in IDS], [IDS, []]]
        forms += [[IDS[:10], [IDS[10:63], [IDS[63]]]], IDS + IDS, [IDS, {}], [float(value) for value in IDS]]
        return self.pick(forms + [[str(value) for value in IDS], [True] * 64, *VALUES])

    def garble(self, text: str) -> str:
        at = self.random.randrange(len(text))
        match self.random.randrange(7):
            case 0:
                return text[:at]
            case 1:
                return text[:at] + self.pick(PIECES) + text[at:]
            case 2:
                return self.pick(BODIES)
            case 3:
                return text + self.pick([" ", "\n", "x", "}", ",", "\0", "{}"])
            case 4:
                return self.pick([" \n\t\r", "\ufeff"]) + text
            case 5:
                numbers = ["037", "+37", "3e1", "-0", "0x25", "37.0", "NaN", "-Infinity", "18446744073709551616"]
                return text.replace("37,", self.pick(numbers) + ",", 1)
            case _:
                return text.replace('"inputs"', self.pick(['"inputs","inputs"', '"Inputs"', "inputs", '"\\u0069nputs"']), 1)

    def generate(self) -> Request:
        values = [*VALUES, IDS, IDS + IDS, [IDS], [[value] for value in IDS], IDS[:3], IDS[:63] + [[1, 2]], {"INPUT_IDS": IDS}]
        names = ["INPUT_IDS", "INPUT_IDS", "INPUT_IDS", "parameters", "id", "x", "timeout"]
        body = {self.pick(names): self.pick(values) for _ in range(self.pick([1, 1, 2, 3]))}
        text = json.dumps(body) if self.chance(0.9) else self.pick(BODIES)
        method = "POST" if self.chance(0.9) else self.pick(["GET", "PUT"])
        headers = {"Content-Encoding": self.pick(ENCODINGS)} if self.chance(0.05) else {}
        return Request(method, self.pick(GENERATE), headers, text.encode())

    def settings(self) -> Request:
        path = self.pick(SETTINGS)
        names, values = (TRACE_SETTINGS, TRACE_VALUES) if "trace" in path else (LOG_SETTINGS, ["default", "ISO8601"])
        body = {self.pick(names): self.pick(VALUES + values * 2) for _ in range(self.pick([1, 1, 2]))}
        if self.chance(0.2):
            return Request("GET", path, {}, b"")
        text = json.dumps(body) if self.chance(0.9) else self.pick(BODIES)
        return Request("POST", path, {}, text.encode())

    def other(self) -> Request:
        path = self.pick(PATHS)
        method = self.pick(["GET"] * 5 + ["POST"] * 5 + ["PUT", "DELETE"])
        body = self.pick(BODIES)
        if "register" in path:
            names = ["key", "offset", "byte_size", "raw_handle", "device_id"]
            body = json.dumps({name: self.pick([*VALUES, "/none", 1024, {"b64": "AAAA"}]) for name in names if self.chance(0.8)})
        elif "repository" in path:
            body = json.dumps({self.pick(["ready", "parameters", "x"]): self.parameters(["unload_dependents", "x"])})
        if self.chance(0.05):
            path += self.pick(["?a=b", "/", "//", "%20", "/x"])
        return Request(method, path, {}, body.encode() if method == "POST" else b"")
