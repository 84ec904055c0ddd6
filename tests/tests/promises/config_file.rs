//! Everything that is said on the command line can stand in a file; a mistake in it is told with its line.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use projectionist_tests::{Kind, Setup, on_both_databases, plugin, wait_until};
use serde_json::json;

use crate::metrics::held_up;
use crate::sabotage::{note, noted, notes, order};

/// Writes the file that is read where none is named.
fn configure(setup: &Setup, text: &str) {
    drop(setup.file("projectionist.toml", text));
}

/// A section that runs the saboteur.
fn section(more: &str) -> String {
    format!("[projections.saboteur]\nplugin = {:?}\n{more}\n", plugin("saboteur"))
}

on_both_databases!(a_run_is_described_by_a_file);
fn a_run_is_described_by_a_file(setup: &Setup) {
    let top = "workers = 3\non_error = \"skip\"\n[settings]\nmended = \"for all\"\n";
    let own = "redact_payload = [\"secret\"]\n[projections.saboteur.settings]\nmended = 7\n";
    configure(setup, &format!("{top}{}", section(own)));
    setup.insert(&[
        order("a", json!({"do": "note_setting", "key": "mended"})),
        order("b", json!({"do": "note_payload", "secret": "x"})),
        order("c", json!({"do": "panic"})),
        note("c"),
    ]);
    setup.run(["run", "--once"]).success();
    assert_eq!(notes(setup), [["a", "7"], ["b", "{\"do\":\"note_payload\"}"], ["c", "2"]]);
    let letters = setup.dead_letters("saboteur");
    assert_eq!((setup.checkpoints("saboteur").len(), letters.len(), &*letters[0].reason), (3, 1, "skipped"));
    // The flag wins over the variable, and that over the file.
    let mut command = setup.command(["run", "--once"]);
    command.env("WORKERS", "2");
    projectionist_tests::Host::spawn(command).wait().success();
    assert_eq!(setup.checkpoints("saboteur").len(), 2);
    let mut command = setup.command(["run", "--once", "--workers", "1"]);
    command.env("WORKERS", "2");
    projectionist_tests::Host::spawn(command).wait().success();
    assert_eq!(setup.checkpoints("saboteur").len(), 1);
}

on_both_databases!(a_projection_has_workers_and_a_policy_of_its_own);
fn a_projection_has_workers_and_a_policy_of_its_own(setup: &Setup) {
    let other = format!("[projections.other]\nplugin = {:?}\nworkers = 2\non_error = \"stop\"\n", plugin("saboteur"));
    configure(setup, &format!("{}{other}", section("")));
    setup.insert(&[note("a")]);
    setup.run(["run", "--once"]).success();
    assert_eq!((setup.checkpoints("saboteur").len(), setup.checkpoints("other").len()), (1, 2));
    setup.insert(&[order("a", json!({"do": "panic"}))]);
    setup.run(["run", "--once"]).exited(3);
    assert!(setup.dead_letters("other").is_empty(), "it stops, and the other one may park");
    // The same on the command line.
    let run = ["run", "--once", "--config", "", "--plugin", &*plugin("saboteur"), "--for", "saboteur.workers=4"];
    setup.run(run).success();
    assert_eq!(setup.checkpoints("saboteur").len(), 4);
}

on_both_databases!(a_projection_has_limits_of_its_own);
fn a_projection_has_limits_of_its_own(setup: &Setup) {
    let other = format!("[projections.other]\nplugin = {:?}\n", plugin("saboteur"));
    configure(setup, &format!("max_event_size = \"1MiB\"\n{}{other}", section("max_event_size = \"1KiB\"\n")));
    setup.insert(&[order("big", json!({"do": "note", "more": "x".repeat(2_000)})), note("small")]);
    setup.run(["run", "--once"]).success();
    let letters = setup.dead_letters("saboteur");
    assert!(
        letters[0].error.ends_with(" bytes, and a projection is shown 1024 at most (--max-event-size)"),
        "{letters:?}"
    );
    assert_eq!((letters.len(), setup.dead_letters("other").len()), (1, 0));
    // A rebuild and a replay have them, too.
    setup.run(["rebuild", "--plugin", &plugin("saboteur")]).success();
    assert_eq!((setup.dead_letters("saboteur").len(), noted(setup)), (1, 1));
    let retry = ["dlq", "retry", "--all", "--plugin", &*plugin("saboteur")];
    assert!(setup.run(retry).exited(1).stderr.contains("(--max-event-size)"));
    // The same on the command line, which takes the place of what the file says for one.
    setup.run([&retry[..], &["--for", "saboteur.max_event_size=3KiB"]].concat()).success();
    assert_eq!((setup.dead_letters("saboteur").len(), noted(setup)), (0, 2));
    let stranger = [&retry[..], &["--config", "", "--for", "sabotuer.max_rows=3"]].concat();
    setup.run(stranger).failed(
        2,
        "--for is for sabotuer, and no plugin is called that\nhint: say the name of one that is loaded: saboteur",
    );
}

