//! How long nothing happens: at a start, and around a hot reload.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use projectionist_tests::{Kind, event, plugin};
use serde_json::json;

use super::{Bench, Log};
use crate::report::{Figure, Target};
use crate::trial;

/// From the start of the process to the first commit, with a cached compilation.
pub(super) fn cold(bench: &mut Bench) -> Vec<Figure> {
    let setup = bench.log(Kind::Postgres, Log::Users);
    let mut reader = setup.connect();
    let times = (0..=bench.rounds.max(5)).map(|_| {
        let name = bench.fresh_name("cold");
        let argument = format!("{name}={}", plugin("user_count"));
        let sql =
            format!("SELECT coalesce(max(position), 0) FROM projectionist.checkpoints WHERE projection = '{name}'");
        let began = Instant::now();
        let host = trial::start(&setup, &["run", "--log", "warn", "--plugin", &argument]);
        trial::until("the first commit", || reader.value(&sql) != "0");
        let took = began.elapsed().as_secs_f64() * 1_000.0;
        host.kill();
        took
    });
    // The first fills the cache.
    let times: Vec<f64> = times.skip(1).collect();
    vec![Figure::measure("cold_start_ms", trial::median(times), Target::AtMost(150.0))]
}

/// Events a second while components are swapped.
const RATE: u32 = 1_000;
/// How often.
const SWAPS: usize = 10;

/// The longest time without a commit around a swap, at 1,000 events a second.
pub(super) fn swap(bench: &mut Bench) -> Vec<Figure> {
    let setup = bench.log(Kind::Postgres, Log::Empty);
    let name = bench.fresh_name("swap");
    let component = std::fs::read(plugin("noop")).expect("the plugin");
    let file = setup.file("swapped.wasm", &component);
    let argument = format!("{name}={}", file.display());
    let mut host = trial::start(&setup, &["run", "--watch", "--plugin", &argument]);
    host.wait_for_log("partition claimed");
    let (mut writer, mut reader) = (setup.connect(), setup.connect());
    let sql = format!("SELECT position FROM projectionist.checkpoints WHERE projection = '{name}'");
    let done = AtomicBool::new(false);
    let began = Instant::now();
    let gaps = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep((Duration::from_secs(1) * number / RATE).saturating_sub(began.elapsed()));
                writer.insert(&[event("Happened", "Thing", &format!("t{}", number % 100)).payload(json!({}))]);
                number += 1;
            }
        });
        let mut gaps = Vec::new();
        for number in 0..SWAPS {
            let beside = setup.file("next.wasm", other_bytes(&component, number));
            let (swapped, mut position, mut moved) = (Instant::now(), String::new(), Instant::now());
            std::fs::rename(beside, &file).expect("renaming into place");
            let (mut longest, mut replaced) = (Duration::ZERO, None);
            // On for a while after the swap, whose first batch may be the slow one.
            while replaced.is_none_or(|at: Instant| at.elapsed() < Duration::from_millis(300)) {
                let now = reader.value(&sql);
                if now != position {
                    longest = longest.max(moved.elapsed());
                    (position, moved) = (now, Instant::now());
                }
                if replaced.is_none() && host.log().matches("the projection was replaced").count() > number {
                    replaced = Some(Instant::now());
                }
                assert!(swapped.elapsed() < Duration::from_secs(60), "no swap:\n{}", host.log());
                std::thread::sleep(Duration::from_micros(300));
            }
            gaps.push(longest.as_secs_f64() * 1_000.0);
        }
        done.store(true, Ordering::Relaxed);
        gaps
    });
    host.terminate();
    host.wait().success();
    let each = gaps.iter().map(|gap| format!("{gap:.0}")).collect::<Vec<_>>().join(" ");
    let longest = gaps.into_iter().fold(0.0, f64::max);
    vec![Figure::measure("swap_pause_ms", longest, Target::AtMost(50.0)).with_detail(format!("each: {each}"))]
}

/// The same component with other bytes: a custom section more.
fn other_bytes(component: &[u8], number: usize) -> Vec<u8> {
    let name = format!("swap{number}");
    let mut bytes = component.to_vec();
    // Section 0, its length, the length of its name, its name: all below 128, so one byte each.
    let length = u8::try_from(name.len()).expect("a short name");
    bytes.extend([0, length + 1, length]);
    bytes.extend(name.as_bytes());
    bytes
}
