//! Whoever writes a projection edits, saves, and sees what the new code makes of the events. What does not compile stays
//! on the screen, and the last good one goes on.

use std::path::PathBuf;
use std::process::Command;

use projectionist_tests::{Host, Kind, Setup, event, programs, wait_until};

/// The repository.
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A crate of somebody's, with this in its `handle`. It is built with the dependencies and into the folder of the
/// projections of these tests, so that only the crate itself is compiled.
fn write_crate(setup: &Setup, name: &str, handle: &str) {
    let folder = setup.folder().join("orders");
    std::fs::create_dir_all(folder.join("src")).unwrap();
    let root = repository();
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n\
         [dependencies]\nprojectionist-sdk = {{ path = {:?} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n\
         [profile.release]\nopt-level = \"s\"\nlto = true\ncodegen-units = 1\npanic = \"abort\"\nstrip = true\n[workspace]\n",
        root.join("sdk")
    );
    let source = format!(
        "use projectionist_sdk::prelude::*;\n#[derive(Default)]\nstruct Orders;\nimpl Projection for Orders {{\n\
         fn name() -> &'static str {{ \"orders\" }}\n\
         fn migrate(&mut self, tx: &Transaction, _: u32) -> Result<(), Failure> {{\n\
         tx.execute(\"CREATE TABLE orders (id TEXT PRIMARY KEY, total BIGINT NOT NULL)\", params![])?; Ok(()) }}\n\
         fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {{\n\
         log::info!(\"handling\");\n{handle}\nOk(()) }}\n}}\nexport_projection!(Orders);\n"
    );
    if !folder.join("Cargo.toml").exists() {
        std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        std::fs::copy(root.join("tests/plugins/Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    }
    // As an editor saves.
    std::fs::write(folder.join("src/lib.rs.new~"), source).unwrap();
    std::fs::rename(folder.join("src/lib.rs.new~"), folder.join("src/lib.rs")).unwrap();
}

/// Inserts an order with this total.
fn total(total: &str) -> String {
    format!("tx.execute(\"INSERT INTO orders VALUES ($1, $2)\", params![event.aggregate_id(), {total}])?;")
}

/// `host dev`, with what cargo needs.
fn dev(setup: &Setup, arguments: &[&str]) -> Command {
    let mut command = setup.command(arguments);
    for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("CARGO_TARGET_DIR", programs::cache().with_file_name("tests-dev"));
    command
}

/// A file of events.
fn events(setup: &Setup) -> String {
    let line = |id: &str| {
        format!(
            "{{\"aggregate_type\": \"Order\", \"aggregate_id\": \"{id}\", \"event_type\": \"Placed\", \"payload\": {{}}}}\n"
        )
    };
    setup.file("events.ndjson", ["o1", "o2", "o3"].map(line).concat()).to_str().unwrap().to_owned()
}

/// Waits until it has printed this.
#[track_caller]
fn wait_for_print(host: &Host, text: &str) {
    wait_until(&format!("it prints {text:?}, after\n{}{}", host.printed(), host.log()), || {
        host.printed().contains(text)
    });
}

#[test]
fn an_author_sees_what_each_change_does() {
    let setup = Setup::empty(Kind::Sqlite);
    write_crate(&setup, "orders_a", &total("1_i64"));
    let mut host = Host::spawn(dev(&setup, &["dev", "orders", "--events", &events(&setup)]));
    wait_for_print(&host, "3 events applied");
    wait_for_print(&host, "orders: 3 rows added, 0 changed, 0 removed\n    + id=o1 total=1\n");
    host.wait_for_log("plugin: handling");
    // What does not compile is shown, and changes nothing.
    write_crate(&setup, "orders_a", "no rust at all");
    wait_for_print(&host, "the last good one goes on; waiting for changes");
    assert!(host.log().contains("error: the crate does not compile"), "{}", host.log());
    assert!(host.log().contains("src/lib.rs:"), "the compiler says where: {}", host.log());
    // What compiles and applies something else: against what was there.
    write_crate(&setup, "orders_a", &format!("if event.aggregate_id() != \"o2\" {{ {} }}", total("2_i64")));
    wait_for_print(&host, "orders: 0 rows added, 2 changed, 1 removed\n    ~ id=o1 total=1 → 2\n");
    wait_for_print(&host, "    - id=o2 total=1\n");
    // What cannot be applied is named with its error.
    write_crate(
        &setup,
        "orders_a",
        &format!(
            "if event.aggregate_id() == \"o3\" {{ return Err(Failure::permanent(\"no third\")); }} {}",
            total("2_i64")
        ),
    );
    wait_for_print(&host, "  not applied: 3 Placed of default/Order/o3: the projection failed: no third\n");
    host.interrupt();
    let output = host.wait();
    output.success();
    assert!(!setup.folder().join("projectionist.db").exists(), "nothing is left where it was started");
}

#[test]
fn new_events_are_applied_and_shown_and_nothing_else_is_touched() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let setup = Setup::new(kind);
        write_crate(&setup, "orders_b", &total("7_i64"));
        setup.insert(&[event("Placed", "Order", "o1")]);
        let host = Host::spawn(dev(&setup, &["dev", "orders"]));
        wait_for_print(&host, "    + id=o1 total=7\n");
        setup.insert(&[event("Placed", "Order", "o9")]);
        wait_for_print(
            &host,
            "1 more events applied\n  orders: 1 rows added, 0 changed, 0 removed\n    + id=o9 total=7\n",
        );
        host.terminate();
        host.wait().success();
        assert_eq!(setup.checkpoints("orders"), [], "it has a read model of its own");
    }
}

#[test]
fn once_is_for_scripts() {
    let setup = Setup::empty(Kind::Sqlite);
    let events = events(&setup);
    let once = |more: &[&str]| Host::spawn(dev(&setup, &[&["dev", "orders", "--once"], more].concat())).wait();
    let output = once(&["--events", &events]);
    assert!(output.exited(2).error().starts_with("cannot open orders: No such file"), "{}", output.stderr);
    write_crate(&setup, "orders_c", &total("1_i64"));
    let output = once(&["--events", &events]);
    assert!(output.success().stdout.contains("3 rows added"), "{}", output.stdout);
    let output = once(&["--events", "missing.ndjson"]);
    output.exited(2);
    write_crate(&setup, "orders_c", "return Err(Failure::permanent(\"never\"));");
    let output = once(&["--events", &events]);
    let error = "3 events could not be applied\nhint: see above: each is named with its error";
    output.failed(1, error);
    write_crate(&setup, "orders_c", "this is no rust");
    let output = once(&["--events", &events]);
    let error = "error: the crate does not compile\nhint: the compiler has said why, above\n";
    assert!(output.exited(1).stderr.ends_with(error), "{}", output.stderr);
}
