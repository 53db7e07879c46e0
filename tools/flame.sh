#!/usr/bin/env bash
# A flame graph of the server under load, as SVG: tools/flame.sh udp|tcp|tls|dtls [NAME] [more options of tsc-load run]
#   tools/flame.sh udp                     docs/performance/flame-udp.svg
#   tools/flame.sh tls before              docs/performance/flame-tls-before.svg
#   tools/flame.sh udp tun --egress tun    docs/performance/flame-udp-tun.svg
# Environment: FLAME_SERVER (the program; by default it is built), FLAME_RATE (packets a second each way, 60000), FLAME_SECONDS (8).
# Samples the processor that the server is kept to, by perf's clock: there need be no hardware counters. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
transport=${1:?udp, tcp, tls or dtls}
name=${2:-}
shift $(($# < 2 ? $# : 2))
target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/bench-tools
seconds=${FLAME_SECONDS:-8}
output=docs/performance/flame-$transport${name:+-$name}.svg

if ! command -v perf >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends linux-perf >/dev/null
fi
if ! [ -x "$tools/bin/inferno-flamegraph" ]; then
    CARGO_TARGET_DIR=$tools/target cargo install --quiet --locked --root "$tools" inferno
fi
if [ -z "${BENCH_NO_BUILD:-}" ]; then
    cargo build --release --locked --quiet --bins
fi
server=${FLAME_SERVER:-$target/release/tsc-server}

work=$(mktemp -d)
load=
# shellcheck disable=SC2317 # called by the trap
finish() {
    [ -z "$load" ] || kill -TERM "$load" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

"$target/release/tsc-load" run --spawn-server="$server" --transport "$transport" --rate "${FLAME_RATE:-60000}" \
    --windows 1 --window $((seconds + 5)) --host-buffers 4194304 --quiet "$@" >"$work/load.txt" 2>&1 &
load=$!
# The server is the generator's child; traffic flows as soon as it is busy.
pid=
for _ in $(seq 200); do
    pid=$(pgrep -P "$load" -x tsc-server || true)
    [ -z "$pid" ] || break
    sleep 0.1
done
if [ -z "$pid" ]; then
    cat "$work/load.txt"
    exit 1
fi
sleep 2
perf record --quiet -e cpu-clock -F 499 --call-graph dwarf,8192 -p "$pid" -o "$work/perf.data" -- sleep "$seconds" >/dev/null 2>&1 || true
wait "$load" || true
load=
perf script -i "$work/perf.data" --no-inline 2>/dev/null >"$work/stacks.txt"
"$tools/bin/inferno-collapse-perf" "$work/stacks.txt" 2>/dev/null >"$work/folded.txt"
# What is narrower than a thousandth is of no interest, and most of the file.
"$tools/bin/inferno-flamegraph" --minwidth 0.15 --hash --title "tsc-server, $transport${name:+, $name}" "$work/folded.txt" >"$output"
tail -n 3 "$work/load.txt"
ls -l "$output"
