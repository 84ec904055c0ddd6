//! What no compiler would make: answers and arguments that are no such thing, handles that are not the guest's own, parts
//! of a module that hardly any program has. See tests/plugins/evil/malformed.wat.

use std::path::Path;

use projectionist_tests::{Setup, on_both_databases};
use serde_json::{Value, json};
use wit_component::StringEncoding;
use wit_parser::Resolve;

use super::{attack, contained_from, harmless, run, survivors};

/// The guest.
const GUEST: &str = include_str!("../../../plugins/evil/malformed.wat");

/// Builds it, with something put into its places; gives where it is.
fn build(setup: &Setup, places: &[(&str, &str)]) -> String {
    let mut text = GUEST.to_owned();
    for (place, code) in places {
        assert_eq!(text.matches(place).count(), 1, "{place}");
        text = text.replace(place, code);
    }
    let mut module = wat::parse_str(&text).unwrap();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap();
    let world = resolve.select_world(&[package], Some("projection")).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    setup.file("evil.wasm", module).into_os_string().into_string().unwrap()
}

/// The attack of this letter.
fn letter(letter: &str) -> Value {
    json!(letter)
}

/// The attack of this letter, and the trap that it ends with.
fn trap<'a>(name: &str, reason: &'a str) -> (Value, &'a str) {
    (letter(name), reason)
}

on_both_databases!(an_answer_that_is_none_is_refused);
fn an_answer_that_is_none_is_refused(setup: &Setup) {
    let evil = build(setup, &[]);
    // A text as long as its memory is cut where a log line is.
    let long = format!("the projection failed: {}", "x".repeat(4_000));
    let attacks = [
        trap("a", "invalid expected discriminant"),
        trap("b", "unexpected discriminant: 9"),
        trap("c", "string pointer/length out of bounds of memory"),
        trap("d", "string pointer/length out of bounds of memory"),
        trap("e", "invalid utf-8 sequence of 1 bytes from index 4"),
        trap("f", "pointer out of bounds of memory"),
        trap("g", "return pointer not aligned"),
        (letter("h"), "the projection ran longer than 300ms and was stopped"),
        (letter("i"), &long),
    ];
    contained_from(setup, &evil, &attacks, &["--max-call-time", "300"]);
}

on_both_databases!(an_argument_that_is_none_is_refused);
fn an_argument_that_is_none_is_refused(setup: &Setup) {
    let evil = build(setup, &[]);
    let attacks = [
        trap("j", "string pointer/length out of bounds of memory"),
        trap("k", "invalid utf-8 sequence of 1 bytes from index 4"),
        trap("l", "list pointer/length out of bounds of memory"),
        trap("m", "list pointer/length out of bounds of memory"),
        trap("n", "unexpected discriminant: 200"),
        trap("o", "list pointer is not aligned"),
        trap("p", "pointer out of bounds"),
        trap("q", "unexpected discriminant: 77"),
        trap("r", "invalid utf-8 sequence of 1 bytes from index 4"),
        trap("s", "string pointer/length out of bounds of memory"),
    ];
    contained_from(setup, &evil, &attacks, &[]);
}

on_both_databases!(a_transaction_that_is_not_lent_cannot_be_used);
fn a_transaction_that_is_not_lent_cannot_be_used(setup: &Setup) {
    let evil = build(setup, &[]);
    let attacks = [
        trap("t", "borrow handles still remain at the end of the call"),
        trap("u", "unknown handle index 1"),
        trap("v", "unknown handle index 1"),
        trap("w", "unknown handle index 77777"),
        trap("x", "unknown handle index 0"),
        trap("y", "unknown handle index 4294967295"),
        trap("z", "unknown handle index 2"),
        trap("B", "unknown handle index 1"),
    ];
    contained_from(setup, &evil, &attacks, &[]);
}

on_both_databases!(a_table_that_grows_without_end_is_stopped);
fn a_table_that_grows_without_end_is_stopped(setup: &Setup) {
    let evil = build(setup, &[]);
    let error = "the projection wanted more than its 100000 table elements, and stopped: wasm trap: wasm `unreachable`";
    contained_from(setup, &evil, &[(letter("A"), error)], &[]);
}

