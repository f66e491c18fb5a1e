#!/usr/bin/env bash
# Runs every fuzzer for so many seconds, from the committed corpora on: fuzz.sh [SECONDS], 60 unless told.
#
# Needs cargo-fuzz, which is installed beside the build if it is missing, and a C++ compiler. The sanitizers that it
# builds with are not stable options of the compiler; RUSTC_BOOTSTRAP lets the pinned compiler take them nevertheless, so
# that no other one is needed. Where these cannot be had it says so and ends with 0; what a fuzzer finds is an error. The
# input that it found is in fuzz/artifacts/; once it is mended, the input belongs into fuzz/corpus/, as regression-WHAT.
#
# fuzz.sh minimise TARGET DIR leaves of the inputs in DIR those that are needed (for tools/make_fuzz_corpus.py).
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
export RUSTC_BOOTSTRAP=1
version=0.13.1
tools=${CARGO_TARGET_DIR:-$PWD/../target}/fuzz-tools
export PATH=$tools/bin:$PATH

skip() {
    echo "fuzzing is skipped: $1"
    exit 0
}
command -v c++ >/dev/null || skip "a C++ compiler is needed to build libFuzzer"
cargo fuzz --version >/dev/null 2>&1 ||
    cargo install -q cargo-fuzz --version "$version" --locked --root "$tools" </dev/null ||
    skip "cargo-fuzz $version could not be installed"
# An error, and no reason to skip: without crates nothing else is built either, or fuzz/Cargo.lock is not up to date.
cargo fetch --locked

if [ "${1:-}" = minimise ]; then
    cargo fuzz cmin "$2" "$3"
    exit
fi
seconds=${1:-60}
cargo fuzz build
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT

# Fuzzes one target, and says nothing until its time is up: others run at the same time.
fuzz() {
    local output status=0
    mkdir "$found/$1"
    # New inputs go to the first folder. An input that takes ten seconds or a gigabyte is an error like any other.
    output=$(cargo fuzz run "$1" "$found/$1" "corpus/$1" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=16384 -verbosity=0 -print_final_stats=1 \
        2>&1) || status=$?
    printf '\n== %s for %s seconds\n%s\n' "$1" "$seconds" "$output"
    return "$status"
}
export -f fuzz
export seconds found
# One a core, each of which fuzzes on one thread.
cargo fuzz list | xargs -P "$(nproc)" -I TARGET bash -c 'fuzz TARGET'
