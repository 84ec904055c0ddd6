//! From the append to the read model, on a host that has little to do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use projectionist_tests::{Connection, Kind, Setup, event, plugin};
use serde_json::json;

use super::{Bench, Log};
use crate::report::{Figure, Target};
use crate::trial;

/// Events a second.
const RATE: u32 = 500;
/// For how long.
const SECONDS: u32 = 10;

/// Both databases; the figure of each name is the worse one.
pub(super) fn both(bench: &mut Bench) -> Vec<Figure> {
    let mut times = BTreeMap::new();
    for kind in [Kind::Postgres, Kind::Sqlite] {
        let setup = bench.log(kind, Log::Empty);
        times.insert(format!("{kind:?}"), measure(&setup, &bench.fresh_name("latency")));
    }
    let worst = |hundredths| {
        let of = |(kind, times): (&String, &Vec<f64>)| (kind.clone(), trial::percentile(times.clone(), hundredths));
        let all: Vec<(String, f64)> = times.iter().map(of).collect();
        let worst = all.iter().map(|(_, time)| *time).fold(0.0, f64::max);
        (worst, all.iter().map(|(kind, time)| format!("{kind} {time:.1} ms")).collect::<Vec<_>>().join(", "))
    };
    let ((p50, each_p50), (p99, each_p99)) = (worst(50), worst(99));
    vec![
        Figure::measure("latency_p50_ms", p50, Target::AtMost(5.0)).with_detail(each_p50),
        Figure::measure("latency_p99_ms", p99, Target::AtMost(25.0)).with_detail(each_p99),
    ]
}

/// The times from before an append's statement to when the read model shows its event, in milliseconds.
fn measure(setup: &Setup, name: &str) -> Vec<f64> {
    let host = trial::start(setup, &["run", "--log", "warn", "--plugin", &format!("{name}={}", plugin("user_count"))]);
    trial::until("the projection has its tables", || setup.read_model().has(name) && is_migrated(setup, name));
    let (mut writer, mut reader) = (setup.connect(), setup.read_model().connect_to(name));
    let appended = std::sync::Mutex::new(Vec::new());
    let count = u64::from(RATE * SECONDS);
    let began = Instant::now();
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                let due = Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX) / RATE;
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                appended.lock().expect("no panic").push(began.elapsed());
                append(&mut writer, number);
            }
        });
        let mut seen = Vec::new();
        // By the key: a look must not cost more than what it looks for.
        trial::until("every event is in the read model", || {
            while (seen.len() as u64) < count
                && reader.value(&format!("SELECT count(*) FROM user_stats WHERE user_id = '{}'", user(seen.len())))
                    == "1"
            {
                seen.push(began.elapsed());
            }
            seen.len() as u64 == count
        });
        seen
    });
    host.terminate();
    host.wait().success();
    let appended = appended.into_inner().expect("no panic");
    seen.iter().zip(&appended).map(|(seen, appended)| seen.saturating_sub(*appended).as_secs_f64() * 1_000.0).collect()
}

/// A user.
fn user(number: impl std::fmt::Display) -> String {
    format!("user-{number}")
}

/// Appends an event of a new user.
fn append(writer: &mut Connection, number: u64) {
    let user = user(number);
    writer.insert(&[event("UserCreated", "User", &user).payload(json!({"email": format!("{user}@example.org")}))]);
}

/// Whether the projection has its tables.
fn is_migrated(setup: &Setup, name: &str) -> bool {
    let sql = format!(
        "SELECT coalesce(max(schema_version), 0) FROM {} WHERE projection = '{name}'",
        setup.own_table("projections")
    );
    setup.read_model().connect_to(name).value(&sql) == "1"
}
