//! Gives the shared library its name for the dynamic linker: without it, programs would look for it where it was built.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| std::env::var(name).unwrap_or_default();
    // Before 1.0 each minor version breaks, so it is part of the name. cargo-c says the same.
    if matches!(variable("CARGO_CFG_TARGET_OS").as_str(), "linux") {
        let version = match variable("CARGO_PKG_VERSION_MAJOR").as_str() {
            "0" => format!("0.{}", variable("CARGO_PKG_VERSION_MINOR")),
            major => major.to_owned(),
        };
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libtsc.so.{version}");
    }
}
