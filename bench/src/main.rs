//! What a projection costs in the host, against the same work written by hand: `bench [CASE…] [rounds=N]`.
//!
//! Each case that compares is a pair, the host with a plugin and a hand-written program without WebAssembly, on the
//! same events and the same server, taken in turn; what counts is the median of the ratios, because the speed of a
//! shared machine drifts and a ratio does not. Nothing here asserts a time.
//!
//! # The parts, in reading order
//!
//! - [`cases`]: what is measured, one file a kind of case, each with its target.
//! - [`native`]: the hand-written loops.
//! - [`events`]: what is in the log.
//! - [`trial`]: runs of the host and of a loop, timed in turn.
//! - [`report`]: the table, the chart and the last lines.

mod cases;
mod events;
mod native;
mod report;
mod trial;

use std::io::Write as _;
use std::process::ExitCode;

use report::{Figure, Report};

/// How it is used.
const USAGE: &str = "bench [rounds=N] [chart=FILE] [CASE…]";

/// What was asked for.
struct Asked {
    /// How often each pair is run.
    rounds: usize,
    /// Where the chart goes.
    chart: Option<String>,
    /// Only these cases; empty for all.
    only: Vec<String>,
}

impl Asked {
    /// Reads the arguments.
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut asked = Self { rounds: 5, chart: None, only: Vec::new() };
        for argument in arguments {
            match argument.split_once('=') {
                Some((_, "")) => {}
                Some(("rounds", number)) => {
                    asked.rounds =
                        number.parse().ok().filter(|rounds| *rounds > 0).ok_or(format!("{argument}: how many?"))?;
                }
                Some(("chart", file)) => asked.chart = Some(file.to_owned()),
                Some(_) => return Err(format!("{argument}: {USAGE}")),
                None if cases::ALL.iter().any(|case| case.name == argument) => asked.only.push(argument),
                None => {
                    let known: Vec<_> = cases::ALL.iter().map(|case| case.name).collect();
                    return Err(format!("no case is called {argument}: {}", known.join(", ")));
                }
            }
        }
        Ok(asked)
    }
}

fn main() -> ExitCode {
    let asked = match Asked::read(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(error) => {
            writeln!(std::io::stderr(), "error: {error}").ok();
            return ExitCode::from(2);
        }
    };
    let mut report = Report::new();
    let mut bench = cases::Bench::new(asked.rounds);
    for case in cases::ALL {
        if asked.only.is_empty() || asked.only.iter().any(|name| name == case.name) {
            report.begin(case.name);
            let figures: Vec<Figure> = (case.run)(&mut bench);
            report.add(figures);
        }
    }
    report.print();
    if let Some(chart) = &asked.chart
        && let Err(error) = report.draw(chart)
    {
        writeln!(std::io::stderr(), "error: cannot write {chart}: {error}").ok();
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
