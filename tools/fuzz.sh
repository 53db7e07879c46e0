#!/usr/bin/env bash
# Replays the committed corpus of every fuzz target, then fuzzes each for SECONDS (default 60), two at a time.
# Usage: tools/fuzz.sh [SECONDS [CRATE ...]]    CRATE as tpl or apps/tsc_sip; all by default. New finds stay in a scratch directory; crashes end in <crate>/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$PWD/fuzz-target}
unset RUSTFLAGS
sanitizer=address
if [ "$seconds" -lt 60 ]; then
    # A short run is mostly building, and nearly all of it is Rust without unsafe code.
    sanitizer=none
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
host=$(rustc -vV | sed -n 's/^host: //p')

shift || true
crates=("$@")
[ ${#crates[@]} -gt 0 ] || crates=(tpl csm eip redact osaa tsc-server apps/tsc_sip)
dirs=("${crates[@]/%//fuzz}")
jobs=()
for dir in "${dirs[@]}"; do
    cargo fuzz build --fuzz-dir "$dir" --release --sanitizer $sanitizer >"$scratch/build.log" 2>&1 || {
        cat "$scratch/build.log"
        exit 1
    }
    for target in $(cargo fuzz list --fuzz-dir "$dir"); do
        jobs+=("$dir $target")
    done
done

one() {
    local dir=$1 target=$2 corpus log out
    corpus="$dir/corpus/$target"
    out="$scratch/$(echo "$dir-$target" | tr / -)"
    mkdir -p "$out" "$dir/artifacts/$target"
    [ -d "$corpus" ] || { echo "no corpus: $corpus"; return 1; }
    log="$out.log"
    if "$CARGO_TARGET_DIR/$host/release/$target" "$out" "$corpus" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$dir/artifacts/$target/" >"$log" 2>&1; then
        echo "ok   $dir $target: $(grep -c . <(ls "$corpus")) corpus files, $(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log") runs"
    else
        echo "FAIL $dir $target"
        tail -40 "$log"
        return 1
    fi
}
export -f one
export scratch seconds host
printf '%s\n' "${jobs[@]}" | xargs -P 2 -L 1 bash -c 'one "$0" "$1"'
