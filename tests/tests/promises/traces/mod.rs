//! Traces over OTLP: a span a batch, with its parts, linked to where its events came from; and no batch waits for whoever
//! receives them.

mod receiver;

use std::net::TcpListener;
use std::process::Command;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use projectionist_tests::{Host, Kind, Setup, on_both_databases, plugin, wait_for, wait_until};
use serde_json::json;

use self::receiver::{Manner, Receiver, attribute, hex};
use crate::sabotage::{note, noted, order};
use crate::tls::Authority;

/// Runs the saboteur with these variables.
fn command(setup: &Setup, more: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = setup.command([&["run", "--plugin", &plugin("saboteur")][..], more].concat());
    command.envs(variables.iter().copied());
    command
}

/// The spans of batches.
fn batches(spans: &[Span]) -> Vec<&Span> {
    spans.iter().filter(|span| span.name == "batch").collect()
}

/// The number of events that a batch has applied.
fn applied(batch: &Span) -> u64 {
    attribute(&batch.attributes, "projectionist.events_applied").expect("a number").parse().expect("a number")
}

/// Whether a span says that something went wrong.
fn has_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

on_both_databases!(a_batch_is_a_span_with_its_parts_linked_to_the_traces_of_its_events);
fn a_batch_is_a_span_with_its_parts_linked_to_the_traces_of_its_events(setup: &Setup) {
    let (trace, span, other) =
        ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "4bf92f3577b34da6a3ce929d0e0e4736");
    setup.insert(&[note("a"), note("b"), note("c"), note("d")]);
    for (position, id) in [(1, format!("00-{trace}-{span}-01")), (2, other.to_owned()), (3, "order-17".to_owned())] {
        setup.connect().execute(&format!("UPDATE events SET trace_id = '{id}' WHERE global_position = {position}"));
    }
    let receiver = Receiver::new(Manner::Takes);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop".to_owned()),
        ("OTEL_SERVICE_NAME", "projections".to_owned()),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Host::spawn(command(setup, &["--once"], &variables)).wait().success();

    let [received] = &receiver.received()[..] else { panic!("{:?}", receiver.received()) };
    assert!(received.head.starts_with("post /v1/traces http/1.1"), "{}", received.head);
    assert!(received.head.contains("x-tenant: shop"), "{}", received.head);
    let resource = received.body.resource_spans[0].resource.as_ref().expect("a resource");
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("projections"));

    let spans = receiver.spans();
    let [batch] = batches(&spans)[..] else { panic!("{spans:#?}") };
    for (key, value) in [
        ("projectionist.projection", "saboteur"),
        ("projectionist.partition", "0 of 1"),
        ("projectionist.events", "4"),
        ("projectionist.events_applied", "4"),
        ("projectionist.position", "4"),
        ("projectionist.path", "fast"),
    ] {
        assert_eq!(attribute(&batch.attributes, key).as_deref(), Some(value), "{key}");
    }
    assert!(!has_failed(batch) && batch.parent_span_id.is_empty());
    let links: Vec<_> = batch.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect();
    assert_eq!(links, [(trace.to_owned(), span.to_owned()), (other.to_owned(), "0".repeat(16))]);

    let parts: Vec<_> = spans.iter().filter(|span| span.parent_span_id == batch.span_id).collect();
    let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["read", "guest", "sql", "commit"]);
    assert_eq!(spans.len(), 5);
    for part in &parts {
        assert_eq!(part.trace_id, batch.trace_id);
        assert!(part.start_time_unix_nano >= batch.start_time_unix_nano, "{part:?} of {batch:?}");
        assert!(part.end_time_unix_nano <= batch.end_time_unix_nano, "{part:?} of {batch:?}");
        assert!(part.end_time_unix_nano > part.start_time_unix_nano, "{part:?}");
    }
    let begins = |at: usize| parts[at].start_time_unix_nano;
    let ends = |at: usize| parts[at].end_time_unix_nano;
    assert!(
        ends(0) <= begins(1) && begins(1) <= begins(2) && ends(2) <= begins(3) && ends(1) == begins(3),
        "{parts:#?}"
    );
    for part in &parts[1..3] {
        let busy: f64 =
            attribute(&part.attributes, "projectionist.busy_seconds").expect("it").parse().expect("a number");
        let whole = (part.end_time_unix_nano - part.start_time_unix_nano) as f64 / 1e9;
        // A microsecond, for what is rounded.
        assert!(busy > 0.0 && busy <= whole + 1e-6, "{busy} of {part:?}");
    }
}

