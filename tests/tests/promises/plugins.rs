//! Components and core modules load; whatever is no projection is refused, and the message says why.

use projectionist_tests::{Kind, Output, Setup, on_both_databases, plugin};
use serde_json::{Value, json};
use wasm_encoder::{
    Component, ComponentImportSection, ComponentTypeRef, ComponentTypeSection, InstanceType, PrimitiveValType,
};

use crate::sabotage::{catch_up, note, order};

/// The world's own interfaces.
const WORLD: &str = "projectionist:projection";

/// A component that imports an empty interface of this name, and exports nothing.
fn importing(interface: &str) -> Vec<u8> {
    let mut types = ComponentTypeSection::new();
    types.instance(&InstanceType::new());
    let mut imports = ComponentImportSection::new();
    imports.import(interface, ComponentTypeRef::Instance(0));
    let mut component = Component::new();
    component.section(&types).section(&imports);
    component.finish()
}

/// A component that imports `log` with a function of another type than the host's.
fn importing_another_log() -> Vec<u8> {
    let mut log = InstanceType::new();
    let mut function = log.ty().function();
    function.params([("message", PrimitiveValType::String)]).result(None);
    log.export("log", ComponentTypeRef::Func(0));
    let mut types = ComponentTypeSection::new();
    types.instance(&log);
    let mut imports = ComponentImportSection::new();
    imports.import(format!("{WORLD}/log@0.1.0").as_str(), ComponentTypeRef::Instance(0));
    let mut component = Component::new();
    component.section(&types).section(&imports);
    component.finish()
}

/// Runs a file as a plugin.
fn run(setup: &Setup, content: &[u8]) -> Output {
    let _ = setup.file("plugin.wasm", content);
    setup.run(["run", "--once", "--plugin", "plugin.wasm"])
}

#[test]
fn a_component_and_a_core_module_run_alike() {
    let setup = Setup::new(Kind::Sqlite);
    let module = std::fs::read(plugin("user_count")).unwrap();
    assert_eq!(&module[..8], b"\0asm\x01\0\0\0", "cargo leaves a core module");
    let component = wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
    assert_eq!(&component[..8], b"\0asm\x0d\0\x01\0");
    run(&setup, &component).success();
    let inspect = |file: &str| -> Value {
        serde_json::from_str(&setup.run(["plugin", "inspect", "--json", file]).success().stdout).unwrap()
    };
    let (one, other) = (inspect(&plugin("user_count")), inspect("plugin.wasm"));
    assert_eq!((&one["kind"], &other["kind"]), (&"core module".into(), &"component".into()));
    for field in
        ["name", "version", "event_types", "aggregate_types", "bounded_contexts", "imports", "isolation", "limits"]
    {
        assert_eq!(one[field], other[field], "{field}");
    }
    assert_ne!(one["digest"], other["digest"]);
}

#[test]
fn what_is_no_projection_is_refused_with_the_reason() {
    let setup = Setup::new(Kind::Sqlite);
    let whole = std::fs::read(plugin("user_count")).unwrap();
    let component = wit_component::ComponentEncoder::default().module(&whole).unwrap().encode().unwrap();
    let build = "hint: build it against wit/projection.wit of this host's version; docs/wit.md has the world";
    let cases: [(&[u8], String); 10] = [
        (
            b"#!/bin/sh\nexec no-component\n",
            "plugin.wasm is not WebAssembly: it starts with \"#!/bin/sh\\nexec n\"\n\
             hint: --plugin takes a component or a core module, as `cargo build --target wasm32-unknown-unknown` \
             leaves it"
                .to_owned(),
        ),
        (b"", "plugin.wasm is not valid WebAssembly: it is cut off\nhint: is the file whole?".to_owned()),
        (b"\0asm\x01\0", "plugin.wasm is not valid WebAssembly: it is cut off\nhint: is the file whole?".to_owned()),
        (b"\0asm\x07\0\0\0", "plugin.wasm is not valid WebAssembly: its version is unknown\n".to_owned()),
        (&component[..component.len() / 2], "plugin.wasm is not valid WebAssembly: ".to_owned()),
        (
            b"\0asm\x01\0\0\0",
            format!(
                "plugin.wasm is not a projection: it does not export `describe`, a function of the world {WORLD}/projection\n{build}"
            ),
        ),
        (
            b"\0asm\x0d\0\x01\0",
            format!(
                "plugin.wasm is not a projection: it does not export `describe`, a function of the world {WORLD}/projection\n{build}"
            ),
        ),
        (
            &importing("wasi:http/outgoing-handler@0.2.0"),
            format!(
                "plugin.wasm is not a projection: it imports `wasi:http/outgoing-handler@0.2.0`, which the host does not offer to a projection\n{build}"
            ),
        ),
        (
            &importing("wasi:random/random@0.3.0"),
            format!(
                "plugin.wasm is not a projection: it imports `wasi:random/random@0.3.0`, and this host offers version 0.2\n{build}"
            ),
        ),
        (
            &importing(&format!("{WORLD}/log@0.2.0")),
            format!(
                "plugin.wasm is not a projection: it imports `{WORLD}/log@0.2.0`, and this host offers version 0.1.0\n{build}"
            ),
        ),
    ];
    for (content, error) in cases {
        let output = run(&setup, content);
        let found = output.exited(1).error();
        assert!(found.starts_with(&error), "{found}\n--- should start with\n{error}");
        assert!(found.contains("\nhint: "), "{found}");
    }
    assert!(!setup.source().has("user_count"), "nothing was run");
}

