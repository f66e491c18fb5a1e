"""Images and labels in, embeddings and scores out: in every form in which a client may send bytes."""

import base64
import json

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http

from conftest import ROOT

CAT = (ROOT / "demo" / "images" / "cat.png").read_bytes()
DOG = (ROOT / "demo" / "images" / "dog.png").read_bytes()
LABELS = ["cat", "dog", "pizza"]


def post(server, model, body, **headers):
    return requests.post(f"{server.models}/{model}/infer", data=body, headers=headers)


def values(response, name):
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    assert output["name"] == name
    return np.array(output["data"], np.float32).reshape(output["shape"])


def tensor(name, texts, shape):
    return {"name": name, "shape": shape, "datatype": "BYTES", "data": texts}


def in_base64(server, model, images, *others, **parameters):
    texts = [base64.b64encode(image).decode() for image in images]
    inputs = [tensor("INPUT_IMAGE", texts, [len(images), 1]), *others]
    body = {"inputs": inputs, "parameters": {"base64_encoded": True, **parameters}}
    return post(server, model, json.dumps(body))


@pytest.fixture(scope="module")
def cat(server):
    return values(in_base64(server, "embed_image", [CAT]), "EMBEDDING")


def test_a_raw_request_is_the_file_and_nothing_else(server, cat):
    response = post(server, "embed_image", CAT, **{"Inference-Header-Content-Length": "0", "Accept-Encoding": "identity"})
    assert response.status_code == 200, response.text
    length = int(response.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["shape"] == list(cat.shape)
    assert np.array_equal(np.frombuffer(response.content[length:], np.float32), cat[0])


def test_binary_tensors_of_http_and_grpc(server, cat):
    images = np.array([[CAT], [DOG]], dtype=object)
    for module, url in [(tritonclient.http, server.http), (tritonclient.grpc, server.grpc)]:
        image = module.InferInput("INPUT_IMAGE", [2, 1], "BYTES")
        image.set_data_from_numpy(images)
        client = module.InferenceServerClient(url)
        for model in ("embed_image", "siglip_vision"):
            embeddings = client.infer(model, [image]).as_numpy("EMBEDDING")
            assert np.array_equal(embeddings[0], cat[0]) and not np.array_equal(embeddings[1], cat[0])
        labels = module.InferInput("LABELS", [2, 3], "BYTES")
        labels.set_data_from_numpy(np.array([LABELS, LABELS], dtype=object))
        scores = client.infer("zero_shot_image", [image, labels]).as_numpy("SCORE")
        assert list(scores.argmax(1)) == [0, 1]
        client.close()


def test_scores_are_sigmoids_of_scaled_cosines(server, cat):
    scores = values(
        in_base64(server, "zero_shot_image", [CAT], tensor("LABELS", LABELS, [1, 3]), prompt="A photo of a {text}."), "SCORE"
    )
    texts = [f"A photo of a {label}." for label in LABELS]
    text = values(post(server, "embed_text", json.dumps({"inputs": [tensor("INPUT_TEXT", texts, [3, 1])]})), "EMBEDDING")
    unit = lambda rows: rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    logits = np.log(scores[0] / (1 - scores[0].astype(np.float64)))
    cosines = (unit(text) @ unit(cat).T)[:, 0]
    scale, bias = np.polyfit(cosines, logits, 1)
    assert scale > 1 and np.abs(cosines * scale + bias - logits).max() < 1e-2, (cosines, logits)


def test_what_is_no_image_is_refused(server):
    encoded = base64.b64encode(CAT).decode()
    for body, words in [
        ({"inputs": [tensor("INPUT_IMAGE", [encoded], [1, 1])]}, "base64_encoded"),
        ({"inputs": [tensor("INPUT_IMAGE", ["no image"], [1, 1])]}, "row 0 of INPUT_IMAGE"),
        (
            {"inputs": [tensor("INPUT_IMAGE", ["%%%"], [1, 1])], "parameters": {"base64_encoded": True}},
            "row 0 of INPUT_IMAGE",
        ),
    ]:
        response = post(server, "embed_image", json.dumps(body))
        assert response.status_code == 400 and words in response.json()["error"], response.text
    response = post(server, "embed_image", CAT[:-50], **{"Inference-Header-Content-Length": "0"})
    assert response.status_code == 400 and "row 0 of INPUT_IMAGE: the PNG image" in response.json()["error"], response.text
    without_labels = {"inputs": [tensor("INPUT_IMAGE", [encoded], [1, 1])]}
    response = post(server, "zero_shot_image", json.dumps(without_labels))
    assert response.status_code == 400 and "LABELS" in response.json()["error"]