#[test]
fn a_projection_is_trusted_by_keys_of_its_own() {
    let setup = Setup::new(Kind::Sqlite);
    setup.run(["plugin", "trust", "keygen", "--out", "ada.key", "--name", "ada"]).success();
    crate::reload::deploy(&setup, &crate::reload::bytes("counter"));
    let bought = |more: &str| {
        let bought = format!("[projections.bought]\nplugin = \"counter.wasm\"\nrequire_signature = true\n{more}");
        configure(&setup, &format!("{}{bought}", section("")));
    };
    bought("");
    setup.run(["run", "--once"]).failed(
        2,
        "bought has require_signature without trusted_keys\n\
         hint: say whose signatures count: trusted_keys, a file with a line `ed25519 KEY NAME` each",
    );
    bought("trusted_keys = \"ada.key.pub\"\n");
    let unsigned = setup.run(["run", "--once"]);
    assert!(unsigned.exited(2).error().starts_with("counter.wasm is not signed: "), "{}", unsigned.error());
    assert!(setup.checkpoints("saboteur").is_empty(), "nothing has run");
    let check = setup.run(["config", "check"]);
    assert!(check.exited(2).error().starts_with("counter.wasm is not signed: "), "{}", check.error());
    setup.run(["plugin", "trust", "sign", "--key", "ada.key", "counter.wasm"]).success();
    // The other one is not signed, and need not be.
    setup.run(["run", "--once"]).success();
    assert_eq!((setup.checkpoints("saboteur").len(), setup.checkpoints("bought").len()), (1, 1));
    // Also under a name that only the component tells.
    std::fs::remove_file(setup.folder().join("counter.wasm.sig")).unwrap();
    let own = ["--for", "counter.require_signature=true", "--for", "counter.trusted_keys=ada.key.pub"];
    let named = setup.run([&["run", "--once", "--config", "", "--plugin", "counter.wasm"][..], &own].concat());
    assert!(named.exited(2).error().starts_with("counter.wasm is not signed: "), "{}", named.error());
    // And one may be let off what is demanded of all.
    let all = ["--require-signature", "--trusted-keys", "ada.key.pub"];
    let let_off = ["--plugin", "free=counter.wasm", "--for", "free.require_signature=false"];
    setup.run([&["run", "--once", "--config", ""][..], &all, &let_off].concat()).success();
}

on_both_databases!(what_is_typed_for_one_projection_lifts_nothing_else_of_the_file);
fn what_is_typed_for_one_projection_lifts_nothing_else_of_the_file(setup: &Setup) {
    setup.run(["plugin", "trust", "keygen", "--out", "ada.key", "--name", "ada"]).success();
    crate::reload::deploy(setup, &crate::reload::bytes("counter"));
    let demand = "require_signature = true\ntrusted_keys = \"ada.key.pub\"\n";
    let bought = format!("[projections.bought]\nplugin = \"counter.wasm\"\n{demand}");
    configure(setup, &format!("{}{bought}", section("workers = 2\nbatch_size = 50\nmax_event_size = \"1KiB\"\n")));
    setup.insert(&[order("big", json!({"do": "note", "more": "x".repeat(2_000)})), note("small")]);
    let named = "bought=counter.wasm";
    let commands = [
        &["run", "--once"][..],
        &["rebuild", "--plugin", named],
        &["dlq", "retry", "--all", "--plugin", named],
        &["plugin", "validate", named],
    ];
    // Neither what is for another one, nor another key of the same.
    for (command, typed) in
        commands.iter().flat_map(|command| [(command, "saboteur.batch_size=5"), (command, "bought.batch_size=5")])
    {
        let unsigned = setup.run([command, &["--for", typed][..]].concat());
        let error = unsigned.exited(2).error();
        assert!(error.starts_with("counter.wasm is not signed: "), "{command:?} --for {typed}: {error}");
    }
    assert!(setup.checkpoints("bought").is_empty() && setup.checkpoints("saboteur").is_empty(), "nothing has run");
    // What is typed takes the place of the very same key.
    let typed = ["--for", "saboteur.workers=3", "--for", "bought.require_signature=false"];
    setup.run([&["run", "--once"][..], &typed].concat()).success();
    assert_eq!((setup.checkpoints("saboteur").len(), setup.checkpoints("bought").len()), (3, 1));
    let letters = setup.dead_letters("saboteur");
    assert!(letters.len() == 1 && letters[0].error.contains("a projection is shown 1024 at most"), "{letters:?}");
}

