//! The host sends statements in runs, and some of them before others. Nobody can tell: the tables are those of a plain
//! loop, one statement after the other.

use std::collections::BTreeMap;

use projectionist_tests::chaos::random::Random;
use projectionist_tests::{Event, Kind, Setup, event, on_both_databases, plugin};
use serde_json::json;

/// What the host logs when a batch has to be applied again.
const FAILED: &str = "a batch failed";

/// An entry as the plugin `ledger` takes it.
struct Entry {
    /// Which statement.
    how: &'static str,
    /// Which row.
    key: String,
    /// What it adds.
    mark: String,
}

impl Entry {
    /// The event of it.
    fn event(&self) -> Event {
        let payload = json!({"how": self.how, "key": self.key, "mark": self.mark});
        event("Entry", "Ledger", "one").payload(payload)
    }
}

/// So many entries at random, of these kinds, on rows with these keys. Rows come again soon, or in a long time.
fn entries(random: &mut Random, count: usize, how: &[&'static str], keys: u64) -> Vec<Entry> {
    (0..count)
        .map(|number| {
            let how = how[usize::try_from(random.below(how.len() as u64)).expect("a small number")];
            let few = if random.percent(20) || keys == 0 { 3 } else { keys };
            Entry { how, key: format!("it's \\ {}", random.below(few)), mark: format!("{number}{how} ") }
        })
        .collect()
}

/// What a plain loop makes of entries: the marks of each row.
fn marks(entries: &[Entry]) -> BTreeMap<String, String> {
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    for Entry { how, key, mark } in entries {
        match (*how, rows.get_mut(key)) {
            ("update", None) | ("if_new", Some(_)) => {}
            (_, None) => drop(rows.insert(key.clone(), mark.clone())),
            ("wrap" | "number_too" | "pair_too", Some(marks)) => *marks = format!("{mark}<{marks}>"),
            (_, Some(marks)) => marks.push_str(mark),
        }
    }
    rows
}

/// Applies entries, and gives two columns of a table, and what the host logged.
fn apply(setup: &Setup, entries: &[Entry], query: &str) -> (Vec<Vec<String>>, String) {
    for chunk in entries.chunks(500) {
        setup.insert(&chunk.iter().map(Entry::event).collect::<Vec<_>>());
    }
    let ended = setup.run(["run", "--once", "--plugin", &plugin("ledger")]);
    ended.success();
    assert_eq!(setup.events_applied("ledger"), entries.len() as u64);
    assert!(setup.dead_letters("ledger").is_empty());
    (setup.rows("ledger", query), ended.stderr)
}

/// Rows as a query gives them.
fn rows(marks: BTreeMap<String, String>) -> Vec<Vec<String>> {
    let mut rows: Vec<_> = marks.into_iter().map(|(key, marks)| vec![key, marks]).collect();
    rows.sort();
    rows
}

on_both_databases!(statements_sent_in_runs_leave_what_a_plain_loop_leaves);
fn statements_sent_in_runs_leave_what_a_plain_loop_leaves(setup: &Setup) {
    let mut random = Random::new(4);
    // Long runs, short ones, statements that are sent alone between them.
    let mut all = entries(&mut random, 1_000, &["append"], 400);
    all.extend(entries(&mut random, 1_500, &["append", "wrap"], 60));
    all.extend(entries(&mut random, 1_500, &["append", "wrap", "if_new", "update"], 60));
    let (mut found, log) = apply(setup, &all, "SELECT key, marks FROM marks");
    found.sort();
    assert!(!log.contains(FAILED), "no run was refused:\n{log}");
    assert_eq!(found, rows(marks(&all)));
}

on_both_databases!(a_key_of_two_columns_is_the_same_whichever_a_statement_names_first);
fn a_key_of_two_columns_is_the_same_whichever_a_statement_names_first(setup: &Setup) {
    let mut random = Random::new(7);
    let all: Vec<Entry> = entries(&mut random, 1_500, &["pair", "pair_too"], 0)
        .into_iter()
        // Also 1/2 and 2/1, which are two rows.
        .map(|entry| Entry { key: format!("{}/{}", random.below(9), random.below(9)), ..entry })
        .collect();
    let (mut found, log) = apply(setup, &all, "SELECT a || '/' || b, marks FROM pairs");
    found.sort();
    assert!(!log.contains(FAILED), "no run was refused:\n{log}");
    assert_eq!(found, rows(marks(&all)));
}

on_both_databases!(rows_that_the_table_numbers_are_numbered_in_the_order_of_the_events);
fn rows_that_the_table_numbers_are_numbered_in_the_order_of_the_events(setup: &Setup) {
    let all = entries(&mut Random::new(5), 2_000, &["number", "number_too"], 300);
    let (found, log) = apply(setup, &all, "SELECT key, marks FROM numbered ORDER BY id");
    assert!(!log.contains(FAILED), "no run was refused:\n{log}");
    let (mut expected, mut first) = (marks(&all), Vec::new());
    for Entry { key, .. } in &all {
        first.extend(expected.remove(key).map(|marks| vec![key.clone(), marks]));
    }
    assert_eq!(found, first);
}

on_both_databases!(a_row_that_needs_what_another_lets_go_of_later_fails_as_it_would_alone);
fn a_row_that_needs_what_another_lets_go_of_later_fails_as_it_would_alone(setup: &Setup) {
    let sit = |how, key: &str, seat: &str| Entry { how, key: key.to_owned(), mark: seat.to_owned() };
    // Often enough that both statements go in runs.
    let mut all: Vec<Entry> = (0..40)
        .map(|number| {
            sit(if number % 2 == 0 { "sit" } else { "sit_too" }, &format!("k{number}"), &format!("s{number}"))
        })
        .collect();
    // In the order of the events, `k0` still has its seat when `k50` wants it.
    all.extend([sit("sit_too", "k3", "s3"), sit("sit", "k50", "s0"), sit("sit_too", "k0", "s60")]);
    setup.insert(&all.iter().map(Entry::event).collect::<Vec<_>>());
    setup.run(["run", "--once", "--on-error", "skip", "--plugin", &plugin("ledger")]).success();
    let skipped: Vec<u64> = setup.dead_letters("ledger").iter().map(|letter| letter.position).collect();
    assert_eq!(skipped, [42]);
    assert_eq!(setup.rows("ledger", "SELECT seat FROM seats WHERE key IN ('k0', 'k50')"), [["s60"]]);
}

#[test]
fn keys_that_are_the_same_to_the_database_only_are_applied_one_after_the_other() {
    let setup = Setup::new(Kind::Postgres);
    let mut random = Random::new(6);
    let mut entry = |number: usize| {
        // Sixty-four ways to write one number, and others between them.
        let key = match random.below(66) {
            64 => "2".to_owned(),
            65 => "3.5".to_owned(),
            zeros => format!("1.{}", "0".repeat(usize::try_from(zeros + 1).expect("a small number"))),
        };
        let how = if random.percent(50) { "price" } else { "price_too" };
        Entry { how, key, mark: format!("{number}{how} ") }
    };
    let all: Vec<Entry> = (0..600).map(&mut entry).collect();
    let (found, log) = apply(&setup, &all, "SELECT trim_scale(price)::text, marks FROM prices ORDER BY price");
    assert!(log.contains(FAILED) && log.contains("a second time"), "Postgres has refused a run:\n{log}");
    let same = |Entry { how, key, mark }: &Entry| Entry {
        how: if *how == "price" { "append" } else { "wrap" },
        key: if key.starts_with('1') { "1".to_owned() } else { key.clone() },
        mark: mark.clone(),
    };
    assert_eq!(found, rows(marks(&all.iter().map(same).collect::<Vec<_>>())));
}
