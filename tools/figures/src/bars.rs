//! Bar charts as SVG.

use std::fmt::Write as _;

use crate::escape;

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Ours.
    Ours,
    /// A bare relay's: the limit.
    Relay,
    /// Another program's.
    Peer,
}

impl Whose {
    const fn colour(self) -> &'static str {
        match self {
            Self::Ours => "#2266aa",
            Self::Relay => "#999999",
            Self::Peer => "#cc8844",
        }
    }
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What it is of.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// Its colour.
    pub whose: Whose,
    /// A mark on it: what was to be reached.
    pub goal: Option<f64>,
}

const LEFT: f64 = 230.0;
const WIDTH: f64 = 480.0;
const ROW: f64 = 20.0;
const TOP: f64 = 46.0;

/// A chart of bars, the longest as long as there is room. `digits` are shown after the point.
#[must_use]
pub fn chart(title: &str, unit: &str, digits: usize, bars: &[Bar]) -> String {
    let longest = bars
        .iter()
        .flat_map(|bar| [Some(bar.value), bar.goal])
        .flatten()
        .fold(0.0, f64::max);
    let scale = if longest > 0.0 { WIDTH / longest } else { 0.0 };
    let height = TOP + bars.len() as f64 * ROW + 30.0;
    let full = LEFT + WIDTH + 80.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {full} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{full}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\">{}</text>\n<text x=\"10\" y=\"37\" fill=\"#555\">{}</text>\n",
        escape(title),
        escape(unit)
    );
    for (row, bar) in bars.iter().enumerate() {
        let y = TOP + row as f64 * ROW;
        let length = (bar.value * scale).max(1.0);
        let (label, colour) = (escape(&bar.label), bar.whose.colour());
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{label}</text>\
             <rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{length:.1}\" height=\"14\" fill=\"{colour}\"/>",
            LEFT - 8.0,
            y + 13.0,
            y + 2.0,
        );
        let mut end = length;
        if let Some(goal) = bar.goal {
            let x = LEFT + goal * scale;
            end = end.max(goal * scale);
            let _infallible = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.0}\" y2=\"{:.0}\" stroke=\"#cc0000\" stroke-width=\"2\"/>",
                y + 18.0
            );
        }
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.0}\">{:.digits$}</text>",
            LEFT + end + 5.0,
            y + 13.0,
            bar.value
        );
    }
    let _infallible = writeln!(
        svg,
        "<text x=\"10\" y=\"{:.0}\" fill=\"#555\">blue: tsc-server; grey: bare relays; orange: other programs; red: what it must reach</text>\n</svg>",
        height - 8.0
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_the_right_length() {
        let bar = |label: &str, value, goal| Bar {
            label: label.to_owned(),
            value,
            whose: Whose::Ours,
            goal,
        };
        let svg = chart(
            "A & B",
            "<u>",
            2,
            &[bar("a", 2.0, None), bar("b", 1.0, Some(4.0))],
        );
        assert!(
            svg.contains("A &amp; B") && svg.contains("&lt;u&gt;"),
            "{svg}"
        );
        assert!(
            svg.contains("width=\"240.0\"") && svg.contains("width=\"120.0\""),
            "{svg}"
        );
        assert!(svg.contains("x1=\"710.0\""), "{svg}");
        assert!(chart("nothing", "", 0, &[]).ends_with("</svg>\n"));
    }
}
