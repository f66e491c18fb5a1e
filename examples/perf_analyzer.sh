#!/usr/bin/env bash
# The original page's command. $PERF_ANALYZER is the program (see get_perf_analyzer.sh). Options given to this script
# come after the page's and win over them: `perf_analyzer.sh --measurement-interval=5000`.
set -euo pipefail
cd "$(dirname "$0")"
exec "${PERF_ANALYZER:-perf_analyzer}" \
    -m siglip_text \
    -v \
    --input-data data/siglip_text/input_ids.json \
    --measurement-mode=time_windows \
    --measurement-interval=20000 \
    --concurrency-range=60 \
    --latency-threshold=1000 \
    "$@"
