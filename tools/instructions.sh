#!/usr/bin/env bash
# Counts the instructions of pieces of the way of a packet by callgrind, and compares with docs/performance/instructions.txt:
#   tools/instructions.sh                    old, new, ratio; exit code 1 if one costs 5 % more
#   tools/instructions.sh --tolerance 0.1    10 %
#   tools/instructions.sh --update           writes the file anew
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends valgrind >/dev/null
fi
# With the features of the whole workspace, as other scripts build it (not `--package`): they decide on the code.
cargo build --release --locked --quiet --bin tsc-bench
exec "${CARGO_TARGET_DIR:-target}/release/tsc-bench" instructions "$@"
