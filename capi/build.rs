//! Gives the shared library its name for the dynamic linker: without it, programs would look for it where it was built.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| std::env::var(name).unwrap_or_default();
    // Before 1.0 each minor version breaks, so it is part of the name. cargo-c says the same.
    let system = variable("CARGO_CFG_TARGET_OS");
    if system == "linux" {
        let version = match variable("CARGO_PKG_VERSION_MAJOR").as_str() {
            "0" => format!("0.{}", variable("CARGO_PKG_VERSION_MINOR")),
            major => major.to_owned(),
        };
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libtsc.so.{version}");
    }
    // There an application brings the library with it, by a name without versions, and pages may be of 16 KiB.
    if system == "android" {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libtsc.so");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,max-page-size=16384");
    }
}
