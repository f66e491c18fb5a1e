"""The original page's single request.

Changes against the page: the processor is loaded from the served model's folder (default: the demo model of this
repository) instead of from the Hub; and today's `transformers` takes images first, so the caption needs its name
(`text=`), and must be told `return_tensors="pt"`. The last line, which prints the result, is added.
"""

import sys

import numpy as np
import requests
from transformers import SiglipProcessor

model = sys.argv[1] if len(sys.argv) > 1 else "demo/model"

base_url = "http://localhost:8000/v2/models"
processor = SiglipProcessor.from_pretrained(model)
caption = (
    "A photo of a person in a spacesuit riding a unicorn on the surface of the moon"
)
input_ids_np = processor(text=caption, padding="max_length", return_tensors="pt")["input_ids"].numpy()

inference_request = {
    "inputs": [
        {
            "name": "INPUT_IDS",
            "shape": [1, 64],
            "datatype": "INT64",
            "data": input_ids_np.flatten().tolist(),
        }
    ]
}
model_response = requests.post(
    url=f"{base_url}/siglip_text/infer",
    json=inference_request,
).json()

"""
JSON response output looks like
{
    "model_name": "siglip_text",
    "model_version": "1",
    "outputs": [
        {
            "name": "EMBEDDING",
            "datatype": "FP32",
            "shape": [1, 1152],
            "data": [
                1.30078125,
                0.61572265,
                ...,
            ]
        }
    ]
}
"""

embedding = np.array(
    model_response["outputs"][0]["data"],
    dtype=np.float32
)
print(embedding)
