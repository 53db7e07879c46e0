//! What documents with figures have in common: plots as SVG, and the host that the figures are from.

pub mod bars;
pub mod host;
pub mod lines;

/// Text in an SVG.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
