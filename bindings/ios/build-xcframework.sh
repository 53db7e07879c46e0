#!/usr/bin/env bash
# Makes OpenTSC.xcframework and the Swift code beside it: a Swift package in bindings/ios/build/OpenTSC. On macOS with Xcode.
#   build-xcframework.sh [FEATURES]
# FEATURES are cargo's; without them: srv,dtls-webrtc. See bindings/ios/README.md.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
workspace=$(cd ../.. && pwd)
features=${1:-srv,dtls-webrtc}
build=$here/build
package=$build/OpenTSC
library=libtsc_uniffi.a

export IPHONEOS_DEPLOYMENT_TARGET=${IPHONEOS_DEPLOYMENT_TARGET:-15.0}
device=aarch64-apple-ios
simulators=(aarch64-apple-ios-sim x86_64-apple-ios)

cd "$workspace"
rm -rf "$build"
mkdir -p "$build/headers" "$build/simulator" "$package/Sources/OpenTSC"

for target in "$device" "${simulators[@]}"; do
    rustup target add "$target"
    # Only the static library: a dylib would have to be signed and embedded.
    cargo rustc --release --locked -p tsc-bindings --lib --crate-type staticlib \
        --no-default-features --features "$features" --target "$target"
done
built=${CARGO_TARGET_DIR:-$workspace/target}

# Both simulators are one platform, so they must be one file.
lipo -create \
    "$built/aarch64-apple-ios-sim/release/$library" \
    "$built/x86_64-apple-ios/release/$library" \
    -output "$build/simulator/$library"

# The library describes itself; the generator runs on this machine.
cargo run --release --locked -p tsc-bindings --bin uniffi-bindgen --no-default-features --features bindgen -- \
    generate --language swift --no-format --out-dir "$build/swift" "$built/$device/release/$library"
mv "$build/swift/OpenTSC.swift" "$package/Sources/OpenTSC/"
mv "$build/swift/OpenTSCFFI.h" "$build/headers/"
mv "$build/swift/OpenTSCFFI.modulemap" "$build/headers/module.modulemap"

xcodebuild -create-xcframework \
    -library "$built/$device/release/$library" -headers "$build/headers" \
    -library "$build/simulator/$library" -headers "$build/headers" \
    -output "$package/OpenTSC.xcframework"
cp "$here/Package.swift" "$package/"
echo "made $package"
