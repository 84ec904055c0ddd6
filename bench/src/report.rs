//! What was found, for people and for scripts.

use std::fmt::Write as _;
use std::io::Write as _;

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Target {
    /// Whether a value reaches it.
    fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    /// For the table.
    fn show(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// Events a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// Of the host.
    pub(crate) host: f64,
    /// Of the loop by hand.
    pub(crate) by_hand: f64,
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Its name, after `ratio`.
    name: &'static str,
    /// What it is.
    value: f64,
    /// What it should be.
    target: Target,
    /// What it was made of.
    rates: Option<Rates>,
    /// What else is to be said.
    detail: String,
}

impl Figure {
    /// A ratio.
    pub(crate) fn ratio(name: &'static str, value: f64, target: Target) -> Self {
        Self { name, value, target, rates: None, detail: String::new() }
    }

    /// A time or a size, in the unit that its name ends with.
    pub(crate) fn measure(name: &'static str, value: f64, target: Target) -> Self {
        Self::ratio(name, value, target)
    }

    /// With the rates that it compares.
    pub(crate) fn with_rates(self, rates: Rates) -> Self {
        let detail = format!("host {:.0}/s, by hand {:.0}/s", rates.host, rates.by_hand);
        Self { rates: Some(rates), detail, ..self }
    }

    /// With a remark.
    pub(crate) fn with_detail(self, detail: String) -> Self {
        Self { detail, ..self }
    }
}

/// All that was found.
#[derive(Debug)]
pub(crate) struct Report {
    /// In the order of the cases.
    figures: Vec<Figure>,
}

impl Report {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let report = Self { figures: Vec::new() };
        print(&format!("{}\n", machine()));
        report
    }

    /// Says that a case begins.
    pub(crate) fn begin(&self, case: &str) {
        print(&format!("… {case}\n"));
    }

    /// Adds what a case has found.
    pub(crate) fn add(&mut self, figures: Vec<Figure>) {
        for figure in &figures {
            print(&format!("  {} {:.2}  {}\n", figure.name, figure.value, figure.detail));
        }
        self.figures.extend(figures);
    }

    /// The table, and a line a figure for scripts.
    pub(crate) fn print(&self) {
        let mut text = format!("\n{:<32} {:>9} {:>9}       what it is made of\n", "figure", "value", "target");
        for Figure { name, value, target, detail, .. } in &self.figures {
            let mark = if target.is_reached(*value) { "yes" } else { "NO " };
            line(&mut text, format_args!("{name:<32} {value:>9.2} {:>9}  {mark}  {detail}", target.show()));
        }
        text.push('\n');
        for Figure { name, value, .. } in &self.figures {
            line(&mut text, format_args!("ratio {name} {value:.3}"));
        }
        print(&text);
    }

    /// Writes the chart: events a second, the host beside the loop by hand, for each pair.
    pub(crate) fn draw(&self, path: &str) -> std::io::Result<()> {
        std::fs::write(path, chart(&self.figures))
    }
}

/// Adds a line.
fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes whatever is written");
}

/// To standard output, at once.
fn print(text: &str) {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).ok();
}

/// What this machine is.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("a processor that does not say its name", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory: f64 = memory.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0);
    format!("{cores} cores of {model}, {:.0} GB", memory * 1024.0 / 1e9)
}

/// How wide the chart is, and what stands left of the bars.
const WIDTH: f64 = 760.0;
/// See [`WIDTH`].
const LEFT: f64 = 170.0;
/// How high a pair is.
const PAIR: f64 = 52.0;

/// The chart, as SVG: two bars a pair, each pair to its own scale, because they are millions here and thousands there.
fn chart(figures: &[Figure]) -> String {
    let pairs: Vec<(&Figure, Rates)> = figures.iter().filter_map(|figure| Some((figure, figure.rates?))).collect();
    let height = 58.0 + PAIR * pairs.len() as f64;
    let mut svg = String::new();
    let style = "text{font:13px system-ui,sans-serif;fill:#222}.n{font-weight:600}.s{fill:#666;font-size:12px}\
                 .h{fill:#2f6fdb}.b{fill:#b9c0cc}@media(prefers-color-scheme:dark){text{fill:#eee}.s{fill:#aaa}.b{fill:#667}}";
    line(
        &mut svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"Events a second: the host and loops written by hand\"><style>{style}</style>"
        ),
    );
    line(
        &mut svg,
        format_args!(
            "<text x=\"8\" y=\"22\" class=\"n\">Events a second, catching up</text>\
             <rect x=\"{LEFT}\" y=\"32\" width=\"10\" height=\"10\" class=\"h\"/><text x=\"{}\" y=\"42\" class=\"s\">host with a plugin</text>\
             <rect x=\"{}\" y=\"32\" width=\"10\" height=\"10\" class=\"b\"/><text x=\"{}\" y=\"42\" class=\"s\">written by hand</text>",
            LEFT + 15.0,
            LEFT + 140.0,
            LEFT + 155.0,
        ),
    );
    for (number, (figure, rates)) in pairs.iter().enumerate() {
        let top = 56.0 + PAIR * number as f64;
        let scale = (WIDTH - LEFT - 110.0) / rates.host.max(rates.by_hand);
        line(&mut svg, format_args!("<text x=\"8\" y=\"{}\">{}</text>", top + 20.0, figure.name));
        line(&mut svg, format_args!("<text x=\"8\" y=\"{}\" class=\"s\">{:.2} times</text>", top + 36.0, figure.value));
        for (at, (rate, class)) in [(rates.host, "h"), (rates.by_hand, "b")].into_iter().enumerate() {
            let (y, width) = (top + 4.0 + 19.0 * at as f64, rate * scale);
            line(
                &mut svg,
                format_args!(
                    "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"15\" rx=\"2\" class=\"{class}\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" class=\"s\">{}</text>",
                    LEFT + width + 6.0,
                    y + 12.0,
                    thousands(rate),
                ),
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// A rate, rounded to three digits, with commas.
fn thousands(rate: f64) -> String {
    let unit = 10_f64.powf((rate.max(1.0).log10().floor() - 2.0).max(0.0));
    let digits = format!("{:.0}", (rate / unit).round() * unit);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
