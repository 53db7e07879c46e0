#!/usr/bin/env bash
# Compiles examples/Call.kt with the generated code, and makes a call with it on this machine's JVM, against a server that runs.
#   run-on-jvm.sh tls://sbc.example.com:443 --ca ca.pem [--seconds 2]
# Needs Java 17 or later, and
#   JNA_JAR        JNA; /usr/share/java/jna.jar unless set (Debian: libjna-java)
#   KOTLIN_JARS    a directory with a Kotlin compiler's jars and kotlin-stdlib; target/kotlin/jars unless set. One can be had from PyPI:
#                  run-on-jvm.sh --fetch-compiler   (80 MB, with pip; the compiler of JetBrains' kernel for Jupyter)
#   TSC_BINDINGS   a directory with libtsc_uniffi.so and the generated Kotlin code; both are built unless set.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
workspace=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$workspace/target}
jars=${KOTLIN_JARS:-$target/kotlin/jars}
jna=${JNA_JAR:-/usr/share/java/jna.jar}

if [ "${1:-}" = --fetch-compiler ]; then
    wheel=$(mktemp -d)
    trap 'rm -rf "$wheel"' EXIT
    # This file and no other.
    echo 'kotlin-jupyter-kernel==0.19.0.944 --hash=sha256:dc654a426a28e6621aeb0bd7772d268a9a877aabae4a17b73383752a416281a3' >"$wheel/wanted"
    python3 -m pip download --quiet --no-deps --require-hashes --dest "$wheel" --requirement "$wheel/wanted"
    python3 - "$wheel"/*.whl "$wheel/jars" <<'PYTHON'
import os, sys, zipfile
os.mkdir(sys.argv[2])
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        base = os.path.basename(name)
        # The compiler, and what it and its programs are made of.
        if base.endswith(".jar") and base.startswith(("kotlin-", "annotations-")):
            with open(os.path.join(sys.argv[2], base), "wb") as jar:
                jar.write(wheel.read(name))
PYTHON
    # All or nothing.
    mkdir -p "$(dirname "$jars")"
    rm -rf "$jars"
    mv "$wheel/jars" "$jars"
    exit
fi

[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
[ -r "$jna" ] || { echo "no JNA at $jna" >&2; exit 3; }
stdlib=$(find "$jars" -name 'kotlin-stdlib-[0-9]*.jar' 2>/dev/null | head -n 1)
[ -n "$stdlib" ] || { echo "no Kotlin compiler in $jars" >&2; exit 3; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bindings=${TSC_BINDINGS:-}
if [ -z "$bindings" ]; then
    bindings=$work/bindings
    mkdir -p "$bindings"
    cargo build --manifest-path "$workspace/Cargo.toml" --release --locked -p tsc-bindings
    cargo run --manifest-path "$workspace/Cargo.toml" --release --locked -p tsc-bindings --features bindgen --bin uniffi-bindgen -- \
        generate --language kotlin --no-format --out-dir "$bindings" "$target/release/libtsc_uniffi.so"
    cp "$target/release/libtsc_uniffi.so" "$bindings"
fi

# Warnings are of the generated code.
java -XX:TieredStopAtLevel=1 -cp "$jars/*" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler \
    -nowarn -no-stdlib -no-reflect -classpath "$stdlib:$jna" -d "$work/classes" \
    "$here/examples/Call.kt" $(find "$bindings" -name '*.kt')
java -Djna.library.path="$bindings" -cp "$work/classes:$stdlib:$jna" CallKt "$@"
