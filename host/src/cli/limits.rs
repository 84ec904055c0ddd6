//! What projections may take, as the operator says it, and as `host plugin inspect` shows it: each limit is an option,
//! an environment variable and a line there.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::{RangedU64ValueParser, Resettable};
use clap::{ArgMatches, Args, Command, FromArgMatches as _};
use serde::Serialize;

use super::config::in_one_line;
use crate::plugin::limits::{Limits, Size};
use crate::read_model::store::StatementLimits;
use crate::read_model::unit_of_work::SqlLimits;

/// The most that any number of bytes may be: what a WebAssembly memory can hold.
const MOST: usize = 4 << 30;

/// What projections may take. The defaults are those of [`Limits::default`].
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "What projections may take (SIZE is bytes, or has KiB, MiB or GiB behind it)")]
pub struct LimitOptions {
    /// Memory of an instance, all its memories together
    #[arg(long, env = "MAX_MEMORY", value_name = "SIZE", default_value = "64MiB", value_parser = size(64 << 10..=MOST))]
    max_memory: Size,
    /// Memories of an instance
    #[arg(long, env = "MAX_MEMORIES", value_name = "N", default_value_t = 16, value_parser = count(1..=10_000))]
    max_memories: usize,
    /// Elements of an instance's tables, all together
    #[arg(long, env = "MAX_TABLE_ELEMENTS", value_name = "N", default_value_t = 100_000, value_parser = count(1..=100_000_000))]
    max_table_elements: usize,
    /// Tables of an instance
    #[arg(long, env = "MAX_TABLES", value_name = "N", default_value_t = 64, value_parser = count(1..=10_000))]
    max_tables: usize,
    /// Core instances that a component is made of
    #[arg(long, env = "MAX_CORE_INSTANCES", value_name = "N", default_value_t = 256, value_parser = count(1..=10_000))]
    max_core_instances: usize,
    /// Stack of an instance; at most 1 MiB, since it is part of the worker's own
    #[arg(long, env = "MAX_STACK", value_name = "SIZE", default_value = "512KiB", value_parser = size(64 << 10..=1 << 20))]
    max_stack: Size,
    /// Milliseconds that one call may compute; time in the database does not count
    #[arg(long, env = "MAX_CALL_TIME", value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    max_call_time: u64,
    /// Size of an event, all its fields together, as it is shown to a projection
    #[arg(long, env = "MAX_EVENT_SIZE", value_name = "SIZE", default_value = "16MiB", value_parser = size(1..=MOST))]
    max_event_size: Size,
    /// What a projection may pass to the host in one call, with list entries and texts counted as often as they are named
    #[arg(long, env = "MAX_CALL_DATA", value_name = "SIZE", default_value = "64MiB", value_parser = size(1 << 10..=MOST))]
    max_call_data: Size,
    /// Statements in one transaction; where events are tried one by one, for an event
    #[arg(long, env = "MAX_STATEMENTS", value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_statements: u64,
    /// Text of a statement; at most 256 KiB, since a worker's stack has to bear how deep it nests
    #[arg(long, env = "MAX_SQL_SIZE", value_name = "SIZE", default_value = "64KiB", value_parser = size(1..=256 << 10))]
    max_sql_size: Size,
    /// Parameters of a statement, all together
    #[arg(long, env = "MAX_PARAMETER_SIZE", value_name = "SIZE", default_value = "32MiB", value_parser = size(1..=MOST))]
    max_parameter_size: Size,
    /// Milliseconds that a statement may run
    #[arg(long, env = "MAX_STATEMENT_TIME", value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    max_statement_time: u64,
    /// Milliseconds that a transaction may be open
    #[arg(long, env = "MAX_BATCH_TIME", value_name = "MS", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    max_batch_time: u64,
    /// Rows of a result
    #[arg(long, env = "MAX_ROWS", value_name = "N", default_value_t = 10_000, value_parser = count(1..=100_000_000))]
    max_rows: usize,
    /// Size of a result, all its values together
    #[arg(long, env = "MAX_RESULT_SIZE", value_name = "SIZE", default_value = "16MiB", value_parser = size(1..=MOST))]
    max_result_size: Size,
    /// Size of a log line, and of what a projection says of a failure; what is longer is cut
    #[arg(long, env = "MAX_LOG_LINE", value_name = "SIZE", default_value = "8KiB", value_parser = size(1..=MOST))]
    max_log_line: Size,
    /// Log lines of a projection a second; what is more is dropped and counted
    #[arg(long, env = "MAX_LOG_LINES", value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_log_lines: u32,
    /// Size of a projection's log lines a second; what is more is dropped and counted
    #[arg(long, env = "MAX_LOG_SIZE", value_name = "SIZE", default_value = "1MiB", value_parser = size(1..=MOST))]
    max_log_size: Size,
}

