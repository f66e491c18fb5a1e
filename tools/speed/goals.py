"""What the engine is meant to reach with so400m (384 pixels) on a machine with AVX-512 VNNI, without AMX, and with a BF16
whose `vdpbf16ps` takes as long as an FMA.

Rates are goals as ratios to OpenVINO's and as fractions of the machine's limit: its measured peak over the operations of
a plain pass. Seconds and megabytes hold for two threads."""

# Operations of a plain pass of one row: every position in every block.
PLAIN_GFLOP = {"text": 52.7, "vision": 666.0}

# By tower, precision and batch size: the ratio to OpenVINO, and the fraction of the limit.
RATES = {
    ("text", "bf16", 1): (1.12, 0.88),
    ("text", "bf16", 8): (1.05, 0.95),
    ("text", "bf16", 32): (1.03, 0.95),
    ("text", "int8", 1): (1.15, None),
    ("text", "int8", 8): (1.05, None),
    ("text", "int8", 32): (1.05, 0.90),
    ("text", "f32", 1): (1.10, None),
    ("text", "f32", 8): (1.04, None),
    ("text", "f32", 32): (1.04, 0.95),
    ("vision", "bf16", 1): (1.15, None),
    ("vision", "bf16", 4): (1.08, None),
    # 2.3 images/s where the peak is 1,900 GFLOP/s.
    ("vision", "int8", 1): (None, 0.81),
    ("vision", "int8", 4): (None, 0.81),
}

# By tower and precision: the lowest cosine to f32, the peak memory in MB, and seconds to the first embedding.
ENGINES = {
    ("text", "bf16"): (0.9999, 1050, 1.0),
    ("text", "int8"): (0.999, 600, None),
    ("text", "f32"): (0.999999, 1950, None),
}

# Of the texts a second at odd batch sizes, to the straight line between their neighbours'.
LINE = 0.92


def rate(tower, precision, batch, peer, ratio, of_limit):
    """Which goals a row of rates reaches; nothing where there are none."""
    of_openvino, limit = RATES.get((tower, precision, batch), (None, None))
    verdicts = []
    if of_openvino and peer == "OpenVINO":
        verdicts.append((f"ratio ≥ {of_openvino:.2f}", ratio >= of_openvino))
    if limit:
        verdicts.append((f"of the limit ≥ {limit}", of_limit >= limit))
    return words(verdicts)


def engine(tower, precision, cosine, peak_mb, first_s, peers):
    """The same for a row about our engine; `peers` are the others' cosines by name."""
    lowest, megabytes, seconds = ENGINES.get((tower, precision), (None, None, None))
    verdicts = []
    if lowest:
        verdicts.append((f"cosine ≥ {lowest}", cosine >= lowest))
    if lowest and precision == "int8" and "ONNX Runtime" in peers:
        verdicts.append(("cosine > ONNX Runtime's", cosine > peers["ONNX Runtime"]))
    if megabytes:
        verdicts.append((f"MB ≤ {megabytes}", peak_mb <= megabytes))
    if seconds:
        verdicts.append((f"s ≤ {seconds}", first_s <= seconds))
    return words(verdicts)


def line(ratio):
    """The same for an odd batch size."""
    return words([(f"≥ {LINE}", ratio >= LINE)])


def words(verdicts):
    return "; ".join(f"{goal}: {'yes' if reached else 'no'}" for goal, reached in verdicts)
