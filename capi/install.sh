#!/bin/sh
# Installs the C library as `cargo build --release -p tsc-capi` made it: library with its links, headers, pkg-config file.
# capi/install.sh [--prefix DIR] [--libdir DIR] [--built DIR]; DESTDIR is honoured.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
prefix=/usr/local
libdir=
built=${CARGO_TARGET_DIR:-$root/target}/release
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) prefix=$2 ;;
    --libdir) libdir=$2 ;;
    --built) built=$2 ;;
    *)
        echo "usage: $0 [--prefix DIR] [--libdir DIR] [--built DIR]" >&2
        exit 2
        ;;
    esac
    shift 2
done
libdir=${libdir:-$prefix/lib}
headers=$root/capi/include
define() { sed -n "s/^#define TSC_VERSION_$1 //p" "$headers/tsc_control_api.h"; }
major=$(define MAJOR)
minor=$(define MINOR)
version=$major.$minor.$(define PATCH)
# As build.rs has it.
soname=libtsc.so.$major
[ "$major" != 0 ] || soname=$soname.$minor

to=${DESTDIR:-}$libdir
mkdir -p "$to/pkgconfig" "${DESTDIR:-}$prefix/include"
install -m 755 "$built/libtsc.so" "$to/libtsc.so.$version"
ln -sf "libtsc.so.$version" "$to/$soname"
ln -sf "$soname" "$to/libtsc.so"
install -m 644 "$built/libtsc.a" "$to/libtsc.a"
install -m 644 "$headers/tsc_control_api.h" "$headers/tsc_socket_api.h" "${DESTDIR:-}$prefix/include/"
# What rustc says to `--print native-static-libs`, and cargo-c writes.
cat >"$to/pkgconfig/tsc.pc" <<END
prefix=$prefix
libdir=$libdir
includedir=$prefix/include

Name: OpenTSC
Description: Tunnels to a TSCF server, and sockets inside them
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -ltsc
Libs.private: -lssl -lcrypto -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc
END
