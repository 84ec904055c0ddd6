//! Whatever a projection takes is bounded, the operator says by how much, and what is past a bound becomes a dead letter
//! that says so, while everything else goes on. The bounds as they are by default are tried in `careful_path`.

use projectionist_tests::{Host, Kind, Setup, on_both_databases, plugin};
use serde_json::{Value, json};

use crate::dead_letters::{dlq, dlq_by_itself};
use crate::sabotage::{catch_up, note, noted, notes, order};

/// An event with a payload of more than so many bytes, which the saboteur only notes.
fn large(aggregate: &str, bytes: usize) -> projectionist_tests::Event {
    order(aggregate, json!({"do": "note", "more": "x".repeat(bytes)}))
}

/// Runs an order between two notes, with these options; gives the error of its dead letter.
#[track_caller]
fn error_of(setup: &Setup, order: projectionist_tests::Event, options: &[&str]) -> String {
    let letters = if setup.checkpoints("saboteur").is_empty() { 0 } else { setup.dead_letters("saboteur").len() };
    let before = (noted(setup), letters);
    setup.insert(&[note("good"), order, note("good")]);
    catch_up(setup, options).success();
    assert_eq!(noted(setup), before.0 + 2, "those around it are applied");
    let letters = setup.dead_letters("saboteur");
    assert_eq!(letters.len(), before.1 + 1);
    assert_eq!(setup.position("saboteur"), setup.last_position());
    letters.last().unwrap().error.clone()
}

on_both_databases!(an_event_past_the_limit_is_a_dead_letter_that_can_be_retried_with_a_higher_one);
fn an_event_past_the_limit_is_a_dead_letter_that_can_be_retried_with_a_higher_one(setup: &Setup) {
    let error = error_of(setup, large("big", 2_000), &["--max-event-size", "1KiB"]);
    assert!(error.starts_with("the event has 2"), "{error}");
    assert!(error.ends_with(" bytes, and a projection is shown 1024 at most (--max-event-size)"), "{error}");
    // The same limit, the same answer, on the way of a replay.
    let output = dlq_by_itself(setup, &["retry", "--all", "--max-event-size", "1KiB"]);
    assert!(output.exited(1).stderr.contains("(--max-event-size)"), "{}", output.stderr);
    assert_eq!(setup.dead_letters("saboteur")[0].attempts, 2);
    dlq_by_itself(setup, &["retry", "--all"]).success();
    assert_eq!(setup.dead_letters("saboteur"), []);
    assert_eq!(notes(setup).iter().filter(|row| row[0] == "big").count(), 1);
}

on_both_databases!(an_event_too_large_for_the_memory_of_its_projection_is_a_dead_letter);
fn an_event_too_large_for_the_memory_of_its_projection_is_a_dead_letter(setup: &Setup) {
    let error = error_of(setup, large("big", 3 << 20), &["--max-memory", "2MiB"]);
    assert!(error.starts_with("the projection wanted more than its 2 MiB of memory, and stopped"), "{error}");
}

