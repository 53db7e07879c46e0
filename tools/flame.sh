#!/usr/bin/env bash
# A flame graph of the server under load, as SVG: tools/flame.sh udp|tcp|tls|dtls [NAME] [more options of tsc-load run]
#   tools/flame.sh udp                     docs/performance/flame-udp.svg, and where the time goes as text
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
# Where the time goes, each sample counted once, for the first of these that its stack is in.
awk '
    { count = $NF; $NF = ""; all += count; stack = $0 }
    # Handing a packet to the receiver is part of sending only on loopback.
    stack ~ /net_rx_action|__netif_receive_skb|process_backlog/ { share["loopback: reception up to the sockets"] += count; next }
    stack ~ /[Aa][Ee][Ss]|gcm|GCM|ghash|EVP_|sha512|chacha/ { share["cryptography"] += count; next }
    stack ~ /epoll_wait|epoll_pwait|futex|nanosleep|__schedule/ { share["waiting and wake-ups"] += count; next }
    stack ~ /copy_from_iter|copy_to_iter|_copy_from_user|_copy_to_user|copyin|copyout/ { share["copies in system calls"] += count; next }
    stack ~ /sys_sendm|sys_sendto|sys_write/ { share["sending, system"] += count; next }
    stack ~ /sys_recvm|sys_recvfrom|sys_read/ { share["receiving, system"] += count; next }
    stack ~ /entry_SYSCALL|do_syscall|asm_/ { share["other system calls and interrupts"] += count; next }
    stack ~ /memmove|memcpy|memset/ { share["copies in the server"] += count; next }
    { share["the server itself"] += count }
    END { for (what in share) printf "%5.1f %%  %s\n", 100 * share[what] / all, what }
' "$work/folded.txt" | sort -rn | tee "${output%.svg}.txt"
tail -n 2 "$work/load.txt"
ls -l "$output"
