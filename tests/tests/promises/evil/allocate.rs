//! Taking memory: bounded at each moment, and not kept for ever.

use projectionist_tests::{Host, Setup, on_both_databases, plugin, wait_until};
use serde_json::{Value, json};

use super::{attack, catch_up, contained, survivors};

/// An attack of this class.
fn allocate(how: &str) -> Value {
    json!({"attack": "allocate", "how": how})
}

/// Grows by so much, and gives it back to the allocator inside of the guest.
fn swell(mebibytes: u32) -> Value {
    json!({"attack": "allocate", "how": "and_give_back", "mebibytes": mebibytes})
}

on_both_databases!(memory_past_the_limit_is_refused);
fn memory_past_the_limit_is_refused(setup: &Setup) {
    let error = "the projection wanted more than its 8 MiB of memory, and stopped";
    contained(setup, &[(allocate("large"), error), (allocate("small"), error)], &["--max-memory", "8MiB"]);
}

on_both_databases!(a_guest_that_takes_the_refusal_has_no_more_than_the_limit);
fn a_guest_that_takes_the_refusal_has_no_more_than_the_limit(setup: &Setup) {
    setup.insert(&[attack("a", allocate("politely"))]);
    catch_up(setup, &["--max-memory", "8MiB"]).success();
    assert_eq!(survivors(setup), ["8 MiB"]);
}

/// Mebibytes that each event has noted.
fn sizes(setup: &Setup) -> Vec<u32> {
    let size = |note: String| note.strip_suffix(" MiB").expect("a size").parse().expect("a number");
    survivors(setup).into_iter().map(size).collect()
}

on_both_databases!(an_instance_that_has_grown_large_does_not_outlive_its_batch);
fn an_instance_that_has_grown_large_does_not_outlive_its_batch(setup: &Setup) {
    setup.insert(&[attack("a", swell(40)), attack("a", allocate("tell"))]);
    catch_up(setup, &["--batch-size", "1"]).success();
    let sizes = sizes(setup);
    assert!(sizes[0] > 40 && sizes[1] < 5, "{sizes:?}");
}

on_both_databases!(an_instance_that_has_grown_is_kept_for_some_batches_and_no_more);
fn an_instance_that_has_grown_is_kept_for_some_batches_and_no_more(setup: &Setup) {
    let tell = || attack("a", allocate("tell"));
    setup.insert(&[&[attack("a", swell(8))][..], &std::iter::repeat_with(tell).take(150).collect::<Vec<_>>()].concat());
    catch_up(setup, &["--batch-size", "1"]).success();
    let sizes = sizes(setup);
    assert!(sizes[1] > 8, "it is of use for a while: {sizes:?}");
    assert!(sizes[150] < 5, "and not for ever: {sizes:?}");
}

on_both_databases!(an_instance_that_has_grown_is_dropped_when_there_is_nothing_to_do);
fn an_instance_that_has_grown_is_dropped_when_there_is_nothing_to_do(setup: &Setup) {
    setup.insert(&[attack("a", swell(8))]);
    let mut host = setup.start(["run", "--plugin", &plugin("evil"), "--log", "debug"]);
    host.wait_for_log("nothing to do: the memory that the projection had taken is given back");
    setup.insert(&[attack("a", allocate("tell"))]);
    wait_until("both are applied", || setup.events_applied("evil") == 2);
    let sizes = sizes(setup);
    assert!(sizes[0] > 8 && sizes[1] < 5, "{sizes:?}");
    host.terminate();
    host.wait().success();
}

/// How many threads of a process have this name.
fn threads(host: &Host, name: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", host.pid())).expect("the process");
    // A thread may end while we look.
    let comm = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(comm).filter(|comm| comm.trim_end() == name).count()
}

on_both_databases!(one_thread_interrupts_all_guests_of_a_process);
fn one_thread_interrupts_all_guests_of_a_process(setup: &Setup) {
    let names = ["a", "b", "c"].map(|name| format!("{name}={}", plugin("evil")));
    let plugins = names.iter().flat_map(|name| ["--plugin", name]);
    let more = ["--workers", "4", "--watch", "--max-call-time", "300"];
    let host = setup.start(["run"].into_iter().chain(plugins).chain(more));
    // All of them spin at once, each in all its workers.
    let spin = |number| attack(&format!("a{number}"), json!({"attack": "spin", "at": "handle"}));
    setup.insert(&(0..12).map(spin).collect::<Vec<_>>());
    for name in ["a", "b", "c"] {
        wait_until("all are stopped", || setup.read_model().has(name) && setup.dead_letters(name).len() == 12);
    }
    assert_eq!(threads(&host, "epoch"), 1);
    host.terminate();
    host.wait().success();
}
