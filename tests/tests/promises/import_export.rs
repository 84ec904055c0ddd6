//! Files of events: imported in whole chunks, twice without harm, and exported so that they come back the same.

use std::io::Write as _;
use std::process::Stdio;

use projectionist_tests::{Kind, Output, Setup, flights, on_both_databases, plugin, wait_until};
use serde_json::{Value, json};

/// A line with an event.
fn line(number: u32) -> String {
    let id = format!("018f3b7e-7c00-7000-8000-{number:012}");
    json!({"event_id": id, "aggregate_type": "User", "aggregate_id": format!("u{number}"), "event_type": "UserCreated",
        "payload": {"n": number}})
    .to_string()
}

/// Imports text as a file, in chunks of 2.
fn import(setup: &Setup, content: impl AsRef<[u8]>) -> Output {
    let _ = setup.file("events.ndjson", content);
    setup.run(["import", "events.ndjson", "--chunk-size", "2"])
}

/// Which users are stored, in order.
fn stored(setup: &Setup) -> Vec<Vec<String>> {
    setup.connect().rows("SELECT aggregate_id FROM events ORDER BY global_position")
}

on_both_databases!(real_events_are_imported_and_importing_again_skips_them);
fn real_events_are_imported_and_importing_again_skips_them(setup: &Setup) {
    let file = flights::file().into_os_string();
    let import = || setup.run(["import".into(), file.clone()]);
    assert_eq!(import().success().stdout, "imported 5000, skipped 0 already stored\n");
    assert_eq!(import().success().stdout, "imported 0, skipped 5000 already stored\n");
    setup.run(["run", "--once", "--plugin", &plugin("carrier_delays")]).success();
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    // Versions count up without a gap, and the heads know the last.
    let gaps = "SELECT count(*) FROM (SELECT max(aggregate_version) AS last, count(*) AS events FROM events
                                      GROUP BY aggregate_type, aggregate_id) AS a WHERE last <> events";
    assert_eq!(setup.connect().value(gaps), "0");
    let heads = "SELECT count(*) FROM aggregate_heads AS h WHERE aggregate_version =
                     (SELECT max(aggregate_version) FROM events AS e WHERE e.aggregate_id = h.aggregate_id)";
    let aggregates = setup.connect().value("SELECT count(DISTINCT aggregate_id) FROM events");
    assert_eq!(setup.connect().value(heads), aggregates);
    // A local time with an offset is stored as the instant that it is.
    let first = setup.connect().value(match setup.source().kind() {
        Kind::Postgres => {
            "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM events
             WHERE global_position = 1"
        }
        Kind::Sqlite => "SELECT created_at FROM events WHERE global_position = 1",
    });
    assert_eq!(first, "2013-01-01T10:15:00.000000Z");
}