on_both_databases!(memory_for_an_event_is_where_the_guest_has_memory);
fn memory_for_an_event_is_where_the_guest_has_memory(setup: &Setup) {
    // Only for what is large, so that the harmless events come through.
    let place = |code: &str| format!("(if (i32.gt_u (local.get $new) (i32.const 5000)) (then {code}))");
    let large = json!("x".repeat(6_000));
    for (number, (code, error)) in [
        ("(return (i32.const -64))", "the projection trapped: realloc return: beyond end of memory"),
        ("(loop $ever (br $ever))", "the projection ran longer than 300ms and was stopped"),
        ("(unreachable)", "the projection trapped: wasm trap: wasm `unreachable` instruction executed"),
        ("(drop (call $dialect (i32.const 1)))", "the projection trapped: wasm trap: cannot leave component instance"),
    ]
    .into_iter()
    .enumerate()
    {
        let evil = build(setup, &[("(; realloc ;)", &place(code))]);
        setup.insert(&[attack(&format!("bad-{number}"), large.clone()), harmless("good")]);
        run(setup, &evil, &["--max-call-time", "300"]).success();
        let letters = setup.dead_letters("evil");
        assert_eq!(letters.len(), number + 1, "{code}: {letters:?}");
        assert!(letters[number].error.starts_with(error), "{code}: {}", letters[number].error);
        assert_eq!(survivors(setup).len(), number + 1, "{code}");
    }
}

on_both_databases!(a_module_that_does_not_start_is_no_plugin);
fn a_module_that_does_not_start_is_no_plugin(setup: &Setup) {
    for (code, error) in [
        ("(loop $ever (br $ever))", "the projection ran longer than 300ms and was stopped"),
        ("(unreachable)", "the projection trapped: wasm trap: wasm `unreachable` instruction executed"),
        // It has been lent no transaction.
        ("(drop (call $dialect (i32.const 1)))", "the projection trapped: unknown handle index 1"),
    ] {
        let evil = build(setup, &[("(; start ;)", &format!("(func $begin {code}) (start $begin)"))]);
        let output = run(setup, &evil, &["--max-call-time", "300"]);
        let found = output.exited(1).error();
        assert!(found.starts_with(&format!("the plugin {evil} cannot be started: {error}")), "{found}");
    }
    assert_eq!(setup.checkpoints("evil"), [], "nothing was run");
}

on_both_databases!(a_description_that_is_none_is_no_plugin);
fn a_description_that_is_none_is_no_plugin(setup: &Setup) {
    // A list of texts that are all the same megabyte: 100 and 60 of them, and one that is a little too long.
    let laugh = |times: u32, bytes: u32| {
        format!(
            "(local $at i32) (local.set $at (i32.const 1040000))
             (loop $more
               (i32.store (local.get $at) (i32.const 8192))
               (i32.store (i32.add (local.get $at) (i32.const 4)) (i32.const {bytes}))
               (local.set $at (i32.add (local.get $at) (i32.const 8)))
               (br_if $more (i32.lt_u (local.get $at) (i32.const {end}))))
             (i32.store (i32.const 140) (i32.const 1040000))
             (i32.store (i32.const 144) (i32.const {times}))",
            end = 1_040_000 + 8 * times
        )
    };
    let in_describe = " failed in `describe`: the projection ";
    for (code, error) in [
        (
            laugh(100, 1_000_000),
            format!("{in_describe}passed more than 64 MiB to the host in one call (--max-call-data)"),
        ),
        (laugh(60, 1_000_000), " describes 60000480 bytes of types and contexts: 65536 are allowed".to_owned()),
        (
            "(i32.store (i32.const 132) (i32.const -1))".to_owned(),
            format!("{in_describe}trapped: string pointer/length out of bounds"),
        ),
        (
            "(i32.store (i32.const 128) (i32.const 4096)) (i32.store (i32.const 132) (i32.const 14))".to_owned(),
            format!("{in_describe}trapped: invalid utf-8"),
        ),
        ("(return (i32.const 2))".to_owned(), format!("{in_describe}trapped: return pointer not aligned")),
        // It has been lent no transaction.
        ("(drop (call $dialect (i32.const 1)))".to_owned(), format!("{in_describe}trapped: unknown handle index 1")),
        (
            "(i32.store (i32.const 136) (i32.const 0))".to_owned(),
            " describes version 0: versions are from 1".to_owned(),
        ),
    ] {
        let evil = build(setup, &[("(; describe ;)", &code)]);
        let output = run(setup, &evil, &[]);
        let found = output.exited(1).error();
        assert!(found.starts_with(&format!("the plugin {evil}{error}")), "{found}");
    }
    assert_eq!(setup.checkpoints("evil"), [], "nothing was run");
}
