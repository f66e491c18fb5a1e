"""`tritonclient.http` against both text endpoints: in the binary form, which it uses by default, and in JSON."""

import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient("localhost:8000")

texts = np.array([["a photo of a cat"], ["a photo of a dog"]], dtype=object)
ids = np.ones((1, 64), dtype=np.int64)
ids[0, :3] = [262, 266, 1304]

for binary in (True, False):
    text = http.InferInput("INPUT_TEXT", texts.shape, "BYTES")
    text.set_data_from_numpy(texts, binary_data=binary)
    output = http.InferRequestedOutput("EMBEDDING", binary_data=binary)
    text_embeddings = client.infer("embed_text", [text], outputs=[output]).as_numpy("EMBEDDING")

    input_ids = http.InferInput("INPUT_IDS", ids.shape, "INT64")
    input_ids.set_data_from_numpy(ids, binary_data=binary)
    output = http.InferRequestedOutput("EMBEDDING", binary_data=binary)
    ids_embedding = client.infer("siglip_text", [input_ids], outputs=[output]).as_numpy("EMBEDDING")

    print("binary" if binary else "JSON", "embed_text", text_embeddings.shape, "siglip_text", ids_embedding.shape)
