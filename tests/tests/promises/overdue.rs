//! What the server does not end by itself is ended by the host: one call of a function that looks at no clock, say. It is a
//! poison event like any other, nobody else waits for it, and a server that is silent is not taken for one that is slow.

use projectionist_tests::{Cluster, Kind, Setup, plugin, wait_until};
use serde_json::json;

use crate::sabotage::{catch_up, note, noted, notes, order};

/// An event whose statement is one call, on so many thousands of characters, that cannot be interrupted: ten times as many take a
/// hundred times as long.
fn one_long_call(aggregate: &str, thousands: u32) -> projectionist_tests::Event {
    let sql = format!("SELECT strpos(repeat('a', {thousands}000), 'b' || repeat('a', {}000)) AS n", thousands / 2);
    order(aggregate, json!({"do": "query", "sql": sql}))
}

#[test]
fn a_call_that_cannot_be_interrupted_is_a_dead_letter_that_says_so() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a"), one_long_call("bad", 160), note("bad"), note("b")]);
    let output = catch_up(&setup, &["--max-statement-time", "200"]);
    output.success();
    assert_eq!(notes(&setup), [["a", "1"], ["b", "1"]]);
    let letters = setup.dead_letters("saboteur");
    let error = "the statement took longer than 200ms, and the server did not end it: the host did (--max-statement-time) (SQLSTATE 57014)";
    assert_eq!(letters.iter().map(|letter| letter.error.as_str()).next(), Some(error));
    assert_eq!((letters.len(), setup.events_applied("saboteur")), (2, 2));
}

#[test]
fn others_do_not_wait_for_a_call_that_cannot_be_interrupted() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    // Some minutes at least.
    setup.insert(&[one_long_call("bad", 1_000), note("a")]);
    let (saboteur, counter) = (plugin("saboteur"), plugin("counter"));
    let arguments =
        ["run", "--plugin", &saboteur, "--plugin", &counter, "--max-statement-time", "1000", "--connections", "1"];
    let mut host = setup.start(arguments);
    host.wait_for_log("a statement does not end: this partition waits for it, and others go on");
    setup.insert(&[note("b")]);
    wait_until("the other one goes on", || setup.events_applied("counter") == 3);
    let at_work = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projectionist saboteur %'
                   AND state = 'active' AND query LIKE '%EXECUTE p%'";
    assert_eq!(setup.connect().value(at_work), "1", "it is still at it, and has not begun another");
    assert_eq!(noted(&setup), 0);
    host.kill();
    cluster.stop("immediate");
    cluster.resume();
    // What was left in the middle has left nothing.
    assert_eq!((setup.events_applied("saboteur"), setup.dead_letters("saboteur").len()), (0, 0));
}