on_both_databases!(an_attempt_that_fails_says_why_and_the_careful_path_is_traced_as_well);
fn an_attempt_that_fails_says_why_and_the_careful_path_is_traced_as_well(setup: &Setup) {
    setup.insert(&[note("a"), order("b", json!({"do": "panic"})), note("c")]);
    let receiver = Receiver::new(Manner::Takes);
    let variables = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*format!("{}/v1/traces", receiver.endpoint()))];
    Host::spawn(command(setup, &["--once"], &variables)).wait().success();
    let spans = receiver.spans();
    let batches = batches(&spans);
    let (on, off): (Vec<&Span>, _) =
        batches.iter().partition(|batch| attribute(&batch.attributes, "projectionist.path").as_deref() == Some("fast"));
    let [fast] = on[..] else { panic!("{on:#?}") };
    assert!(has_failed(fast) && applied(fast) == 0, "{fast:#?}");
    let message = &fast.status.as_ref().expect("a status").message;
    assert!(message.contains("trap") || message.contains("panic"), "{message}");
    assert!(off.iter().any(|batch| has_failed(batch)) && off.iter().any(|batch| !has_failed(batch)), "{off:#?}");
    assert_eq!(off.iter().map(|batch| applied(batch)).sum::<u64>(), 2, "what was applied, and no more");
    let resource = receiver.received()[0].body.resource_spans[0].resource.clone().expect("a resource");
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("projectionist"));
}

on_both_databases!(no_batch_waits_for_whoever_is_slow_to_take_spans_and_neither_does_the_end);
fn no_batch_waits_for_whoever_is_slow_to_take_spans_and_neither_does_the_end(setup: &Setup) {
    let receiver = Receiver::new(Manner::Silent);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint()),
        // Longer than this test is ready to wait for anything.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "10".to_owned()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4".to_owned()),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut host = Host::spawn(command(setup, &[], &variables));
    host.wait_for_log("partition claimed");
    for count in 1..=10 {
        setup.insert(&[note("a")]);
        wait_until("it is applied", || noted(setup) == count);
        if count == 1 {
            wait_until("spans are on their way", || !receiver.received().is_empty());
        }
    }
    host.terminate();
    host.wait().success();
    assert_eq!(receiver.received().len(), 1, "they still were on their way");
}

on_both_databases!(who_is_told_to_end_soon_waits_for_spans_within_that_time);
fn who_is_told_to_end_soon_waits_for_spans_within_that_time(setup: &Setup) {
    let receiver = Receiver::new(Manner::Silent);
    let endpoint = receiver.endpoint();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ];
    for (timeout, least, most) in [("3", 0, 2_999), ("3600", 5_000, 5_000)] {
        let more = ["--shutdown-timeout", timeout, "--log", "info,projectionist_host::telemetry=debug"];
        let mut host = Host::spawn(command(setup, &more, &variables));
        let before = receiver.received().len();
        setup.insert(&[note("a")]);
        wait_until("spans are on their way", || receiver.received().len() > before);
        host.terminate();
        host.wait_for_log("waiting for the last spans to be taken");
        let ended = host.wait();
        let (_, said) = ended.success().stderr.rsplit_once("milliseconds=").expect("it says for how long");
        let said: u64 = said.split_whitespace().next().and_then(|said| said.parse().ok()).expect("a number");
        assert!((least..=most).contains(&said), "--shutdown-timeout {timeout}: {said}");
    }
}

