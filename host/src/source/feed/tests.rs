//! The feed over a source in memory, which counts what is read.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::Runtime;

use super::*;
use crate::event::Event;
use crate::partition::Partition;
use crate::partition::lineage::Lineage;
use crate::processor::reader::Reader;
use crate::source::wake::Seen;
use crate::source::{Backlog, Blocker, Page, PageLimit, Wanted};

/// A log in memory: the event at position `n` is of type `n % 3`.
#[derive(Debug, Default)]
struct Log {
    /// How long it is.
    length: AtomicU64,
    /// How many events were read from it.
    read: AtomicU64,
    /// Whether it fails just now.
    fails: AtomicBool,
    /// How many bytes each event has.
    payload: AtomicU64,
}

impl Source for Log {
    fn horizon(&self) -> Result<Position, DatabaseError> {
        Ok(Position::new(self.length.load(Ordering::SeqCst)))
    }

    fn last(&self) -> Result<Position, DatabaseError> {
        self.horizon()
    }

    fn page(&self, after: Position, upto: Position, wanted: &Wanted, limit: PageLimit) -> Result<Page, DatabaseError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(DatabaseError::NotAUrl { reason: "it fails".into() });
        }
        let all = (after.get() + 1..=upto.get()).map(event).filter(|event| wanted.filter.takes(event));
        // Small pages, so that there are many.
        let rows = limit.rows.min(10) as usize;
        let payload = vec![0; self.payload.load(Ordering::SeqCst) as usize];
        let events: Vec<Event> = all.take(rows).map(|event| Event { payload: payload.clone(), ..event }).collect();
        self.read.fetch_add(events.len() as u64, Ordering::SeqCst);
        let through = if events.len() < rows { upto } else { events[events.len() - 1].position() };
        Ok(Page { events, through })
    }

    fn events_at(&self, _: &[Position]) -> Result<Vec<Event>, DatabaseError> {
        Ok(vec![])
    }

    fn has_aggregate(&self, _: &str, _: &str, _: &str) -> Result<bool, DatabaseError> {
        Ok(false)
    }

    fn backlog(&self, _: Position, _: Position) -> Result<Backlog, DatabaseError> {
        Ok(Backlog::default())
    }

    fn blockers(&self) -> Result<Vec<Blocker>, DatabaseError> {
        Ok(vec![])
    }

    fn connections(&self) -> usize {
        1
    }

    fn wait(&self, seen: Seen, _: Duration) -> Seen {
        seen
    }
}

/// The event at a position.
fn event(position: u64) -> Event {
    Event {
        global_position: position,
        event_id: String::new(),
        bounded_context: String::new(),
        aggregate_type: String::new(),
        aggregate_id: String::new(),
        aggregate_version: 1,
        event_type: (position % 3).to_string(),
        event_version: 1,
        payload: vec![],
        metadata: vec![],
        trace_id: None,
        correlation_id: None,
        causation_id: None,
        created_at: 0,
    }
}

/// A filter for one type of event.
fn only(event_type: u64) -> Filter {
    Filter { event_types: vec![event_type.to_string()], ..Filter::default() }
}

/// A feed of a log of this length.
fn feed(runtime: &Runtime, length: u64) -> (Arc<Log>, Feed) {
    let log = Arc::new(Log::default());
    log.length.store(length, Ordering::SeqCst);
    (Arc::clone(&log), Feed::new(log, runtime.handle().clone()))
}

/// A runtime.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
}

/// Reads up to a position, doing something before each stretch; gives the positions of the events of this filter.
fn read(subscription: &mut Subscription, from: u64, to: u64, filter: &Filter, mut before: impl FnMut()) -> Vec<u64> {
    let (mut at, mut seen) = (Position::new(from), Vec::new());
    while at.get() < to {
        before();
        let Some(stretch) = subscription.next(at).unwrap() else { continue };
        assert!(stretch.after <= at && at < stretch.through, "{at} is not in {stretch:?}");
        let events = stretch.events.iter().filter(|event| event.position() > at && filter.takes(event));
        seen.extend(events.map(|event| event.global_position));
        at = stretch.through;
    }
    seen
}

/// The positions up to `to` of an event type.
fn of_type(event_type: u64, to: u64) -> Vec<u64> {
    (1..=to).filter(|position| position % 3 == event_type).collect()
}

#[test]
fn workers_that_start_together_read_each_row_once() {
    let runtime = runtime();
    let (log, feed) = feed(&runtime, 1_000);
    let readers: Vec<_> = (0..12).map(|number| (number % 3, feed.subscribe(only(number % 3)))).collect();
    std::thread::scope(|scope| {
        for (event_type, mut subscription) in readers {
            scope.spawn(move || {
                let seen = read(&mut subscription, 0, 1_000, &only(event_type), || {});
                assert_eq!(seen, of_type(event_type, 1_000));
            });
        }
    });
    assert_eq!(log.read.load(Ordering::SeqCst), 1_000);
}

#[test]
fn whoever_is_alone_reads_only_what_it_wants() {
    let runtime = runtime();
    let (log, feed) = feed(&runtime, 999);
    let mut subscription = feed.subscribe(only(0));
    assert_eq!(read(&mut subscription, 0, 999, &only(0), || {}), of_type(0, 999));
    assert_eq!(log.read.load(Ordering::SeqCst), 333);
}

