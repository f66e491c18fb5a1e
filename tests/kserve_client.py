"""What `test_kserve.py` has done by the KServe SDK's two inference clients, in an environment of their own: its address
arguments are those of HTTP and gRPC, its output is JSON."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

HTTP, GRPC = sys.argv[1:]
IDS = np.ones((2, 64), np.int64)


def request(binary=True):
    tensor = InferInput("INPUT_IDS", list(IDS.shape), "INT64")
    tensor.set_data_from_numpy(IDS, binary_data=binary)
    return InferRequest("siglip_text", [tensor], request_id="mine")


def texts():
    tensor = InferInput("INPUT_TEXT", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([["a photo of a cat"], ["a dog"]], dtype=object), binary_data=False)
    return InferRequest("embed_text", [tensor], request_id="mine")


def shown(response):
    (output,) = response.outputs
    return {"id": response.id, "model": response.model_name, "embeddings": output.as_numpy().tolist()}


async def rest():
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    url = f"http://{HTTP}"
    # Its questions for the server's health want a document in the answer, and Triton's is empty: with Triton they fail, too.
    health = [await client.is_model_ready(url, "siglip_text")]
    binary, plain, strings = [
        shown(await client.infer(url, sent, model_name=sent.model_name)) for sent in (request(), request(False), texts())
    ]
    await client.close()
    return {"health": health, "answers": [binary, plain], "texts": strings}


async def grpc():
    client = InferenceGRPCClient(GRPC)
    health = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("siglip_text")]
    answer, strings = shown(await client.infer(request())), shown(await client.infer(texts()))
    await client.close()
    return {"health": health, "answers": [answer], "texts": strings}


print(json.dumps({"rest": asyncio.run(rest()), "grpc": asyncio.run(grpc())}))
