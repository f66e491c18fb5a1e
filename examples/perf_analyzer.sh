#!/usr/bin/env bash
# The original page's command. $PERF_ANALYZER is the program (see get_perf_analyzer.sh); the measurement interval can be
# given in milliseconds as the first argument; further arguments are handed on.
cd "$(dirname "$0")"
"${PERF_ANALYZER:-perf_analyzer}" \
    -m siglip_text \
    -v \
    --input-data data/siglip_text/input_ids.json \
    --measurement-mode=time_windows \
    --measurement-interval="${1:-20000}" \
    --concurrency-range=60 \
    --latency-threshold=1000 \
    "${@:2}"
