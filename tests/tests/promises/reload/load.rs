//! Fifty swaps while a thousand events a second come in: none is lost, none is counted twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use projectionist_tests::{Setup, event, on_both_databases, wait_until};

use super::{bytes, deploy, start};

/// How many swaps.
const SWAPS: usize = 50;

/// How many events come in at once, and how often: a thousand a second.
const AT_ONCE: u64 = 50;
/// The pause between two times.
const EVERY: Duration = Duration::from_millis(50);

/// The same component with another digest each time: what is in a custom section has no meaning.
fn build(number: usize) -> Vec<u8> {
    let mut module = bytes("counter");
    module.extend(b"\0\x09\x04note");
    module.extend(u32::try_from(number).unwrap().to_le_bytes());
    module
}

/// Stores events until told to stop, in the rhythm; gives how many.
fn write(setup: &Setup, stop: &AtomicBool) -> u64 {
    let (mut connection, began, mut stored) = (setup.connect(), Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let events: Vec<_> =
            (stored..stored + AT_ONCE).map(|number| event("Anything", "Thing", &format!("a{}", number % 10))).collect();
        connection.insert(&events);
        stored += AT_ONCE;
        let next = EVERY * u32::try_from(stored / AT_ONCE).unwrap();
        std::thread::sleep(next.saturating_sub(began.elapsed()));
    }
    stored
}

on_both_databases!(fifty_swaps_under_load_lose_and_double_nothing);
fn fifty_swaps_under_load_lose_and_double_nothing(setup: &Setup) {
    let host = start(setup, &["--workers", "2"]);
    let stop = AtomicBool::new(false);
    let stored = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(setup, &stop));
        for number in 1..=SWAPS {
            deploy(setup, &build(number));
            // Both workers have taken it up, and go on with it.
            wait_until("it is replaced", || host.log().matches("the projection was replaced").count() >= 2 * number);
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    wait_until("all are counted", || setup.events_applied("counter") >= stored);
    host.terminate();
    let log = host.wait().success().stderr.clone();
    assert_eq!(log.matches("the projection was replaced").count(), 2 * SWAPS);
    assert!(!log.contains("failed"), "{log}");
    assert_eq!(setup.events_applied("counter"), stored);
    let each = (stored / 10).to_string();
    let expected: Vec<_> = (0..10).map(|number| vec![format!("a{number}"), each.clone()]).collect();
    assert_eq!(setup.sorted_rows("counter", "SELECT aggregate, events FROM counter"), expected);
    assert_eq!(setup.dead_letters("counter"), []);
}