#[test]
fn whoever_starts_far_behind_reads_alone_and_joins() {
    let runtime = runtime();
    let (log, feed) = feed(&runtime, 900);
    let (mut ahead, mut behind) = (feed.subscribe(only(0)), feed.subscribe(only(1)));
    assert!(ahead.next(Position::new(900)).unwrap().is_none());
    assert_eq!(read(&mut behind, 0, 900, &only(1), || {}), of_type(1, 900));
    assert_eq!(log.read.load(Ordering::SeqCst), 300, "with its own filter");
    assert!(behind.own.is_some());
    log.length.store(910, Ordering::SeqCst);
    let stretch = behind.next(Position::new(900)).unwrap().unwrap();
    assert!(behind.own.is_none());
    assert!(Arc::ptr_eq(&stretch, &ahead.next(Position::new(900)).unwrap().unwrap()));
}

#[test]
fn a_projection_that_was_replaced_by_one_that_wants_more_misses_nothing() {
    let runtime = runtime();
    let (_, feed) = feed(&runtime, 500);
    let mut subscription = feed.subscribe(only(0));
    let mut other = feed.subscribe(only(0));
    // Pages of ten events of that type end at 30, 60 and so on.
    let mut seen = read(&mut subscription, 0, 60, &only(0), || {});
    other.next(Position::START).unwrap();
    subscription.want(Filter::default());
    seen.extend(read(&mut subscription, 60, 500, &Filter::default(), || {}));
    let expected: Vec<u64> = of_type(0, 60).into_iter().chain(61..=500).collect();
    assert_eq!(seen, expected);
}

#[test]
fn an_error_is_told_to_whoever_asked_and_is_over_when_it_is_over() {
    let runtime = runtime();
    let (log, feed) = feed(&runtime, 100);
    let mut subscription = feed.subscribe(Filter::default());
    log.fails.store(true, Ordering::SeqCst);
    assert!(subscription.next(Position::START).is_err());
    log.fails.store(false, Ordering::SeqCst);
    assert_eq!(read(&mut subscription, 0, 100, &Filter::default(), || {}), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_stops_reading_holds_the_others_back_for_a_moment_only() {
    let runtime = runtime();
    let log = Arc::new(Log::default());
    log.length.store(1_000, Ordering::SeqCst);
    let stream = Stream::shared(log, runtime.handle().clone());
    let filter = Filter::default();
    let next = |reader, from| stream.next(reader, Position::new(from), &filter, None).unwrap();
    assert!(matches!(next(1, 0), Given::Stretch(_)));
    // As large as all that may be kept.
    stream.fill();
    let (sender, receiver) = mpsc::channel();
    let (done, began) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while at < 500 {
                let Given::Stretch(stretch) = next(2, at) else { panic!("reader 2 is the foremost") };
                at = stretch.through.get();
            }
            done.store(true, Ordering::SeqCst);
            sender.send(began.elapsed()).unwrap();
        });
        receiver.recv().unwrap();
    });
    assert!(done.load(Ordering::SeqCst));
    assert!(matches!(next(1, 0), Given::Elsewhere { .. }), "its place is gone, and it reads alone");
}

#[test]
fn at_random_each_reader_sees_each_of_its_events_once_and_in_order() {
    let runtime = runtime();
    for seed in 0..20 {
        let (log, feed) = feed(&runtime, 100);
        std::thread::scope(|scope| {
            for number in 0..5 {
                let mut subscription = feed.subscribe(only(number % 3));
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed * 100 + number);
                    let from = random.random_range(0..50);
                    let seen = read(&mut subscription, from, 600, &only(number % 3), || {
                        if random.random_range(0..10) == 0 {
                            std::thread::sleep(Duration::from_micros(random.random_range(0..300)));
                        }
                    });
                    let mut expected = of_type(number % 3, 600);
                    expected.retain(|position| *position > from);
                    assert_eq!(seen, expected, "seed {seed}, reader {number}");
                });
            }
            for length in 101..=600 {
                log.length.store(length, Ordering::SeqCst);
                std::thread::yield_now();
            }
        });
    }
}

#[test]
fn the_more_workers_there_are_the_less_each_may_hold() {
    let runtime = runtime();
    let (log, feed) = feed(&runtime, 300);
    log.payload.store(100 << 10, Ordering::SeqCst);
    let mut reader = Reader::new(&feed, Filter::default(), Partition::new(0, 1).unwrap());
    reader.begin(Position::START, Lineage::default());
    // Pages of a megabyte.
    assert_eq!(reader.next(1_000).unwrap().events.len(), 160, "alone it may hold sixteen");
    let others: Vec<_> = (0..11).map(|_| feed.subscribe(Filter::default())).collect();
    let batch = reader.next(1_000).unwrap();
    assert_eq!((batch.events.len(), batch.to.get(), batch.more), (40, 200, true), "one of twelve, four");
    drop(others);
    assert_eq!(reader.next(1_000).unwrap().events.len(), 100, "and nothing is left out");
}
