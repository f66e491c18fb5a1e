"""Triton's four Python clients (HTTP and gRPC, plain and asyncio) with every public method they have."""

import asyncio
import contextlib
import inspect
import pathlib
import queue
import uuid

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException, shared_memory

MODULES = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
MODEL = "siglip_text"
IDS = np.random.default_rng(1).integers(0, 32000, (5, 64))
TEXTS = np.array([["a photo of a cat"], ["犬の写真 🐕"]], dtype=object)


class Client:
    """One of the four, made to look alike: asyncio's answers are waited for, messages are dictionaries."""

    def __init__(self, kind, server):
        self.module = MODULES[kind]
        self.grpc, self.aio = kind.startswith("grpc"), kind.endswith("aio")
        self.loop = asyncio.new_event_loop()
        url = server.grpc if self.grpc else server.http
        self.inner = self.wait(self.create(url))

    async def create(self, url):
        return self.module.InferenceServerClient(url)

    def wait(self, answer):
        return self.loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer

    def __getattr__(self, name):
        method = getattr(self.inner, name)
        as_json = {"as_json": True} if "as_json" in inspect.signature(method).parameters else {}
        return lambda *args, **kwargs: self.wait(method(*args, **as_json, **kwargs))

    def input(self, name, array, binary=True):
        datatype = {"int64": "INT64", "object": "BYTES"}[str(array.dtype)]
        tensor = self.module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **({} if self.grpc else {"binary_data": binary}))
        return tensor

    def output(self, binary=True, **options):
        form = {} if self.grpc else {"binary_data": binary}
        return self.module.InferRequestedOutput("EMBEDDING", **form, **options)

    def embed(self, **options):
        return self.infer(MODEL, [self.input("INPUT_IDS", IDS)], **options)

    def close_all(self):
        self.wait(self.inner.close())
        self.loop.close()


@pytest.fixture(params=MODULES)
def client(request, server):
    client = Client(request.param, server)
    yield client
    client.close_all()


@pytest.fixture(scope="session")
def expected(server):
    """The embeddings of IDS."""
    client = Client("http", server)
    embeddings = client.embed().as_numpy("EMBEDDING")
    client.close_all()
    return embeddings


def test_health(client):
    assert client.is_server_live() is True and client.is_server_ready() is True
    assert client.is_model_ready(MODEL) is True and client.is_model_ready(MODEL, "1") is True
    assert client.is_model_ready("nope") is False


def test_what_the_server_says_of_itself_and_its_models(client):
    assert {"binary_tensor_data", "statistics", "system_shared_memory"} <= set(client.get_server_metadata()["extensions"])
    metadata = client.get_model_metadata(MODEL, "1")
    (tensor,) = metadata["inputs"]
    assert (tensor["name"], tensor["datatype"]) == ("INPUT_IDS", "INT64")
    assert [int(size) for size in tensor["shape"]] == [-1, 64] and metadata["versions"] == ["1"]
    config = client.get_model_config(MODEL)
    config = config.get("config", config)
    assert config["max_batch_size"] == 32 and "dynamic_batching" in config
    index = client.get_model_repository_index()
    models = index.get("models", []) if client.grpc else index
    assert {MODEL, "embed_text", "embed_image"} <= {model["name"] for model in models}
    with pytest.raises(InferenceServerException, match="nope"):
        client.get_model_metadata("nope")


def test_statistics_count_what_was_asked(client):
    def counts():
        (statistics,) = client.get_inference_statistics(MODEL)["model_stats"]
        parts = {name: int(value["count"]) for name, value in statistics["inference_stats"].items() if "count" in value}
        return parts, int(statistics["inference_count"]), int(statistics["execution_count"])

    client.embed()
    before, rows_before, executions_before = counts()
    for _ in range(3):
        client.embed()
    after, rows, executions = counts()
    assert after["success"] - before["success"] == 3 and rows - rows_before == 15
    assert 1 <= executions - executions_before <= 3
    assert after["compute_input"] == after["compute_infer"] == after["compute_output"]
    assert MODEL in {model["name"] for model in client.get_inference_statistics()["model_stats"]}