#[test]
fn a_truncated_module_is_refused() {
    let setup = Setup::new(Kind::Sqlite);
    let whole = std::fs::read(plugin("user_count")).unwrap();
    for part in [whole.len() / 4, whole.len() / 2, whole.len() - 10, whole.len() - 1] {
        let output = run(&setup, &whole[..part]);
        let error = output.exited(1).error();
        assert!(error.starts_with("plugin.wasm is ") && error.contains("\nhint: "), "{part}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn an_import_of_another_type_is_refused() {
    let setup = Setup::new(Kind::Sqlite);
    let output = run(&setup, &importing_another_log());
    let error = output.exited(1).error();
    assert!(error.starts_with("plugin.wasm "), "{error}");
    assert!(error.contains("describe") || error.contains("log"), "{error}");
}

#[test]
fn a_file_that_is_missing_is_told() {
    let setup = Setup::new(Kind::Sqlite);
    let error = "cannot read the plugin missing.wasm: No such file or directory (os error 2)\n\
                 hint: check the path given to --plugin";
    setup.run(["run", "--plugin", "missing.wasm"]).failed(2, error);
    // A name that is none is taken for a path: the message shows what was meant.
    let named = format!("Bad-Name={}", plugin("user_count"));
    let output = setup.run(["run", "--plugin", &named]);
    assert!(output.exited(2).error().starts_with(&format!("cannot read the plugin {named}: ")), "{}", output.stderr);
}

#[test]
fn two_projections_of_one_name_are_refused() {
    let setup = Setup::new(Kind::Sqlite);
    let file = plugin("user_count");
    let error = "two plugins are called user_count\nhint: give one of them another name: --plugin NAME=FILE";
    setup.run(["run", "--plugin", &file, "--plugin", &file]).failed(2, error);
    let renamed = format!("user_count={}", plugin("carrier_delays"));
    setup.run(["run", "--plugin", &file, "--plugin", &renamed]).failed(2, error);
}

on_both_databases!(what_a_projection_logs_has_its_name_partition_and_position);
fn what_a_projection_logs_has_its_name_partition_and_position(setup: &Setup) {
    setup.insert(&[note("a"), order("a", json!({"do": "log", "message": "line \u{1b}[31m one\nline two"}))]);
    let output = catch_up(setup, &["--log-format", "json"]);
    let line = output.success().stderr.lines().find(|line| line.contains("line two")).expect("the line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["message"], "line \u{1b}[31m one\n    line two");
    assert_eq!((&line["level"], &line["position"]), (&json!("INFO"), &json!(2)));
    assert_eq!((&line["span"]["projection"], &line["span"]["partition"]), (&json!("saboteur"), &json!("0 of 1")));
    // As text, it cannot make up lines of the host's or colour the terminal.
    setup.insert(&[order("a", json!({"do": "log", "message": "three\r\n2026 ERROR made up \u{1b}[31m"}))]);
    let log = catch_up(setup, &[]).success().stderr.clone();
    let lines: Vec<_> = log.lines().skip_while(|line| !line.contains("three")).take(2).collect();
    assert!(lines[0].contains("saboteur") && lines[0].ends_with("three"), "{log}");
    assert_eq!(lines[1], "    2026 ERROR made up \\x1b[31m position=3");
}

#[test]
fn inspecting_a_plugin_shows_what_it_is() {
    let setup = Setup::empty(Kind::Sqlite);
    let output = setup.run(["plugin", "inspect", &plugin("user_count")]);
    let shown = &output.success().stdout;
    for line in ["projection                  user_count\n", "version                     1\n"] {
        assert!(shown.starts_with("projection") && shown.contains(line), "{shown}");
    }
    assert!(shown.contains("UserCreated, EmailVerified, UserDeactivated\n"), "{shown}");
    assert!(shown.contains("memory                      at most 64 MiB\n"), "{shown}");
    let found = setup.run(["plugin", "inspect", "--json", &plugin("saboteur")]);
    let found: Value = serde_json::from_str(&found.success().stdout).unwrap();
    assert_eq!(found["name"], "saboteur");
    assert_eq!(found["event_types"], json!(["Order"]));
    assert_eq!(found["aggregate_types"], json!(["Saboteur"]));
    assert_eq!(found["bounded_contexts"], json!(["default", "stage"]));
    assert_eq!(found["kind"], "core module");
    assert_eq!(found["digest"].as_str().map(str::len), Some(64));
    let imports: Vec<_> = found["imports"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(imports.iter().all(|import| import.starts_with(&format!("{WORLD}/"))), "{imports:?}");
}

#[test]
fn validating_plugins_tells_good_from_bad() {
    let setup = Setup::empty(Kind::Sqlite);
    let [users, counter] = ["user_count", "counter_v2"].map(plugin);
    let output = setup.run(["plugin", "validate", &users, &counter]);
    assert_eq!(output.success().stdout, format!("{users}: user_count version 1\n{counter}: counter version 2\n"));
    let _ = setup.file("text.wasm", "no plugin");
    let output = setup.run(["plugin", "validate", "text.wasm"]);
    assert!(output.exited(1).error().starts_with("text.wasm is not WebAssembly"), "{}", output.stderr);
}