impl LimitOptions {
    /// For the loader.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            memory: self.max_memory.0,
            memories: self.max_memories,
            table_elements: self.max_table_elements,
            tables: self.max_tables,
            core_instances: self.max_core_instances,
            stack: self.max_stack.0,
            call: Duration::from_millis(self.max_call_time),
            event: self.max_event_size.0,
            call_data: self.max_call_data.0,
            log_line: self.max_log_line.0,
            log_lines: self.max_log_lines,
            log_bytes: self.max_log_size.0,
            sql: SqlLimits {
                statements: self.max_statements,
                text: self.max_sql_size.0,
                parameters: self.max_parameter_size.0,
                statement: StatementLimits {
                    rows: self.max_rows,
                    result_bytes: self.max_result_size.0,
                    time: Duration::from_millis(self.max_statement_time),
                    transaction: Duration::from_millis(self.max_batch_time),
                },
            },
        }
    }
}

/// Those that one projection may have another of than the others: all but the stack, which is the engine's.
pub fn keys() -> impl Iterator<Item = String> {
    let options: Vec<_> = LimitOptions::augment_args(Command::new("limits")).get_arguments().cloned().collect();
    let names = options.into_iter().filter_map(|option| option.get_long().map(|long| long.replace('-', "_")));
    names.filter(|key| key != "max_stack")
}

/// A limit of one projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit(ArgMatches);

impl Limit {
    /// Reads `max_…` and its value, as the option takes it.
    ///
    /// # Errors
    /// When the value is none of it.
    pub fn parse(key: &str, value: &str) -> Result<Self, String> {
        // Neither defaults nor variables: it is this one and no other.
        let command = LimitOptions::augment_args(Command::new("limits")).no_binary_name(true);
        let command = command.mut_args(|option| option.default_value(Resettable::Reset).env(Resettable::Reset));
        let typed = format!("--{}={value}", key.replace('_', "-"));
        command.try_get_matches_from([typed]).map(Self).map_err(|error| in_one_line(&error))
    }
}

impl LimitOptions {
    /// These, with what is said of one projection in their place.
    #[must_use]
    pub fn with<'a>(mut self, limits: impl IntoIterator<Item = &'a Limit>) -> Self {
        for Limit(matches) in limits {
            // It was parsed by the very same options.
            self.update_from_arg_matches(matches).unwrap_or_default();
        }
        self
    }
}

/// One limit, as `host plugin inspect` shows it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// What is limited.
    pub name: &'static str,
    /// The option that sets it.
    pub option: &'static str,
    /// How much is allowed, in `unit`.
    pub value: u64,
    /// `bytes`, `milliseconds`; empty where things are counted.
    pub unit: &'static str,
    /// Value and unit for people.
    pub text: String,
}