def test_loading_and_unloading(client, server, other_server):
    # A client of the other server, of the same kind.
    kind = next(kind for kind, module in MODULES.items() if module is client.module)
    other = Client(kind, other_server("--demo", "--model-control", "explicit"))
    expected = other.embed().as_numpy("EMBEDDING")
    other.unload_model(MODEL)
    assert not other.is_model_ready(MODEL) and other.is_model_ready("embed_text") and other.is_server_ready()
    with pytest.raises(InferenceServerException, match=MODEL):
        other.embed()
    other.load_model(MODEL)
    assert other.is_model_ready(MODEL)
    assert np.array_equal(other.embed().as_numpy("EMBEDDING"), expected)
    with pytest.raises(InferenceServerException, match="failed to load 'nope'"):
        other.load_model("nope")
    other.unload_model("nope")
    other.close_all()
    with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed if polling is enabled"):
        client.unload_model(MODEL)
    with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed if polling is enabled"):
        client.load_model(MODEL)


def test_log_and_trace_settings(client):
    def value(settings, name):
        found = settings.get("settings", settings)[name]
        # As a message each value lies in a field named after its type, or in a list.
        while isinstance(found, dict):
            (found,) = found.values()
        return found

    before = int(value(client.get_log_settings(), "log_verbose_level"))
    changed = client.update_log_settings({"log_verbose_level": before + 1})
    assert int(value(changed, "log_verbose_level")) == before + 1
    assert int(value(client.get_log_settings(), "log_verbose_level")) == before + 1
    client.update_log_settings({"log_verbose_level": before})
    with pytest.raises(InferenceServerException):
        client.update_log_settings({"log_file": "/elsewhere"})

    rate = value(client.get_trace_settings(), "trace_rate")
    client.update_trace_settings(settings={"trace_rate": "77"})
    assert value(client.get_trace_settings(), "trace_rate") in ("77", ["77"])
    client.update_trace_settings(MODEL, {"trace_rate": "78"})
    assert value(client.get_trace_settings(MODEL), "trace_rate") in ("78", ["78"])
    # Without a value, a setting is what it was at the start.
    client.update_trace_settings(MODEL, {"trace_rate": None})
    with pytest.raises(InferenceServerException, match="trace file name is not given"):
        client.update_trace_settings(MODEL, {"trace_level": ["TIMESTAMPS"]})
    client.update_trace_settings(settings={"trace_rate": None})
    assert value(client.get_trace_settings(), "trace_rate") == rate


@contextlib.contextmanager
def region(size):
    """A shared-memory object: its key and its handle."""
    key = f"/siglip-{uuid.uuid4().hex}"
    handle = shared_memory.create_shared_memory_region(key, key, size)
    try:
        yield key, handle
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_system_shared_memory(client, expected):
    with region(IDS.nbytes) as (key_in, handle_in), region(expected.nbytes) as (key_out, handle_out):
        shared_memory.set_shared_memory_region(handle_in, [IDS])
        client.register_system_shared_memory("ids", key_in, IDS.nbytes)
        client.register_system_shared_memory("embeddings", key_out, expected.nbytes)
        status = client.get_system_shared_memory_status()
        regions = status["regions"] if client.grpc else {entry["name"]: entry for entry in status}
        assert int(regions["ids"]["byte_size"]) == IDS.nbytes and regions["embeddings"]["key"] == key_out
        assert client.get_system_shared_memory_status("ids")

        tensor = client.module.InferInput("INPUT_IDS", list(IDS.shape), "INT64")
        tensor.set_shared_memory("ids", IDS.nbytes)
        output = client.module.InferRequestedOutput("EMBEDDING")
        output.set_shared_memory("embeddings", expected.nbytes)
        result = client.infer(MODEL, [tensor], outputs=[output])
        assert result.get_output("EMBEDDING") is not None
        written = shared_memory.get_contents_as_numpy(handle_out, np.float32, expected.shape)
        assert np.array_equal(written, expected)

        output.set_shared_memory("embeddings", expected.nbytes + 1)
        with pytest.raises(InferenceServerException):
            client.infer(MODEL, [tensor], outputs=[output])
        output.set_shared_memory("embeddings", expected.nbytes - 4)
        with pytest.raises(InferenceServerException):
            client.infer(MODEL, [tensor], outputs=[output])

        client.unregister_system_shared_memory("ids")
        with pytest.raises(InferenceServerException, match="ids"):
            client.get_system_shared_memory_status("ids")
        client.unregister_system_shared_memory()
        status = client.get_system_shared_memory_status()
        assert not (status.get("regions") if client.grpc else status)
        with pytest.raises(InferenceServerException, match="embeddings"):
            client.infer(MODEL, [client.input("INPUT_IDS", IDS)], outputs=[output])


