"""Embeds a string with plain `requests`: no tokenizer on the client."""

import sys

import numpy as np
import requests

text = sys.argv[1] if len(sys.argv) > 1 else "a photo of a cat"
request = {"inputs": [{"name": "INPUT_TEXT", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}
response = requests.post("http://localhost:8000/v2/models/embed_text/infer", json=request)
response.raise_for_status()
embedding = np.array(response.json()["outputs"][0]["data"], dtype=np.float32)
print(embedding)
