//! Logs: text or JSON on stderr, with projection, partition and position as fields; [`metrics`]; [`traces`]; and [`reloads`].

pub mod metrics;
pub mod reloads;
pub mod traces;

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging, once a process.
///
/// # Errors
/// When the filter cannot be parsed.
pub fn start(format: LogFormat, filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let logs = tracing_subscriber::fmt().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let logs = logs.with_ansi(std::io::stderr().is_terminal());
            let logs = logs.with_env_filter(filter).with_filter_reloading();
            let handle = logs.reload_handle();
            keep(move |filter| handle.reload(filter).is_ok());
            logs.init();
        }
        LogFormat::Json => {
            let logs = logs.json().flatten_event(true).with_current_span(true).with_span_list(false);
            let logs = logs.with_env_filter(filter).with_filter_reloading();
            let handle = logs.reload_handle();
            keep(move |filter| handle.reload(filter).is_ok());
            logs.init();
        }
    }
    Ok(())
}

/// Puts another filter in place.
type Reload = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// That of this process.
static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Remembers how another filter is put in place.
fn keep(reload: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) {
    // Logging is started once a process.
    RELOAD.set(Box::new(reload)).ok();
}

/// What is to be logged from now on; not yet.
pub struct NewFilter(EnvFilter);

impl NewFilter {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be parsed.
    pub fn parse(filter: &str) -> Result<Self, ParseError> {
        EnvFilter::builder().parse(filter).map(Self)
    }

    /// From now on, logs what it lets through.
    pub fn apply(self) {
        if let Some(reload) = RELOAD.get() {
            reload(self.0);
        }
    }
}