/// All limits, in the order of the options.
#[must_use]
pub fn shown(limits: &Limits) -> Vec<Shown> {
    let bytes = |name, option, value: usize| Shown {
        name,
        option,
        value: value as u64,
        unit: "bytes",
        text: Size(value).to_string(),
    };
    let time = |name, option, value: Duration| Shown {
        name,
        option,
        value: u64::try_from(value.as_millis()).unwrap_or(u64::MAX),
        unit: "milliseconds",
        text: format!("{value:?}"),
    };
    let count = |name, option, value: u64| Shown { name, option, value, unit: "", text: value.to_string() };
    let sql = &limits.sql;
    vec![
        bytes("memory", "--max-memory", limits.memory),
        count("memories", "--max-memories", limits.memories as u64),
        count("table elements", "--max-table-elements", limits.table_elements as u64),
        count("tables", "--max-tables", limits.tables as u64),
        count("core instances", "--max-core-instances", limits.core_instances as u64),
        bytes("stack", "--max-stack", limits.stack),
        time("time of a call", "--max-call-time", limits.call),
        bytes("event", "--max-event-size", limits.event),
        bytes("data passed in a call", "--max-call-data", limits.call_data),
        count("statements in a transaction", "--max-statements", sql.statements),
        bytes("text of a statement", "--max-sql-size", sql.text),
        bytes("parameters of a statement", "--max-parameter-size", sql.parameters),
        time("time of a statement", "--max-statement-time", sql.statement.time),
        time("time of a transaction", "--max-batch-time", sql.statement.transaction),
        count("rows of a result", "--max-rows", sql.statement.rows as u64),
        bytes("bytes of a result", "--max-result-size", sql.statement.result_bytes),
        bytes("log line", "--max-log-line", limits.log_line),
        count("log lines a second", "--max-log-lines", u64::from(limits.log_lines)),
        bytes("log a second", "--max-log-size", limits.log_bytes),
    ]
}

/// Reads a size in a range.
fn size(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<Size, String> + Clone {
    move |text| match text.parse()? {
        size @ Size(bytes) if range.contains(&bytes) => Ok(size),
        Size(_) => Err(format!("say {} to {}", Size(*range.start()), Size(*range.end()))),
    }
}

/// Reads a number in a range.
fn count(range: RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// A command line of limits only.
    #[derive(Parser)]
    struct Line {
        /// The limits.
        #[command(flatten)]
        limits: LimitOptions,
    }

    #[test]
    fn what_is_not_said_is_as_the_library_has_it() {
        let line = Line::parse_from(["host"]);
        assert_eq!(format!("{:?}", line.limits.limits()), format!("{:?}", Limits::default()));
    }

    #[test]
    fn every_limit_has_an_option_a_variable_and_a_line_and_each_sets_its_own() {
        let command = <Line as clap::CommandFactory>::command();
        let options: Vec<_> = command.get_arguments().filter(|option| option.get_long() != Some("help")).collect();
        let default = shown(&Limits::default());
        let names: Vec<_> = options.iter().map(|option| format!("--{}", option.get_long().unwrap())).collect();
        assert_eq!(names, default.iter().map(|limit| limit.option).collect::<Vec<_>>());
        for (at, limit) in default.iter().enumerate() {
            let variable = limit.option.trim_start_matches('-').replace('-', "_").to_uppercase();
            assert_eq!(options[at].get_env().and_then(|name| name.to_str()), Some(&*variable));
            let more = limit.value + limit.value / 2;
            let line = Line::parse_from(["host", limit.option, &more.to_string()]);
            for (other, (before, after)) in default.iter().zip(shown(&line.limits.limits())).enumerate() {
                let expected = if other == at { more } else { before.value };
                assert_eq!(after.value, expected, "{} with {}", before.option, limit.option);
            }
        }
    }

    #[test]
    fn a_limit_of_one_projection_changes_that_one_and_no_other() {
        let line = Line::parse_from(["host", "--max-rows", "5"]).limits;
        let own = [Limit::parse("max_memory", "1MiB").unwrap(), Limit::parse("max_tables", "7").unwrap()];
        let limits = line.with(&own).limits();
        let expected = Limits { memory: 1 << 20, tables: 7, ..line.limits() };
        assert_eq!(format!("{limits:?}"), format!("{expected:?}"));
        assert!(Limit::parse("max_memory", "1").unwrap_err().contains("say 64 KiB to 4 GiB"));
        assert_eq!(keys().count() + 1, shown(&Limits::default()).len());
    }

    #[test]
    fn a_size_out_of_its_range_is_refused() {
        assert_eq!(size(1 << 10..=1 << 20)("1"), Err("say 1 KiB to 1 MiB".to_owned()));
    }
}
