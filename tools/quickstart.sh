#!/usr/bin/env bash
# The quick start of README.md: server, SIP server and client, each a process of its own. It differs in the ports, which
# the system chooses here, so that it runs beside anything.
# Where SIPp is installed, it is called too.
# Usage: tools/quickstart.sh [tcp|tls|udp|dtls]     Builds what it needs; leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../examples/quickstart"
transport=${1:-tls}
cargo build --quiet --release --locked --bin tsc-demo --bin tsc-server --bin tsc_sip_server --bin tsc_sip_client
bin=${CARGO_TARGET_DIR:-$PWD/../../target}/release
example=$PWD
work=$(mktemp -d)
pids=()
finish() {
    # The SIP server first, so that it can say goodbye to the tunnel server.
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill -TERM "${pids[i]}" 2>/dev/null || true
        wait "${pids[i]}" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT

# Waits until a line appears in the log of the process started last. `tail` ends with that process.
wait_for() {
    timeout 20 grep -q -m1 "$1" <(exec tail -n +1 -F --pid="${pids[-1]}" "$2" 2>/dev/null) || { cat "$2"; exit 1; }
}

# Nothing is written beside the example: what somebody made there by hand stays.
cd "$work"
"$bin/tsc-demo" pki certs
printf 'alice:wonderland\n' >users

sed -E 's/^port = [0-9]+/port = 0/' "$example/tsc-server.toml" >chosen-ports.toml
"$bin/tsc-server" --config chosen-ports.toml 2>"$work/server.log" &
pids+=($!)
wait_for 'event="ready"' "$work/server.log"

# The address that an interface listens on.
address() {
    sed -n "s/.*event=\"listening\" interface=\"$1\" transport=$transport address=//p" "$work/server.log"
}

"$bin/tsc_sip_server" --server "$(address core)" --transport "$transport" --ca certs/ca.pem --users users \
    --log-level info >"$work/sip.out" 2>"$work/sip.log" &
pids+=($!)
wait_for 'SIP server ready' "$work/sip.log"

TSC_SIP_PASSWORD=wonderland "$bin/tsc_sip_client" --server "$(address access)" --transport "$transport" \
    --ca certs/ca.pem --duration 3

if command -v sipp >/dev/null; then
    host=$(hostname -I | cut -d' ' -f1)
    sipp -sn uas -i "$host" -mi "$host" -rtp_echo -m 1 -nostdin >"$work/sipp.log" 2>&1 &
    pids+=($!)
    # SIPp names its port nowhere but in its sockets: the first one is that of SIP.
    port=
    for _ in {1..200}; do
        port=$(ss -Hlunp "src $host" | sed -nE "s/.*:([0-9]+) .*pid=${pids[-1]},fd=([0-9]+).*/\2 \1/p" |
            sort -n | head -n 1 | cut -d' ' -f2)
        [ -z "$port" ] || break
        sleep 0.1
    done
    [ -n "$port" ] || { cat "$work/sipp.log"; exit 1; }
    "$bin/tsc_sip_client" --server "$(address access)" --transport "$transport" --ca certs/ca.pem \
        --no-register --sip-server "$host:$port" --call service --duration 3
fi
