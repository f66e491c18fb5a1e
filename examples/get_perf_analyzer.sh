#!/usr/bin/env bash
# Fetches perf_analyzer 2.48.0 into a folder: get_perf_analyzer.sh DIR. Prints the path of the command that runs it; if
# it cannot be had here, says why and fails.
#
# The program is in the wheel of tritonclient 2.48.0 and needs two libraries: libcudart.so.12 from the package
# nvidia-cuda-runtime-cu12, and libb64.so.0d from Debian's package libb64-0d. Nothing is installed outside of the folder.
set -euo pipefail
fail() {
    echo "perf_analyzer cannot be had here: $1" >&2
    exit 1
}
[ "$(uname -sm)" = "Linux x86_64" ] || fail "it exists for Linux on x86-64 only"
dir=$(mkdir -p "$1" && cd "$1" && pwd)
run=$dir/perf_analyzer

fetch() {
    python3 -m pip download -q --disable-pip-version-check --no-deps --python-version 3.11 --only-binary=:all: \
        --platform manylinux1_x86_64 --platform manylinux2014_x86_64 -d "$dir" "$1" >&2 || fail "pip cannot fetch $1"
}
if [ ! -x "$run" ]; then
    fetch tritonclient==2.48.0
    fetch 'nvidia-cuda-runtime-cu12<13'
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
    # The folder is found anew at each call, so that it may be moved.
    cat >"$run" <<'SH'
#!/bin/sh
dir=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$dir/perf_analyzer.bin" "$@"
SH
    chmod +x "$run"
fi
# Asked of the linker rather than of a package list: what counts is that the program starts.
missing=$(LD_LIBRARY_PATH=$dir ldd "$dir/perf_analyzer.bin" | sed -n 's/^\t*\(.*\) => not found$/\1/p')
if [ -n "$missing" ] && command -v apt-get >/dev/null; then
    # Where nobody has asked for a list of packages yet, only root can.
    [ "$(id -u)" != 0 ] || apt-get update -qq >&2 </dev/null || true
    package=$(mktemp -d)
    (cd "$package" && apt-get download -qq libb64-0d && dpkg-deb -x libb64-0d_*.deb . &&
        cp usr/lib/*/libb64.so.0d "$dir") >&2 </dev/null || true
    rm -rf "$package"
    missing=$(LD_LIBRARY_PATH=$dir ldd "$dir/perf_analyzer.bin" | sed -n 's/^\t*\(.*\) => not found$/\1/p')
fi
[ -z "$missing" ] || fail "the libraries $(echo $missing) are missing (apt-get install libb64-0d)"
echo "$run"