on_both_databases!(a_bad_line_is_named_and_only_whole_chunks_are_stored);
fn a_bad_line_is_named_and_only_whole_chunks_are_stored(setup: &Setup) {
    let unknown = line(9).replace("\"payload\"", "\"payloads\"");
    let array = line(9).replace(r#"{"n":9}"#, "[9]");
    let no_type = line(9).replace("\"event_type\":\"UserCreated\",", "");
    let time = line(9).replace("\"payload\"", "\"created_at\":\"yesterday\",\"payload\"");
    let cases = [
        (&line(9)[..40], "malformed JSON: the line ends in the middle of it, at column 40"),
        ("[]", "invalid type: sequence, expected an event, which is a JSON object"),
        (&unknown, "unknown field `payloads`"),
        (&array, "`payload` is an array, not a JSON object (`--allow-any-payload` takes any JSON)"),
        (&no_type, "missing field `event_type`"),
        (&time, "`created_at` is not an RFC 3339 time such as 2013-01-01T05:15:00-05:00: \"yesterday\""),
    ];
    let good: Vec<String> = (1..=3).map(line).collect();
    for (number, (bad, reason)) in cases.iter().enumerate() {
        // The third line is good, and in the chunk of the bad one.
        let output = import(setup, format!("{}\n{bad}\n{}\n", good.join("\n"), line(5)));
        let error = output.exited(1).error();
        let stopped = match number {
            0 => "the import of events.ndjson stopped: 2 events are stored; importing again skips them",
            _ => "the import of events.ndjson stopped: 0 events were stored now, 2 before; importing again skips them",
        };
        assert!(error.starts_with(&format!("{stopped}\n  because: line 4: {reason}")), "{error}");
        assert!(error.contains("\nhint: "), "{error}");
        assert_eq!(stored(setup), [["u1"], ["u2"]], "{reason}");
    }
    let output = import(setup, format!("{}\n{}\n", good.join("\n"), line(5)));
    assert_eq!(output.success().stdout, "imported 2, skipped 2 already stored\n");
    assert_eq!(stored(setup), [["u1"], ["u2"], ["u3"], ["u5"]]);
}

on_both_databases!(a_gzip_file_that_is_cut_off_is_told_and_can_be_imported_again);
fn a_gzip_file_that_is_cut_off_is_told_and_can_be_imported_again(setup: &Setup) {
    let whole = std::fs::read(flights::file()).unwrap();
    let _ = setup.file("cut.ndjson.gz", &whole[..whole.len() / 2]);
    let output = setup.run(["import", "cut.ndjson.gz"]);
    let error = output.exited(1).error();
    assert!(error.starts_with("the import of cut.ndjson.gz stopped: "), "{error}");
    assert!(error.contains("the file is cut off: its gzip stream ends in the middle, after "), "{error}");
    let stored: usize = setup.connect().value("SELECT count(*) FROM events").parse().unwrap();
    assert!(stored > 0 && stored < 5_000 && stored.is_multiple_of(1_000), "whole chunks of 1,000: {stored}");
    let output = setup.run(["import".into(), flights::file().into_os_string()]);
    assert_eq!(output.success().stdout, format!("imported {}, skipped {stored} already stored\n", 5_000 - stored));
}

on_both_databases!(a_larger_file_takes_no_more_memory);
fn a_larger_file_takes_no_more_memory(setup: &Setup) {
    let payload = "x".repeat(20 << 10);
    let line = json!({"aggregate_type": "A", "aggregate_id": "a", "event_type": "T", "payload": {"x": payload}});
    let line = line.to_string() + "\n";
    // The most memory, in KiB, that an import of so many lines has taken when all are stored.
    let mut before = 0;
    let mut peak = |lines: u64| -> u64 {
        let mut command = setup.command(["import", "-", "--chunk-size", "50"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the host");
        let mut pipe = child.stdin.take().expect("a pipe");
        (0..lines).for_each(|_| pipe.write_all(line.as_bytes()).expect("writing a line"));
        before += lines;
        wait_until("all lines are stored", || setup.last_position() == before);
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("the process");
        drop(pipe);
        assert!(child.wait().expect("its end").success());
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        peak.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let (small, large) = (peak(100), peak(4_000));
    assert!(large < small + (24 << 10), "80 MB took {large} KiB, and 2 MB took {small} KiB");
}

on_both_databases!(events_come_back_from_an_export_as_they_were);
fn events_come_back_from_an_export_as_they_were(setup: &Setup) {
    setup.run(["import".into(), flights::file().into_os_string()]).success();
    let odd = [
        r#"{"aggregate_type":"A","aggregate_id":"ä \" \\ 漢","event_type":"T","payload":{"b":1,"a":[null,1.50,"\u0000"]}}"#,
        r#"{"aggregate_type":"A","aggregate_id":"x","event_type":"T","payload_base64":"AP8=","trace_id":"t","metadata":{"m":1}}"#,
        r#"{"aggregate_type":"A","aggregate_id":"x","bounded_context":"b","event_type":"T","event_version":7,"payload":{},
            "correlation_id":"co","causation_id":"ca","created_at":"1969-12-31T23:59:59.999999Z"}"#,
    ];
    import(setup, odd.join("\n").replace("\n  ", "")).success();
    let output = setup.run(["export", "out.ndjson.gz"]);
    assert!(output.success().stdout.starts_with("exported 5003 events to "), "{}", output.stdout);
    let other = Setup::new(setup.source().kind());
    let file = setup.folder().join("out.ndjson.gz").into_os_string();
    assert_eq!(other.run(["import".into(), file]).success().stdout, "imported 5003, skipped 0 already stored\n");
    let everything = "SELECT * FROM events ORDER BY global_position";
    let [mut one, mut two] = [setup, &other].map(|setup| setup.connect().rows(everything));
    // Positions are the database's own: only their order comes along.
    for row in one.iter_mut().chain(&mut two) {
        row.remove(0);
    }
    assert_eq!(one.len(), 5_003);
    assert_eq!(one, two);
}

on_both_databases!(an_export_speaks_to_a_pipe_and_takes_filters);
fn an_export_speaks_to_a_pipe_and_takes_filters(setup: &Setup) {
    import(setup, (1..=6).map(|number| line(number) + "\n").collect::<String>()).success();
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let output = setup.run([&["export"], arguments].concat());
        output.success().stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    assert_eq!(lines(&[]).len(), 6);
    assert_eq!(lines(&["--from", "2", "--to", "4"]).len(), 3);
    let one = lines(&["--aggregate-id", "u5", "--aggregate-type", "User"]);
    assert_eq!(one.len(), 1);
    assert_eq!((&one[0]["aggregate_id"], &one[0]["payload"]), (&json!("u5"), &json!({"n": 5})));
    assert_eq!(lines(&["--event-type", "Other"]).len(), 0);
}

on_both_databases!(events_are_imported_from_a_pipe);
fn events_are_imported_from_a_pipe(setup: &Setup) {
    let mut command = setup.command(["import", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the host");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(format!("{}\n{}", line(1), line(2)).as_bytes()).expect("writing");
    drop(pipe);
    let output = child.wait_with_output().expect("its end");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "imported 2, skipped 0 already stored\n");
    assert_eq!(stored(setup), [["u1"], ["u2"]]);
}

#[test]
fn a_file_that_is_missing_is_told() {
    let setup = Setup::new(Kind::Sqlite);
    let error = "cannot import missing.ndjson: No such file or directory (os error 2)\n\
                 hint: name a file of events, or - for stdin";
    setup.run(["import", "missing.ndjson"]).failed(2, error);
    setup.run(["export", "no/folder/out.ndjson"]).exited(2);
}

on_both_databases!(a_part_of_the_log_is_exported_and_replayed_elsewhere);
fn a_part_of_the_log_is_exported_and_replayed_elsewhere(setup: &Setup) {
    setup.insert(&flights::events());
    let flown = "SELECT count(*), coalesce(sum(departed), 0), coalesce(sum(distance_miles), 0) FROM carrier_delays";
    let aircraft: Vec<String> = setup
        .connect()
        .rows("SELECT aggregate_id FROM events GROUP BY aggregate_id ORDER BY count(*) DESC, aggregate_id LIMIT 2")
        .into_iter()
        .map(|mut row| row.remove(0))
        .collect();
    // Each filter by itself, and what it has to give, asked of the database itself.
    let one = format!("Aircraft/{}", aircraft[0]);
    let other = format!("default/Aircraft/{}", aircraft[1]);
    let cases: [(&[&str], String); 4] = [
        (&["--aggregate", &one], format!("aggregate_id = '{}'", aircraft[0])),
        (
            &["--aggregate", &one, "--aggregate", &other, "--event-type", "FlightDeparted"],
            format!("aggregate_id IN ('{}', '{}') AND event_type = 'FlightDeparted'", aircraft[0], aircraft[1]),
        ),
        (
            &["--aggregate", &other, "--from", "1001", "--to", "3000"],
            format!("aggregate_id = '{}' AND global_position BETWEEN 1001 AND 3000", aircraft[1]),
        ),
        (&["--aggregate", "nowhere/Aircraft/x/y"], "1 = 0".to_owned()),
    ];
    for (filters, condition) in cases {
        let exported = setup.run([&["export", "part.ndjson"], filters].concat());
        let count = setup.connect().value(&format!("SELECT count(*) FROM events WHERE {condition}"));
        assert!(exported.success().stdout.starts_with(&format!("exported {count} events to ")), "{}", exported.stdout);
        let elsewhere = Setup::new(setup.source().kind());
        let part = setup.folder().join("part.ndjson").into_os_string();
        elsewhere.run(["import".into(), part]).success();
        elsewhere.run(["run", "--once", "--plugin", &plugin("carrier_delays")]).success();
        // The same sums, of the events past the host.
        let sum = match setup.source().kind() {
            Kind::Postgres => format!(
                "SELECT count(DISTINCT flight->>'carrier'),
                     count(*) FILTER (WHERE event_type = 'FlightDeparted'),
                     coalesce(sum((flight->>'distance_miles')::int) FILTER (WHERE event_type = 'FlightDeparted'), 0)
                 FROM (SELECT event_type, convert_from(payload, 'UTF8')::jsonb AS flight FROM events WHERE {condition}) AS e"
            ),
            Kind::Sqlite => format!(
                "SELECT count(DISTINCT flight->>'carrier'),
                     count(*) FILTER (WHERE event_type = 'FlightDeparted'),
                     coalesce(sum(flight->>'distance_miles') FILTER (WHERE event_type = 'FlightDeparted'), 0)
                 FROM (SELECT event_type, CAST(payload AS TEXT) AS flight FROM events WHERE {condition}) AS e"
            ),
        };
        assert_eq!(elsewhere.rows("carrier_delays", flown), setup.connect().rows(&sum), "{filters:?}");
    }
    let error = setup.run(["export", "--aggregate", "x"]);
    assert!(error.exited(2).error().contains("an aggregate is TYPE/ID, such as User/u1, or CONTEXT/TYPE/ID"));
}
