"""Writes the input file of `perf_analyzer`: the token ids of `A photo of a {name}.` for every class name.

    python examples/make_perf_data.py [NAMES.txt] [MODEL_DIR] > examples/data/siglip_text/input_ids.json
"""

import json
import sys

from transformers import AutoTokenizer

names = sys.argv[1] if len(sys.argv) > 1 else "examples/data/class_names.txt"
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2] if len(sys.argv) > 2 else "demo/model")
with open(names, encoding="utf-8") as file:
    texts = [f"A photo of a {line.strip()}." for line in file if line.strip()]
rows = tokenizer(texts, padding="max_length", max_length=64, truncation=True)["input_ids"]
json.dump({"data": [{"INPUT_IDS": {"content": row, "shape": [64]}} for row in rows]}, sys.stdout)
