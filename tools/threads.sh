#!/usr/bin/env bash
# The C library under ThreadSanitizer: the C programs of its tests, of which one has 32 threads that hammer one tunnel (capi/tests/c/stress.c).
# Takes a nightly toolchain and clang; compiles the library and all that it consists of anew the first time, into target/tsan.
# tools/threads.sh [TEST...]      default: all but what a program that holds the library itself does (it is linked without what is wrapped
#                                 here), what is refused a thread (ThreadSanitizer ends then), and what g++ compiles (it is not clang)
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- --skip a_program_may_hold --skip threads_are_hit --skip the_headers_are_for
toolchain=${TSC_NIGHTLY:-nightly}
target=$PWD/target/tsan
host=$(rustc +"$toolchain" -vV | sed -n 's/^host: //p')
libraries=$(rustc +"$toolchain" --print target-libdir)
export CARGO_INCREMENTAL=0

# What the standard library does where it waits for a lock, by its names in this compiler.
wrapped=(-Wl,--wrap=__tsan_atomic64_fetch_sub -Wl,--wrap=epoll_ctl -Wl,--wrap=epoll_wait)
names=()
name() {
    local found
    found=$(grep -aohE "_RNv[0-9A-Za-z_]*$2\b" "$libraries"/libstd-*.rlib | sort -u)
    if [ "$(wc -w <<<"$found")" != 1 ]; then
        echo "$0: $1 has another name in $toolchain: $found" >&2
        exit 1
    fi
    names+=("-D$1=$found")
    wrapped+=("-Wl,--wrap=$found")
}
name MUTEX_LOCK '4sync5mutex5futex[0-9A-Za-z_]*5Mutex14lock_contended'
name RWLOCK_READ '4sync6rwlock5futex[0-9A-Za-z_]*6RwLock14read_contended'
name RWLOCK_WRITE '4sync6rwlock5futex[0-9A-Za-z_]*6RwLock15write_contended'
name CONDVAR_WAIT '3sys4sync7condvar5futex[0-9A-Za-z_]*7Condvar4wait'
name CONDVAR_WAIT_TIMEOUT '3sys4sync7condvar5futex[0-9A-Za-z_]*7Condvar12wait_timeout'
mkdir -p "$target"
clang -O1 -fPIC -Wall -Wextra -c "${names[@]}" capi/tests/c/tsan.c -o "$target/tsan.o"

# The standard library is as it was delivered; everything else is compiled for ThreadSanitizer.
link=()
for argument in "$target/tsan.o" "${wrapped[@]}"; do
    link+=(-C "link-arg=$argument")
done
RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" CARGO_TARGET_DIR=$target \
    cargo +"$toolchain" rustc --locked -p tsc-capi --lib --target "$host" -- "${link[@]}"

# The compiler's own runtime, which knows what this compiler calls; programs hold it for the library.
runtime=$(echo "$libraries"/librustc-*_rt.tsan.a)
export TSC_CC=clang
export TSC_CFLAGS="-fsanitize=thread -fno-sanitize-link-runtime -Wl,--export-dynamic -Wl,--whole-archive $runtime -Wl,--no-whole-archive -ldl -lm -lrt -lpthread -lstdc++"
export TSC_BUILT=$target/$host/debug
# Memory of low addresses, where it is wanted: newer kernels spread it wider than ThreadSanitizer can shadow.
export TSC_RUNNER="setarch -R"
export TSAN_OPTIONS="halt_on_error=0 exitcode=66 ${TSAN_OPTIONS:-}"
cargo test --locked --workspace --test c_programs -- "$@"
