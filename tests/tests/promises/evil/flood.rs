//! Much of what is allowed in small amounts: cut off, dropped and counted, or stopped.

use std::time::Instant;

use projectionist_tests::{Kind, Setup, on_both_databases};
use serde_json::{Value, json};

use super::{attack, catch_up, contained, sql, survivors};

/// So many, so large.
fn flood(of: &str, times: Option<u64>, bytes: usize) -> Value {
    json!({"attack": "flood", "of": of, "times": times, "bytes": bytes})
}

/// The limit of a call.
const STOPPED: &str = "the projection ran longer than 300ms and was stopped";

on_both_databases!(a_log_without_end_is_cut_and_its_call_is_stopped);
fn a_log_without_end_is_cut_and_its_call_is_stopped(setup: &Setup) {
    let (began, lines) = (Instant::now(), 20);
    let options = ["--max-call-time", "300", "--max-log-lines", &lines.to_string()];
    let output = contained(setup, &[(flood("log", None, 100), STOPPED)], &options);
    let found = output.stderr.lines().filter(|line| line.contains("plugin: flood xxx")).count();
    // Each second has its share, and however long it has run: no more than that.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    assert!((1..=lines * seconds).contains(&found), "{found} lines in {seconds} s");
    // Lines as long as its memory are cut.
    assert!(output.stderr.lines().all(|line| line.len() < 10_000), "no line is longer than it may be");
}

on_both_databases!(a_log_line_cannot_look_like_the_hosts_own);
fn a_log_line_cannot_look_like_the_hosts_own(setup: &Setup) {
    setup.insert(&[attack("a", flood("forgery", Some(1), 0))]);
    let log = catch_up(setup, &[]).success().stderr.clone();
    let forged: Vec<_> = log.lines().filter(|line| line.contains("the host says")).collect();
    assert!(!forged.is_empty() && forged.iter().all(|line| line.starts_with("    2026-01-01")), "{log}");
    assert!(!log.contains('\u{1b}') && !log.contains('\r'), "nothing for the terminal: {log:?}");
}

on_both_databases!(statements_without_end_are_stopped);
fn statements_without_end_are_stopped(setup: &Setup) {
    let error = "more than 500 statements in one transaction (SQLSTATE 54000)";
    let attacks = [(flood("statements", None, 0), error), (flood("queries", None, 0), error)];
    contained(setup, &attacks, &["--max-statements", "500", "--max-call-time", "300"]);
}

on_both_databases!(what_is_passed_to_the_host_is_bounded);
fn what_is_passed_to_the_host_is_bounded(setup: &Setup) {
    let passed = "the projection passed more than 64 MiB to the host in one call (--max-call-data)";
    // 1 MiB of its memory, and 10 GiB if the host copied them.
    let attacks = [(flood("aliases", Some(10_000), 1 << 20), passed), (flood("settings", None, 4 << 20), STOPPED)];
    contained(setup, &attacks, &["--max-call-time", "300"]);
}

on_both_databases!(more_parameters_than_a_statement_takes_are_refused);
fn more_parameters_than_a_statement_takes_are_refused(setup: &Setup) {
    let many = "the statement takes 0 parameters, and 100000 were given";
    contained(setup, &[(flood("parameters", Some(100_000), 1), many)], &[]);
    // A limit is told to the guest at once, and is its to deal with.
    setup.insert(&[attack("large", flood("parameters", Some(3), 11 << 20))]);
    catch_up(setup, &[]).success();
    let told = "the parameters have 34603008 bytes, and 33554432 are allowed (SQLSTATE 54000)";
    assert_eq!(survivors(setup).last().map(String::as_str), Some(told));
}

on_both_databases!(a_result_past_the_limit_is_refused);
fn a_result_past_the_limit_is_refused(setup: &Setup) {
    // In SQLite, which runs in the host, such a value is not even made.
    let (large, error) = match setup.read_model().kind() {
        Kind::Postgres => {
            ("SELECT repeat('x', 200000000) AS x", "the result has more than 16777216 bytes (SQLSTATE 54000)")
        }
        Kind::Sqlite => ("SELECT hex(zeroblob(100000000)) AS x", "string or blob too big (SQLSTATE 54000)"),
    };
    contained(setup, &[(sql("query", large), error)], &[]);
}
