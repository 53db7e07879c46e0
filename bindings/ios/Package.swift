// swift-tools-version:5.9
// Copied by build-xcframework.sh beside what it makes: an application adds that directory as a local package.
import PackageDescription

let package = Package(
    name: "OpenTSC",
    platforms: [.iOS(.v15)],
    products: [.library(name: "OpenTSC", targets: ["OpenTSC"])],
    targets: [
        .binaryTarget(name: "OpenTSCFFI", path: "OpenTSC.xcframework"),
        .target(
            name: "OpenTSC",
            dependencies: ["OpenTSCFFI"],
            linkerSettings: [.linkedFramework("Security"), .linkedFramework("SystemConfiguration")]
        ),
    ]
)