on_both_databases!(a_section_says_in_which_replica_set_its_projection_is);
fn a_section_says_in_which_replica_set_its_projection_is(setup: &Setup) {
    let saboteur = plugin("saboteur");
    let of = |name: &str, more: &str| format!("[projections.{name}]\nplugin = {saboteur:?}\n{more}\n");
    let sections =
        [of("a", "replica_set = \"main\""), of("b", "replica_set = \"main\""), of("c", "replica_set = \"other\"")];
    configure(setup, &sections.concat());
    setup.insert(&[note("x")]);
    let host = setup.start(["run"]);
    wait_until("all three have applied it", || ["a", "b", "c"].iter().all(|name| setup.count(name, "notes") == 1));
    let status: serde_json::Value = serde_json::from_str(&setup.run(["status", "--json"]).stdout).expect("JSON");
    let slots =
        |set: usize| status["replica_sets"][set]["members"][0]["slots"].as_object().map(|slots| slots.keys().collect());
    let (main, other): (Option<Vec<_>>, Option<Vec<_>>) = (slots(0), slots(1));
    assert_eq!(main.expect("a set"), ["a", "b"]);
    assert_eq!(other.expect("a set"), ["c"]);
    host.terminate();
    host.wait().success();
    // What does not run here is in no set of this process.
    let host = setup.start(["run", "--plugin", &format!("c={saboteur}")]);
    setup.insert(&[note("x")]);
    wait_until("it has applied it", || setup.count("c", "notes") == 2);
    host.terminate();
    host.wait().success();
    configure(setup, &of("a", "replica_set = \"Main=b\""));
    let mistake = setup.run(["run"]);
    assert!(mistake.exited(2).error().starts_with("projectionist.toml, line 3: "), "{}", mistake.error());
}

on_both_databases!(a_rebuild_has_the_filters_of_the_run);
fn a_rebuild_has_the_filters_of_the_run(setup: &Setup) {
    let stranger = "[projections.elsewhere]\nredact_payload = [\"x\"]\n";
    configure(setup, &format!("{}{stranger}", section("redact_payload = [\"secret\"]")));
    setup.insert(&[order("b", json!({"do": "note_payload", "secret": "x"}))]);
    setup.run(["run", "--once"]).success();
    setup.run(["rebuild", "--plugin", &plugin("saboteur")]).success();
    assert_eq!(notes(setup), [["b", "{\"do\":\"note_payload\"}"]]);
}

#[test]
fn a_mistake_is_told_with_its_line() {
    let setup = Setup::new(Kind::Sqlite);
    let see = "see docs/cli.md";
    for (text, line, message, hint) in [
        ("workers = 2\nbatch_sise = 5", 2, "there is no key batch_sise", "did you mean batch_size?"),
        ("batch_size = \"many\"", 1, "invalid value 'many' for '--batch-size <N>': invalid digit found in string", see),
        ("\n\nbatch_size = 0", 3, "invalid value '0' for '--batch-size <N>': 0 is not in 1..=1000000", see),
        ("batch_size = [1, 2]", 1, "batch_size is one value, and here it is a list", see),
        ("watch = 7.5", 1, "invalid value '7.5' for '--watch <WATCH>': value was not a boolean", see),
        (
            "max_lag = 2024-01-01",
            1,
            "max_lag is a value, and here it is a time",
            "say a text, a number, true, false, or a list of them",
        ),
        ("projections = 5", 1, "projections is a section, and here it is a number", "write it as [projections]"),
        (
            "[projections.x]\nfile = \"x.wasm\"",
            2,
            "there is no key file",
            "there are: plugin, digest, settings, replica_set, only_aggregate_type, redact_payload, grant_read, isolation, max_lag, \
             workers, batch_size, on_error, max_attempts, poll_interval, priority, require_signature, trusted_keys, ",
        ),
        ("[projections.x]\nmax_memroy = 5", 2, "there is no key max_memroy", "did you mean max_memory?"),
        (
            "[projections.x]\n\nmax_memory = \"much\"",
            3,
            "invalid value 'x.max_memory=much' for '--for <NAME.KEY=VALUE>': invalid value 'much' for '--max-memory <SIZE>': ",
            see,
        ),
        (
            "[projections.x]\nmax_stack = \"1MiB\"",
            2,
            "invalid value 'x.max_stack=1MiB' for '--for <NAME.KEY=VALUE>': max_stack is for all projections of a process: \
             --max-stack",
            see,
        ),
        (
            "[projections.x]\nmax_rows = [1, 2]",
            2,
            "projections.x.max_rows is one value, and here it is a list",
            "say one",
        ),
        (
            "[projections.x]\nrequire_signature = 1",
            2,
            "invalid value 'x.require_signature=1' for '--for <NAME.KEY=VALUE>': require_signature is true or false",
            see,
        ),
        (
            "[projections.x]\nworkers = 0",
            2,
            "invalid value 'x.workers=0' for '--for <NAME.KEY=VALUE>': workers is a number from 1 to 65536",
            see,
        ),
        (
            "[projections.x]\ndigest = \"ab\"",
            1,
            "[projections.x] has a digest and no plugin",
            "say which file it pins: plugin = \"FILE\"",
        ),
    ] {
        configure(&setup, text);
        let output = setup.run(["status"]);
        let error = output.exited(2).error();
        // What a list goes on with depends on which limits there are.
        let (told, hinted) = error.rsplit_once("\nhint: ").unwrap_or_else(|| panic!("no hint: {error}"));
        let is_open = |expected: &str| expected.ends_with(": ") || expected.ends_with(", ");
        let fits = |told: &str, expected: &str| told == expected || (is_open(expected) && told.starts_with(expected));
        assert!(
            fits(told, &format!("projectionist.toml, line {line}: {message}")) && fits(hinted, hint),
            "{text}: {error}"
        );
    }
    configure(&setup, "workers = ");
    let output = setup.run(["status"]);
    assert!(output.exited(2).error().starts_with("projectionist.toml, line 1: "), "{}", output.error());
    setup.run(["--help"]).success();
    setup.run(["status", "--config", ""]).success();
    let missing = setup.run(["status", "--config", "nowhere.toml"]);
    assert!(missing.exited(2).error().starts_with("cannot read nowhere.toml: "), "{}", missing.error());
}

