//! Line charts as SVG.

use std::fmt::Write as _;

use crate::escape;

/// One line: its points from left to right.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is of.
    pub label: String,
    /// Values of both axes; what is not finite is left out.
    pub points: Vec<(f64, f64)>,
    /// Not measured: drawn grey and dashed, without marks.
    pub is_theory: bool,
    /// Lines of one family have one colour.
    pub family: usize,
}

/// How values become heights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Evenly between these.
    Linear(f64, f64),
    /// By their logarithms, between these powers of ten; smaller ones are drawn at the bottom.
    Powers(i32, i32),
}

/// What is around the lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame<'a> {
    /// Above all.
    pub title: &'a str,
    /// Of the horizontal axis. Its values are evenly spaced whatever they are.
    pub x: &'a str,
    /// Of the vertical one.
    pub y: &'a str,
    /// The vertical one.
    pub scale: Scale,
}

const COLOURS: [&str; 10] = [
    "#2266aa", "#cc8844", "#449955", "#aa3355", "#7755aa", "#ddaa00", "#22aaaa", "#996633",
    "#dd66aa", "#111111",
];
const THEORY: &str = "#999999";
const LEFT: f64 = 60.0;
const TOP: f64 = 46.0;
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const KEY: f64 = 180.0;

/// A chart of lines with a key at the right.
#[must_use]
pub fn chart(frame: &Frame<'_>, lines: &[Line]) -> String {
    let mut columns: Vec<f64> = lines
        .iter()
        .flat_map(|line| line.points.iter().map(|point| point.0))
        .collect();
    columns.sort_by(f64::total_cmp);
    columns.dedup();
    let step = WIDTH / columns.len().saturating_sub(1).max(1) as f64;
    let across = |x: f64| {
        let column = columns.iter().position(|column| *column >= x).unwrap_or(0);
        LEFT + column as f64 * step
    };
    let full = LEFT + WIDTH + KEY;
    let bottom = TOP + HEIGHT;
    let height = bottom + 46.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {full} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{full}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\">{}</text>\n<text x=\"10\" y=\"37\" fill=\"#555\">{}</text>\n\
         <text x=\"{}\" y=\"{}\" fill=\"#555\" text-anchor=\"middle\">{}</text>\n",
        escape(frame.title),
        escape(frame.y),
        LEFT + WIDTH / 2.0,
        bottom + 36.0,
        escape(frame.x),
    );
    for (value, label) in frame.scale.marks() {
        let y = bottom - frame.scale.share(value) * HEIGHT;
        let _infallible = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            y + 4.0,
        );
    }
    for column in &columns {
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{column}</text>",
            across(*column),
            bottom + 18.0
        );
    }
    for (row, line) in lines.iter().enumerate() {
        let own = COLOURS.get(line.family % COLOURS.len());
        let colour = own.filter(|_| !line.is_theory).unwrap_or(&THEORY);
        let dashes = if line.is_theory {
            " stroke-dasharray=\"4 4\""
        } else {
            ""
        };
        let points: Vec<(f64, f64)> = line
            .points
            .iter()
            .filter(|(_, y)| y.is_finite())
            .map(|(x, y)| (across(*x), bottom - frame.scale.share(*y) * HEIGHT))
            .collect();
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let y = TOP + 10.0 + row as f64 * 17.0;
        let x = LEFT + WIDTH + 14.0;
        let _infallible = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>\
             <line x1=\"{x}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            path.join(" "),
            x + 22.0,
            x + 28.0,
            y + 4.0,
            escape(&line.label)
        );
        if !line.is_theory {
            for (x, y) in points {
                let _infallible = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

impl Scale {
    /// Where a value is, 0 at the bottom and 1 at the top.
    fn share(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear(least, most) => (value - least) / (most - least),
            Self::Powers(least, most) => {
                (value.max(f64::MIN_POSITIVE).log10() - f64::from(least)) / f64::from(most - least)
            }
        };
        share.clamp(0.0, 1.0)
    }

    /// Values that are shown at the axis.
    fn marks(self) -> Vec<(f64, String)> {
        match self {
            Self::Linear(least, most) => {
                let rough = (most - least) / 5.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .into_iter()
                    .map(|n| n * power)
                    .find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                let first = (least / step).ceil() * step;
                (0..20)
                    .map(|n| first + f64::from(n) * step)
                    .take_while(|value| *value <= most + step / 1000.0)
                    .map(|value| (value, format!("{:.*}", usize::from(step < 1.0), value)))
                    .collect()
            }
            Self::Powers(least, most) => (least..=most)
                .map(|power| {
                    let digits = usize::try_from(-power).unwrap_or(0);
                    (10f64.powi(power), format!("{:.digits$}", 10f64.powi(power)))
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, points: &[(f64, f64)], is_theory: bool) -> Line {
        Line {
            label: label.to_owned(),
            points: points.to_vec(),
            is_theory,
            family: 0,
        }
    }

    #[test]
    fn points_are_where_they_belong() {
        let frame = Frame {
            title: "A & B",
            x: "loss",
            y: "score",
            scale: Scale::Linear(1.0, 5.0),
        };
        let lines = [
            line(
                "measured",
                &[(0.0, 5.0), (10.0, 1.0), (20.0, f64::NAN)],
                false,
            ),
            line("<theory>", &[(0.0, 3.0)], true),
        ];
        let svg = chart(&frame, &lines);
        assert!(
            svg.contains("A &amp; B") && svg.contains("&lt;theory&gt;"),
            "{svg}"
        );
        assert!(svg.contains("points=\"60.0,46.0 290.0,346.0\""), "{svg}");
        assert!(svg.contains("points=\"60.0,196.0\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2, "what is measured");
        for mark in [">1<", ">5<", ">10<", ">20<"] {
            assert!(svg.contains(mark), "{mark} {svg}");
        }
        assert!(chart(&frame, &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn powers_of_ten_are_as_far_from_each_other() {
        let scale = Scale::Powers(-2, 2);
        let shares = [0.0, 0.01, 1.0, 100.0, 1e9].map(|value| scale.share(value));
        assert_eq!(shares, [0.0, 0.0, 0.5, 1.0, 1.0]);
        let labels: Vec<_> = scale.marks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0.01", "0.1", "1", "10", "100"]);
    }
}