on_both_databases!(each_limit_of_a_call_and_of_its_sql_is_as_it_was_set);
fn each_limit_of_a_call_and_of_its_sql_is_as_it_was_set(setup: &Setup) {
    let execute = |sql: String| json!({"do": "execute", "sql": sql});
    let long = || format!("INSERT INTO totals VALUES ('{}', 1)", "x".repeat(4_000));
    let rows = |number: u32| match setup.read_model().kind() {
        Kind::Postgres => format!("SELECT n FROM generate_series(1, {number}) AS n"),
        Kind::Sqlite => format!(
            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {number}) SELECT n FROM r"
        ),
    };
    let query = |sql: String| json!({"do": "query", "sql": sql});
    let endless = match setup.read_model().kind() {
        Kind::Postgres => "SELECT count(*) AS n FROM generate_series(1, 1000000000) AS n".to_owned(),
        Kind::Sqlite => rows(1_000_000_000).replace("SELECT n FROM r", "SELECT count(*) AS n FROM r"),
    };
    let late = match setup.read_model().kind() {
        Kind::Postgres => "statement timeout",
        Kind::Sqlite => "the statement ran longer than 500ms",
    };
    let log_line = json!({"do": "fail_until", "switch": "x".repeat(1_000)});
    let cases: [(Value, &[&str], &str); 10] = [
        (json!({"do": "spin"}), &["--max-call-time", "500"], "the projection ran longer than 500ms and was stopped"),
        (json!({"do": "hoard", "mebibytes": 8}), &["--max-memory", "4MiB"], "wanted more than its 4 MiB of memory"),
        (
            json!({"do": "recurse"}),
            &["--max-stack", "64KiB"],
            "the projection trapped: wasm trap: call stack exhausted",
        ),
        (execute(long()), &["--max-sql-size", "1KiB"], "bytes, and 1024 are allowed (SQLSTATE 54000)"),
        (
            execute(long()),
            &["--max-call-data", "2KiB"],
            "passed more than 2 KiB to the host in one call (--max-call-data)",
        ),
        (json!({"do": "note"}), &["--max-parameter-size", "1"], "bytes, and 1 are allowed (SQLSTATE 54000)"),
        (query(rows(11)), &["--max-rows", "10"], "the result has more than 10 rows (SQLSTATE 54000)"),
        (query(rows(1_000)), &["--max-result-size", "100"], "the result has more than 100 bytes (SQLSTATE 54000)"),
        (query(endless), &["--max-statement-time", "500"], late),
        (log_line, &["--max-log-line", "100", "--max-attempts", "1"], "the projection failed: the switch xxx"),
    ];
    for (number, (payload, options, expected)) in cases.into_iter().enumerate() {
        let aggregate = format!("bad-{number}");
        if options[0] == "--max-parameter-size" {
            // Its own notes have parameters, too: nothing around it would come through.
            setup.insert(&[order(&aggregate, payload)]);
            catch_up(setup, options).success();
            let letters = setup.dead_letters("saboteur");
            assert!(letters.last().unwrap().error.contains(expected), "{letters:?}");
            continue;
        }
        let error = error_of(setup, order(&aggregate, payload), options);
        assert!(error.contains(expected), "{options:?}: {error} should contain {expected}");
        if options[0] == "--max-log-line" {
            assert_eq!(error.len(), "the projection failed: ".len() + 100, "{error}");
        }
    }
    // A statement an event, where events are tried one by one: the second one of an event is past the limit.
    setup.insert(&[order("twice", execute("DELETE FROM totals".to_owned()))]);
    catch_up(setup, &["--max-statements", "1"]).success();
    let error = setup.dead_letters("saboteur").pop().unwrap().error;
    assert!(error.contains("more than 1 statements in one transaction (SQLSTATE 54000)"), "{error}");
}

/// A query that takes some tenths of a second for each million, and as long on every database.
fn count(setup: &Setup, aggregate: &str, millions: u32) -> projectionist_tests::Event {
    let sql = match setup.read_model().kind() {
        Kind::Postgres => format!(
            "SELECT count(*) AS n FROM generate_series(1, 1000) AS a (n), generate_series(1, 1000) AS b (n),
                 generate_series(1, {millions}) AS c (n)"
        ),
        Kind::Sqlite => format!(
            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {millions}000000)
             SELECT count(*) AS n FROM r"
        ),
    };
    order(aggregate, json!({"do": "query", "sql": sql}))
}

on_both_databases!(a_batch_that_takes_too_long_goes_on_smaller_and_no_event_is_blamed_for_the_others);
fn a_batch_that_takes_too_long_goes_on_smaller_and_no_event_is_blamed_for_the_others(setup: &Setup) {
    // All of them take longer than a transaction may, and each far less.
    setup.insert(&(0..120).map(|_| count(setup, "a", 1)).collect::<Vec<_>>());
    let output = catch_up(setup, &["--max-batch-time", "4000"]);
    let log = &output.success().stderr;
    assert!(log.contains("the transaction was open for longer than 4s (--max-batch-time) (SQLSTATE 54X01)"), "{log}");
    assert_eq!((noted(setup), setup.dead_letters("saboteur")), (120, vec![]));
}

on_both_databases!(an_event_that_takes_too_long_by_itself_is_a_dead_letter);
fn an_event_that_takes_too_long_by_itself_is_a_dead_letter(setup: &Setup) {
    let error = error_of(setup, count(setup, "bad", 40), &["--max-batch-time", "1500"]);
    assert_eq!(error, "the transaction was open for longer than 1.5s (--max-batch-time) (SQLSTATE 54X01)");
}

on_both_databases!(what_a_list_names_many_times_counts_many_times);
fn what_a_list_names_many_times_counts_many_times(setup: &Setup) {
    // 8 MiB of the guest's memory, and 80 GiB if the host copied them: within the limit of memory, past that of a call.
    let alias = order("bad", json!({"do": "alias", "mebibytes": 8, "times": 10_000}));
    let error = error_of(setup, alias, &[]);
    assert_eq!(error, "the projection passed more than 64 MiB to the host in one call (--max-call-data)");
}

