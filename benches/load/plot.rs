//! Curves as a picture: small panels, each from zero up, over a logarithmic axis.

use std::fmt::Write as _;

pub struct Panel<'a> {
    pub title: &'a str,
    pub lines: Vec<Line<'a>>,
}

pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

const COLUMNS: usize = 2;
/// Of a panel with its margins.
const WIDTH: f64 = 430.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 30.0;
const COLOURS: [&str; 3] = ["#1f5fa8", "#c4541b", "#3a7d44"];
const STEPS: u32 = 4;

/// An SVG document.
pub fn picture(panels: &[Panel<'_>]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        let (x, y) = (WIDTH * (at % COLUMNS) as f64, HEIGHT * (at / COLUMNS) as f64);
        writeln!(svg, "<g transform=\"translate({x} {y})\">").unwrap();
        panel.draw(&mut svg);
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let most = points().map(|point| point.0).fold(0.0, f64::max);
        let step = round_step(points().map(|point| point.1).fold(0.0, f64::max) / f64::from(STEPS));
        let top = step * f64::from(STEPS);
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let x = |value: f64| LEFT + (value / least).ln() / (most / least).ln() * (right - LEFT);
        let y = |value: f64| floor - value / top * (floor - TOP);

        writeln!(svg, "<text x=\"14\" y=\"20\" font-size=\"13\" fill=\"#111\">{}</text>", self.title)
            .unwrap();
        for at in 0..=STEPS {
            let value = step * f64::from(at);
            let (height, label) = (y(value), short(value));
            writeln!(
                svg,
                "<path d=\"M{LEFT} {height:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\" fill=\"#555\">{label}</text>",
                LEFT - 6.0,
                height + 4.0
            )
            .unwrap();
        }
        for (value, _) in self.lines.first().into_iter().flat_map(|line| &line.points) {
            let (place, label) = (x(*value), short(*value));
            writeln!(
                svg,
                "<text x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{label}</text>",
                floor + 17.0
            )
            .unwrap();
        }
        for (at, (line, colour)) in self.lines.iter().zip(COLOURS).enumerate() {
            let places = line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)));
            let places: Vec<String> = places.collect();
            let path = places.join(" ");
            writeln!(
                svg,
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            )
            .unwrap();
            for place in &places {
                let (x, y) = place.split_once(',').unwrap();
                writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>").unwrap();
            }
            let place = LEFT + 150.0 * at as f64;
            writeln!(svg, "<text x=\"{place:.1}\" y=\"38\" fill=\"{colour}\">● {}</text>", line.name)
                .unwrap();
        }
    }
}

/// The next number that is easy to read.
fn round_step(least: f64) -> f64 {
    let decade = 10_f64.powf(least.log10().floor());
    [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
        .map(|it| it * decade)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(least)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e3 => format!("{} k", value / 1e3),
        value => format!("{value}"),
    }
}