def test_cuda_shared_memory_without_a_gpu(client):
    assert not client.get_cuda_shared_memory_status()
    with pytest.raises(InferenceServerException):
        client.register_cuda_shared_memory("gpu", b"bm90IGEgaGFuZGxl", 0, 64)
    client.unregister_cuda_shared_memory("gpu")
    client.unregister_cuda_shared_memory()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_both_forms_of_tensors(client, expected, binary_in, binary_out):
    tensor = client.input("INPUT_IDS", IDS, binary_in)
    result = client.infer(MODEL, [tensor], outputs=[client.output(binary_out)])
    assert np.array_equal(result.as_numpy("EMBEDDING"), expected)
    texts = client.input("INPUT_TEXT", TEXTS, binary_in)
    first = client.infer("embed_text", [texts], outputs=[client.output(binary_out)]).as_numpy("EMBEDDING")
    assert first.shape == (2, expected.shape[1])
    assert np.array_equal(first, client.infer("embed_text", [texts]).as_numpy("EMBEDDING"))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client, expected, algorithm):
    names = ["compression_algorithm"]
    if not client.grpc:
        names = ["request_compression_algorithm", "response_compression_algorithm"]
    choices = [dict.fromkeys(names, algorithm), *({name: algorithm} for name in names)]
    for choice in choices:
        result = client.embed(outputs=[client.output()], **choice)
        assert np.array_equal(result.as_numpy("EMBEDDING"), expected), choice


def test_everything_that_can_go_with_a_request(client, expected):
    result = client.embed(
        request_id="mine",
        model_version="1",
        priority=3,
        timeout=10_000_000,
        sequence_id=7,
        sequence_start=True,
        sequence_end=True,
        headers={"x-of-mine": "1"},
        parameters={"any": "thing", "number": 5, "flag": True},
        **({"client_timeout": 60} if client.grpc else {"query_params": {"a": "b"}}),
    )
    assert np.array_equal(result.as_numpy("EMBEDDING"), expected)
    response = result.get_response(as_json=True) if client.grpc else result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", MODEL, "1")
    long = client.input("INPUT_TEXT", np.array([["word " * 200]], dtype=object))
    with pytest.raises(InferenceServerException, match=r"\d+ tokens"):
        client.infer("embed_text", [long])
    assert client.infer("embed_text", [long], parameters={"truncation": True}).as_numpy("EMBEDDING").shape[0] == 1


def test_classification(client, expected):
    result = client.embed(outputs=[client.output(class_count=3)]).as_numpy("EMBEDDING")
    assert result.shape == (5, 3)
    for row, values in zip(result, expected):
        best = np.argsort(-values, kind="stable")[:3]
        assert [int(text.split(b":")[1]) for text in row] == list(best)
        assert [float(text.split(b":")[0]) for text in row] == pytest.approx(list(values[best]), abs=1e-6)


def test_errors_have_a_status_and_words(client):
    with pytest.raises(InferenceServerException) as error:
        client.infer("nope", [client.input("INPUT_IDS", IDS)])
    assert "nope" in error.value.message() and error.value.status() in ("404", "StatusCode.NOT_FOUND")
    with pytest.raises(InferenceServerException) as error:
        client.infer(MODEL, [client.input("INPUT_IDS", IDS[:, :3].copy())])
    assert "Expected [-1,64], got [5,3]" in error.value.message()
    assert error.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"])
def test_a_clients_own_time_limit(other_server, kind):
    # A request alone waits a second for others, which is far longer than its client does.
    client = Client(kind, other_server("--demo", "--max-queue-delay-us", "1000000"))
    tensors = [client.input("INPUT_IDS", IDS)]
    with pytest.raises(InferenceServerException, match="(?i)deadline|timeout"):
        client.infer(MODEL, tensors, client_timeout=0.05)
    assert client.infer(MODEL, tensors, client_timeout=60).as_numpy("EMBEDDING").shape[0] == len(IDS)
    (statistics,) = client.get_inference_statistics(MODEL)["model_stats"]
    assert int(statistics["inference_count"]) == len(IDS), "the rows that nobody waits for are not computed"
    client.close_all()


def test_plugins(client):
    plugin = BasicAuth("user", "password")
    client.inner.register_plugin(plugin)
    assert client.inner.plugin() is plugin
    assert client.is_server_live()
    client.inner.unregister_plugin()
    assert client.inner.plugin() is None


