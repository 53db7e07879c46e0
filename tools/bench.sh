#!/usr/bin/env bash
# The whole bench: installs what it needs (Debian, root), builds, measures our server on all paths, the bare relays, and the programs
# that a user might pick instead, and writes tables, plots and all figures to docs/performance/. Takes about an hour and a half.
#   tools/bench.sh                     all of it
#   tools/bench.sh --quick             a few minutes: less of everything, to see whether it works
#   tools/bench.sh --only udp,tls      these sections; the others' results of before stay (--list tells which there are)
#   tools/bench.sh --missing           only what has no result yet
#   tools/bench.sh --no-peers          without other programs
#   tools/bench.sh --document          no measuring: tables and plots of what there is
# Results of sections are kept in target/bench/, or in $BENCH_RESULTS.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
results=${BENCH_RESULTS:-$PWD/target/bench}
tools=$target/bench-tools
export PATH=$tools/bin:$PATH:/usr/sbin:/sbin

wants_peers=yes
wants_measuring=yes
options=()
for option in "$@"; do
    case $option in
        --help | -h)
            sed -n '2,11s/^# \?//p' "$0"
            exit
            ;;
        --document) wants_measuring= ;;
        --no-peers | --list)
            wants_peers=
            options+=("$option")
            ;;
        *) options+=("$option") ;;
    esac
done

# A shell of its own: what it leaves behind goes when it ends, however it ends.
install() (
    export DEBIAN_FRONTEND=noninteractive
    # Installing a server is no wish to run it.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        # shellcheck disable=SC2064 # as it is now
        trap "rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
)

# Namespaces that a killed load generator has left, and nobody is in any more.
# shellcheck disable=SC2317 # called by the trap
sweep() {
    local space
    for space in $(ip netns list 2>/dev/null | cut -d' ' -f1 | grep '^tsc-load-' || true); do
        kill -0 "$(cut -d- -f3 <<<"$space")" 2>/dev/null || ip netns delete "$space" || true
    done
}

need=()
command -v ip >/dev/null || need+=(iproute2)
command -v setpriv >/dev/null || need+=(util-linux)
if [ -n "$wants_measuring" ] && [ -n "$wants_peers" ]; then
    command -v turnserver >/dev/null || need+=(coturn)
    command -v openvpn >/dev/null || need+=(openvpn)
    command -v wireguard-go >/dev/null || need+=(wireguard-go)
    command -v wg >/dev/null || need+=(wireguard-tools)
    command -v stunnel >/dev/null || need+=(stunnel4)
fi
[ ${#need[@]} -eq 0 ] || install "${need[@]}"
if [ -n "$wants_measuring" ] && [ -n "$wants_peers" ] && ! command -v boringtun-cli >/dev/null; then
    CARGO_TARGET_DIR=$tools/target cargo install --quiet --locked --root "$tools" boringtun-cli ||
        echo "bench: no boringtun; going on without it" >&2
fi
if [ -z "${BENCH_NO_BUILD:-}" ]; then
    # All programs, as other scripts build them: nothing has to be built twice.
    cargo build --release --locked --quiet --bins
fi

status=0
if [ -n "$wants_measuring" ]; then
    # The bench and all that it starts end with this script, in order.
    trap 'kill -TERM "$bench" 2>/dev/null; wait "$bench" 2>/dev/null; sweep' EXIT
    trap 'exit 130' INT TERM
    "$target/release/tsc-bench" measure --results "$results" ${options[@]+"${options[@]}"} &
    bench=$!
    wait "$bench" || status=$?
fi
case " ${options[*]-} " in
    *" --list "*) ;;
    *)
        "$target/release/tsc-bench" document --results "$results" --into docs/performance
        cat docs/performance/results.md
        ;;
esac
exit "$status"
