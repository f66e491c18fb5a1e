#!/usr/bin/env bash
# Fetches perf_analyzer 2.48.0 into a folder: get_perf_analyzer.sh DIR. Prints the command that runs it.
#
# The program is in the wheel of tritonclient 2.48.0 and needs two libraries: libcudart.so.12 from the package
# nvidia-cuda-runtime-cu12, and libb64.so.0d from Debian's package libb64-0d, which is installed if this is run as root.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
run=$dir/perf_analyzer
if [ ! -x "$run" ]; then
    python3 -m pip download -q --no-deps --python-version 3.11 --only-binary=:all: \
        --platform manylinux1_x86_64 -d "$dir" tritonclient==2.48.0 >&2
    python3 -m pip download -q --no-deps --python-version 3.11 --only-binary=:all: \
        --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d "$dir" 'nvidia-cuda-runtime-cu12<13' >&2
    python3 - "$dir" <<'PY'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
for wheel in folder.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(("bin/perf_analyzer", "libcudart.so.12")):
                target = folder / ("perf_analyzer.bin" if name.endswith("analyzer") else "libcudart.so.12")
                target.write_bytes(archive.read(name))
                target.chmod(0o755)
    wheel.unlink()
PY
    if ! ldconfig -p | grep -q libb64.so.0d && [ "$(id -u)" = 0 ]; then
        (apt-get update -qq && apt-get install -y -qq libb64-0d) >&2
    fi
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/perf_analyzer.bin "$@"\n' "$dir" "$dir" >"$run"
    chmod +x "$run"
fi
"$run" --version >/dev/null 2>&1 || { echo "perf_analyzer does not run here: is libb64-0d installed?" >&2; exit 1; }
echo "$run"
