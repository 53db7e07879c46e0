#!/usr/bin/env bash
# The quick start of README.md with its own words: server, SIP server and client, each a process of its own.
# Usage: tools/quickstart.sh [tcp|tls|udp|dtls]     Builds what it needs; leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../examples/quickstart"
transport=${1:-tls}
cargo build --quiet --release --locked --bins
bin=${CARGO_TARGET_DIR:-$PWD/../../target}/release
work=$(mktemp -d)
pids=()
finish() {
    # The SIP server first, so that it can say goodbye to the tunnel server.
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill -TERM "${pids[i]}" 2>/dev/null || true
        wait "${pids[i]}" 2>/dev/null || true
    done
    rm -rf "$work" certs users
}
trap finish EXIT

# Waits until a line appears in the log of the process started last. `tail` ends with that process.
wait_for() {
    timeout 20 grep -q -m1 "$1" <(exec tail -n +1 -F --pid="${pids[-1]}" "$2" 2>/dev/null) || { cat "$2"; exit 1; }
}

"$bin/tsc-demo" pki certs
printf 'alice:wonderland\n' >users

"$bin/tsc-server" --config tsc-server.toml 2>"$work/server.log" &
pids+=($!)
wait_for 'event="ready"' "$work/server.log"

"$bin/tsc_sip_server" --server 127.0.0.1:4568 --transport "$transport" --ca certs/ca.pem --users users \
    --log-level info >"$work/sip.out" 2>"$work/sip.log" &
pids+=($!)
wait_for 'SIP server ready' "$work/sip.log"

TSC_SIP_PASSWORD=wonderland "$bin/tsc_sip_client" --server 127.0.0.1:4567 --transport "$transport" \
    --ca certs/ca.pem --duration 3
