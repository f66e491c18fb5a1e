"""`tritonclient.http` against both text endpoints, in the binary form that it uses by default."""

import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient("localhost:8000")

texts = np.array([["a photo of a cat"], ["a photo of a dog"]], dtype=object)
text = http.InferInput("INPUT_TEXT", texts.shape, "BYTES")
text.set_data_from_numpy(texts)
embeddings = client.infer("embed_text", [text]).as_numpy("EMBEDDING")
print("embed_text", embeddings.shape, embeddings.dtype)

ids = np.ones((1, 64), dtype=np.int64)
ids[0, :3] = [262, 266, 1304]
input_ids = http.InferInput("INPUT_IDS", ids.shape, "INT64")
input_ids.set_data_from_numpy(ids)
embedding = client.infer("siglip_text", [input_ids]).as_numpy("EMBEDDING")
print("siglip_text", embedding.shape, embedding.dtype)