def test_http_async_infer(server, expected):
    client = tritonclient.http.InferenceServerClient(server.http, concurrency=8)
    tensor = tritonclient.http.InferInput("INPUT_IDS", IDS.shape, "INT64")
    tensor.set_data_from_numpy(IDS)
    waiting = [client.async_infer(MODEL, [tensor], request_id=str(index)) for index in range(20)]
    for index, request in enumerate(waiting):
        result = request.get_result()
        assert result.get_response()["id"] == str(index)
        assert np.array_equal(result.as_numpy("EMBEDDING"), expected)
    body, header_length = client.generate_request_body([tensor])
    assert header_length and body[header_length:] == IDS.tobytes()
    client.close()


@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.http.aio])
def test_bodies_made_and_read_by_the_client_itself(server, expected, module):
    import requests

    tensor = module.InferInput("INPUT_IDS", IDS.shape, "INT64")
    tensor.set_data_from_numpy(IDS)
    body, length = module.InferenceServerClient.generate_request_body([tensor])
    headers = {"Inference-Header-Content-Length": str(length), "Accept-Encoding": "identity"}
    response = requests.post(f"{server.models}/{MODEL}/infer", data=body, headers=headers)
    length = response.headers.get("Inference-Header-Content-Length")
    parse = module.InferenceServerClient.parse_response_body
    result = parse(response.content, header_length=length and int(length))
    assert np.array_equal(result.as_numpy("EMBEDDING"), expected)


def test_grpc_async_infer(server, expected):
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    tensor = tritonclient.grpc.InferInput("INPUT_IDS", IDS.shape, "INT64")
    tensor.set_data_from_numpy(IDS)
    answers = queue.Queue()
    for index in range(20):
        client.async_infer(MODEL, [tensor], lambda result, error: answers.put((result, error)), request_id=str(index))
    seen = set()
    for _ in range(20):
        result, error = answers.get(timeout=60)
        assert error is None and np.array_equal(result.as_numpy("EMBEDDING"), expected)
        seen.add(result.get_response().id)
    assert seen == {str(index) for index in range(20)}
    client.close()


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_grpc_stream(server, expected, compression):
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    tensor = tritonclient.grpc.InferInput("INPUT_IDS", IDS.shape, "INT64")
    tensor.set_data_from_numpy(IDS)
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm=compression)
    for index in range(20):
        client.async_stream_infer("nope" if index == 7 else MODEL, [tensor], request_id=str(index))
    for index in range(20):
        result, error = answers.get(timeout=60)
        if index == 7:
            assert "nope" in str(error)
            continue
        assert error is None and result.get_response().id == str(index)
        assert np.array_equal(result.as_numpy("EMBEDDING"), expected)
    client.stop_stream()
    client.close()


def test_grpc_aio_stream(server, expected):
    async def run():
        client = tritonclient.grpc.aio.InferenceServerClient(server.grpc)
        tensor = tritonclient.grpc.aio.InferInput("INPUT_IDS", IDS.shape, "INT64")
        tensor.set_data_from_numpy(IDS)

        async def requests():
            for index in range(20):
                yield {"model_name": MODEL, "inputs": [tensor], "request_id": str(index)}

        index = 0
        async for result, error in client.stream_infer(requests()):
            assert error is None and result.get_response().id == str(index)
            assert np.array_equal(result.as_numpy("EMBEDDING"), expected)
            index += 1
        assert index == 20
        await client.close()

    asyncio.run(run())


def test_sixty_at_once_over_asyncio(server, expected):
    async def run(kind):
        module = MODULES[kind]
        client = module.InferenceServerClient(server.grpc if kind.startswith("grpc") else server.http)
        tensor = module.InferInput("INPUT_IDS", IDS.shape, "INT64")
        tensor.set_data_from_numpy(IDS)
        results = await asyncio.gather(*(client.infer(MODEL, [tensor]) for _ in range(60)))
        assert all(np.array_equal(result.as_numpy("EMBEDDING"), expected) for result in results)
        await client.close()

    asyncio.run(run("http.aio"))
    asyncio.run(run("grpc.aio"))


@pytest.mark.parametrize("kind", MODULES)
def test_no_method_is_forgotten(kind):
    source = pathlib.Path(__file__).read_text(encoding="utf-8")
    methods = [name for name in dir(MODULES[kind].InferenceServerClient) if not name.startswith("_")]
    forgotten = [name for name in methods if not any(call in source for call in (f".{name}(", f".{name}\n"))]
    assert not forgotten