#[test]
fn a_password_in_the_file_is_shown_nowhere() {
    let setup = Setup::new(Kind::Sqlite);
    configure(&setup, "read_model_url = \"postgres://me:opensesame@localhost:1/x\"");
    for arguments in [&["--help"][..], &["run", "--help"], &["status"], &["config", "check"]] {
        let output = setup.run(arguments);
        assert!(!format!("{}{}", output.stdout, output.stderr).contains("opensesame"), "{arguments:?}");
    }
}

#[test]
fn the_configuration_is_checked_without_a_database() {
    let setup = Setup::empty(Kind::Sqlite);
    let output = setup.run(["config", "check"]);
    output.failed(
        2,
        "there is no configuration to check\n\
         hint: say --config FILE, or put projectionist.toml into the working folder",
    );
    configure(&setup, &section("workers = 2\nbatch_size = 7\n"));
    let output = setup.run(["config", "check"]);
    let told = &output.success().stdout;
    assert!(told.starts_with("saboteur: version 1, "), "{told}");
    assert!(
        told.ends_with("2 partitions, batches of 7 events at most\nprojectionist.toml is good: 3 keys\n"),
        "{told}"
    );
    configure(&setup, "[projections.x]\nplugin = \"nowhere.wasm\"\n");
    let output = setup.run(["config", "check"]);
    assert!(output.exited(2).error().contains("nowhere.wasm"), "{}", output.error());
    let files: Vec<_> = std::fs::read_dir(setup.folder()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
}

on_both_databases!(a_hangup_applies_what_can_be_applied);
fn a_hangup_applies_what_can_be_applied(setup: &Setup) {
    let served = |lag: &str, log: &str, workers: u32| {
        let top =
            format!("http = \"127.0.0.1:0\"\nmax_attempts = 1000000\nlog = \"{log}\"\nworkers = {workers}\n{lag}\n");
        configure(setup, &format!("{top}{}", section("")));
    };
    served("", "info", 1);
    let mut host = setup.start(["run"]);
    setup.insert(&[held_up()]);
    host.wait_for_log("trying an event again");
    wait_until("it is served, and no lag is too long", || host.get("/health").ask().json()["status"] == "healthy");
    served("max_lag = 60", "projectionist_host=debug", 2);
    host.hang_up();
    wait_until("the lag is too long now", || host.get("/health").ask().json()["status"] == "degraded");
    host.wait_for_log("take effect at the next start keys=[\"workers\"]");
    // A mistake changes nothing.
    configure(setup, "max_lga = 5");
    host.hang_up();
    host.wait_for_log("the configuration cannot be used; all stays as it was");
    assert_eq!(host.get("/health").ask().json()["status"], "degraded");
    crate::metrics::switch_on(setup);
    wait_until("it goes on", || noted(setup) == 1);
    setup.insert(&[note("b")]);
    // Which only debug tells.
    host.wait_for_log("batch committed");
    host.terminate();
    host.wait().success();
}

on_both_databases!(a_hangup_changes_how_workers_work_while_they_do);
fn a_hangup_changes_how_workers_work_while_they_do(setup: &Setup) {
    let policy = |all: &str, own: &str| {
        let other = format!("[projections.other]\nplugin = {:?}\n", plugin("saboteur"));
        configure(setup, &format!("on_error = \"{all}\"\n{}{other}", section(own)));
    };
    policy("park", "");
    let mut host = setup.start(["run"]);
    setup.insert(&[order("a", json!({"do": "panic"})), note("a"), note("b")]);
    wait_until("both have passed them", || noted(setup) == 1 && setup.count("other", "notes") == 1);
    let parked = |projection: &str| setup.dead_letters(projection).iter().filter(|one| one.reason != "skipped").count();
    wait_until("both park it", || parked("saboteur") == 2 && parked("other") == 2);
    policy("park", "on_error = \"skip\"\nbatch_size = 1\nmax_attempts = 1\n");
    host.hang_up();
    host.wait_for_log("projections.saboteur.on_error");
    setup.insert(&[order("c", json!({"do": "panic"})), note("c")]);
    wait_until("one skips, and the other one parks", || {
        let skipped = setup.dead_letters("saboteur").iter().filter(|one| one.reason == "skipped").count();
        skipped == 1 && parked("other") == 4
    });
    assert_eq!(parked("saboteur"), 2);
    // What is waiting for something that may pass is tried no more often.
    setup.insert(&[order("d", json!({"do": "fail_until", "switch": "on"}))]);
    wait_until("it is given up at the first attempt", || {
        setup
            .dead_letters("saboteur")
            .iter()
            .any(|one| one.reason == "skipped" && one.attempts == 1 && one.position == 6)
    });
    host.terminate();
    host.wait().success();
}

#[test]
fn a_hangup_takes_another_token() {
    let setup = Setup::new(Kind::Sqlite);
    let tokens = ["correct horse battery staple", "another horse, another battery"];
    drop(setup.file("token", tokens[0]));
    let served = ["--http", "127.0.0.1:0", "--http-token-file", "token"];
    let mut host = crate::sabotage::follow(&setup, &served);
    wait_until("the first is taken", || host.get("/metrics").bearing(tokens[0]).ask().code == 200);
    drop(setup.file("token", tokens[1]));
    host.hang_up();
    wait_until("the second is taken", || host.get("/metrics").bearing(tokens[1]).ask().code == 200);
    assert_eq!(host.get("/metrics").bearing(tokens[0]).ask().code, 401);
}

#[test]
fn a_stream_of_the_dashboard_ends_when_its_token_does() {
    let setup = Setup::new(Kind::Sqlite);
    let tokens = ["correct horse battery staple", "another horse, another battery"];
    drop(setup.file("token", tokens[0]));
    let served = ["--http", "127.0.0.1:0", "--http-token-file", "token"];
    let mut host = crate::sabotage::follow(&setup, &served);
    let address = host.address();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!("Host: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n", tokens[0]);
    stream.write_all(format!("GET /api/events HTTP/1.1\r\n{head}").as_bytes()).unwrap();
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    let mut more = |text: &mut String| {
        let count = stream.read(&mut piece).unwrap();
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
        count > 0
    };
    while text.matches("data:").count() < 2 {
        assert!(more(&mut text), "it ended: {text}");
    }
    drop(setup.file("token", tokens[1]));
    host.hang_up();
    // What is shown each second, a hundred times at most.
    while more(&mut text) {
        assert!(text.matches("data:").count() < 100, "it goes on and on");
    }
}

#[test]
fn a_hangup_that_comes_before_a_host_is_ready_does_not_end_it() {
    let cluster = projectionist_tests::Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a")]);
    // It has read its arguments, and waits for this before it serves anything.
    let mut in_the_way = setup.connect();
    in_the_way.execute("BEGIN; LOCK TABLE projectionist._migrations_events IN ACCESS EXCLUSIVE MODE");
    configure(&setup, &section(""));
    let mut host = setup.start(["run"]);
    host.wait_for_log("plugin loaded");
    configure(&setup, "max_lga = 5");
    host.hang_up();
    in_the_way.execute("COMMIT");
    host.wait_for_log("the configuration cannot be used; all stays as it was");
    wait_until("it works", || noted(&setup) == 1);
    host.terminate();
    host.wait().success();
}
