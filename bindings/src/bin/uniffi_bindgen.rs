//! Writes the bindings of the library for a language: `docs/bindings.md`.

fn main() {
    uniffi::uniffi_bindgen_main();
}