on_both_databases!(a_projection_logs_no_more_than_it_may);
fn a_projection_logs_no_more_than_it_may(setup: &Setup) {
    let line = |message: &str| order("a", json!({"do": "log", "message": message}));
    // By size: what never fits is never there, however slow the machine.
    setup.insert(&[line("short"), line(&"long ".repeat(100)), line("abcdefghij")]);
    let log = catch_up(setup, &["--max-log-size", "60", "--max-log-line", "8"]).success().stderr.clone();
    assert!(log.contains("short") && !log.contains("abcdefghi") && log.contains("abcdefgh"), "{log}");
    setup.insert(&[line("short"), line(&"long ".repeat(100))]);
    let log = catch_up(setup, &["--max-log-size", "60"]).success().stderr.clone();
    assert!(log.contains("short") && !log.contains("long "), "{log}");
    // By lines: all in a batch that no machine draws out over so many seconds. An instance that traps and is made again
    // has no second share.
    let flood: Vec<_> = (0..150).flat_map(|_| [line("flood"), order("b", json!({"do": "panic"}))]).collect();
    setup.insert(&flood);
    let log = catch_up(setup, &["--max-log-lines", "1"]).success().stderr.clone();
    let lines = log.lines().filter(|line| line.contains("plugin: flood")).count();
    assert!((1..150).contains(&lines), "{lines} lines of 150");
}

#[test]
fn a_component_of_more_parts_than_allowed_is_refused() {
    let setup = Setup::new(Kind::Sqlite);
    let counter = plugin("counter");
    let hint = "\nhint: if it may have more, raise the limit: `host plugin inspect --help` lists them";
    for (options, reason) in [
        (
            ["--max-core-instances", "1"],
            "the component is made of more parts than it may have: resource limit exceeded: instance count",
        ),
        (["--max-table-elements", "1"], "the projection wanted more than its 1 table elements, and stopped: "),
        (["--max-memory", "64KiB"], "the projection wanted more than its 64 KiB of memory, and stopped: "),
    ] {
        let output = setup.run([&["run", "--once", "--plugin", &counter][..], &options].concat());
        let error = output.exited(1).error();
        assert!(error.starts_with(&format!("the plugin {counter} cannot be started: {reason}")), "{error}");
        assert!(error.ends_with(hint), "{error}");
    }
    assert_eq!(setup.checkpoints("counter"), [], "nothing was run");
}

#[test]
fn limits_are_shown_as_they_are_set_and_a_flag_wins_over_its_variable() {
    let setup = Setup::empty(Kind::Sqlite);
    let shown = |more: &[&str]| {
        let mut command = setup.command([&["plugin", "inspect", &*plugin("counter"), "--json"], more].concat());
        command.env("MAX_MEMORY", "4MiB").env("MAX_ROWS", "7");
        let found: Value = serde_json::from_str(&Host::spawn(command).wait().success().stdout).unwrap();
        let limits = found["limits"].as_array().unwrap().clone();
        move |option: &str| limits.iter().find(|limit| limit["option"] == option).unwrap().clone()
    };
    let by_variable = shown(&[]);
    let memory =
        json!({"name": "memory", "option": "--max-memory", "value": 4 << 20, "unit": "bytes", "text": "4 MiB"});
    assert_eq!(by_variable("--max-memory"), memory);
    assert_eq!(by_variable("--max-rows")["value"], 7);
    assert_eq!(by_variable("--max-call-time")["value"], 1_000);
    assert_eq!(shown(&["--max-memory", "2MiB"])("--max-memory")["text"], "2 MiB");
    let output = setup.run(["run", "--plugin", "x.wasm", "--max-memory", "lots"]);
    let error =
        "invalid value 'lots' for '--max-memory <SIZE>': say a number of bytes, such as 65536, 64KiB, 16MiB or 1GiB";
    assert!(output.exited(2).error().starts_with(error), "{}", output.stderr);
    let output = setup.run(["run", "--plugin", "x.wasm", "--max-sql-size", "1MiB"]);
    let error = "invalid value '1MiB' for '--max-sql-size <SIZE>': say 1 bytes to 256 KiB";
    assert!(output.exited(2).error().starts_with(error), "{}", output.stderr);
    let output = setup.run(["run", "--plugin", "x.wasm", "--max-stack", "2MiB"]);
    let error = "invalid value '2MiB' for '--max-stack <SIZE>': say 64 KiB to 1 MiB";
    assert!(output.exited(2).error().starts_with(error), "{}", output.stderr);
}

on_both_databases!(a_worker_that_runs_keeps_its_limits_in_a_replay);
fn a_worker_that_runs_keeps_its_limits_in_a_replay(setup: &Setup) {
    let error = error_of(setup, large("big", 2_000), &["--max-event-size", "1KiB"]);
    let mut host = crate::sabotage::follow(setup, &["--max-event-size", "1KiB"]);
    host.wait_for_log("partition claimed");
    dlq(setup, &["retry", "--all"]).exited(1);
    host.terminate();
    host.wait().success();
    let letters = setup.dead_letters("saboteur");
    assert_eq!((&letters[0].error, letters[0].attempts), (&error, 2));
}
