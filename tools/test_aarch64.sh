#!/usr/bin/env bash
# Runs the CPU engine's tests for aarch64 in QEMU's user mode, whose `max` processor has bf16, i8mm and dotprod.
#
# It needs, on Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
# and the target's standard library: rustup target add aarch64-unknown-linux-gnu
#
# Usage: tools/test_aarch64.sh [ARGUMENTS OF cargo test]     by default the kernels' tests alone: --lib
# An emulator shows what kernels compute, not how fast they are.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu"
if [ $# -eq 0 ]; then set -- --lib; fi
cargo test --package siglip-cpu --target aarch64-unknown-linux-gnu "$@"