on_both_databases!(who_is_away_and_comes_back_is_sent_spans_again);
fn who_is_away_and_comes_back_is_sent_spans_again(setup: &Setup) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ];
    let mut host = Host::spawn(command(setup, &[], &variables));
    setup.insert(&[note("a")]);
    wait_until("it is applied", || noted(setup) == 1);
    host.wait_for_log("spans are not taken");
    let receiver = Receiver::at(port, Manner::Takes);
    setup.insert(&[note("b")]);
    let batch = wait_for("the next batch is traced", || {
        let spans = receiver.spans();
        batches(&spans).into_iter().find(|batch| applied(batch) == 1).cloned()
    });
    assert_eq!(attribute(&batch.attributes, "projectionist.position").as_deref(), Some("2"), "the first is lost");
    host.wait_for_log("spans are taken again");
    assert_eq!(host.log().matches("spans are not taken").count(), 1, "{}", host.log());
}

on_both_databases!(nothing_is_sent_that_nobody_asked_for);
fn nothing_is_sent_that_nobody_asked_for(setup: &Setup) {
    let receiver = Receiver::new(Manner::Takes);
    let endpoint = receiver.endpoint();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());
    for switch in
        [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_SAMPLER", "always_off")]
    {
        setup.insert(&[note("a")]);
        Host::spawn(command(setup, &["--once"], &[endpoint, switch])).wait().success();
        assert!(receiver.received().is_empty(), "{switch:?}");
    }
    setup.insert(&[note("a")]);
    let all = [endpoint, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "1.0")];
    Host::spawn(command(setup, &["--once"], &all)).wait().success();
    assert_eq!(batches(&receiver.spans()).len(), 1);
    assert_eq!(noted(setup), 4);
}

#[test]
fn spans_are_encrypted_to_whom_the_authority_vouches_for() {
    let setup = Setup::new(Kind::Sqlite);
    let authority = Authority::new();
    let receiver = Receiver::encrypted(&authority.sign("localhost", "collector"));
    let endpoint = format!("https://localhost:{}", receiver.port);
    for (file, content, takes) in
        [("other.crt", Authority::new().certificate, false), ("ca.crt", authority.certificate, true)]
    {
        drop(setup.file(file, content));
        setup.insert(&[note("a")]);
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", file),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ];
        let output = Host::spawn(command(&setup, &["--once"], &variables)).wait();
        output.success();
        assert_eq!(receiver.spans().len(), if takes { 5 } else { 0 }, "{file}: {}", output.stderr);
        assert_eq!(output.stderr.contains("spans are not taken"), !takes, "{}", output.stderr);
    }
}

#[test]
fn what_cannot_be_sent_as_it_is_asked_for_is_a_mistake() {
    let setup = Setup::new(Kind::Sqlite);
    let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[("OTEL_TRACES_EXPORTER", "jaeger")], "OTEL_TRACES_EXPORTER is jaeger\nhint: say otlp or none"),
        (
            &[at, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            "OTEL_EXPORTER_OTLP_PROTOCOL is grpc\nhint: say http/protobuf in OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, and an \
             endpoint that speaks it, mostly port 4318",
        ),
        (
            &[at, ("OTEL_TRACES_SAMPLER", "xray")],
            "OTEL_TRACES_SAMPLER is xray\nhint: it can be always_on, always_off, traceidratio, parentbased_always_on, \
             parentbased_always_off, parentbased_traceidratio",
        ),
        (
            &[at, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "10%")],
            "OTEL_TRACES_SAMPLER_ARG is 10%\nhint: say which part of the batches is traced, from 0.0 to 1.0",
        ),
        (
            &[at, ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")],
            "OTEL_EXPORTER_OTLP_TIMEOUT is 10s\nhint: say how many milliseconds",
        ),
        (
            &[at, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem")],
            "OTEL_EXPORTER_OTLP_CLIENT_KEY is set, and this host shows no certificate of its own\nhint: leave it out: \
             OTEL_EXPORTER_OTLP_HEADERS can tell who this is; or send to a collector of this machine",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost"),
                ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "none.crt"),
            ],
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE is none.crt: No such file or directory (os error 2)\nhint: name a file \
             with the certificates of the authorities to believe, in PEM",
        ),
    ];
    for (variables, message) in cases {
        let output = Host::spawn(command(&setup, &["--once"], variables)).wait();
        output.failed(2, &format!("traces cannot be sent: {message}"));
    }
    let output = Host::spawn(command(&setup, &["--once"], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url")])).wait();
    assert!(output.exited(2).error().contains("such as http://collector:4318"), "{}", output.error());
}
