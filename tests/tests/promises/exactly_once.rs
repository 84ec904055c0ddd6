//! Every event is applied exactly once, however many processes share the work, whatever the databases.

use projectionist_tests::{Host, Setup, flights, on_all_combinations, on_both_databases, plugin};

on_all_combinations!(four_processes_share_the_work_and_every_event_counts_once);
fn four_processes_share_the_work_and_every_event_counts_once(setup: &Setup) {
    let events = flights::events();
    setup.insert(&events);
    let carrier_delays = plugin("carrier_delays");
    let hosts: Vec<Host> = (0..4)
        .map(|key| {
            let (key, file) = (key.to_string(), carrier_delays.as_str());
            setup.start(["run", "--once", "--plugin", file, "--partition-key", &key, "--total-partitions", "4"])
        })
        .collect();
    for host in hosts {
        host.wait().success();
    }
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    let checkpoints = setup.checkpoints("carrier_delays");
    assert_eq!(checkpoints.iter().map(|c| (c.key, c.total)).collect::<Vec<_>>(), [(0, 4), (1, 4), (2, 4), (3, 4)]);
    let owners: std::collections::BTreeSet<_> = checkpoints.iter().map(|c| &c.owner).collect();
    assert_eq!(owners.len(), 4, "four processes: {checkpoints:?}");
    let fair = events.len() as u64 / 4;
    for checkpoint in &checkpoints {
        assert_eq!(checkpoint.position, setup.last_position());
        let share = checkpoint.events_applied;
        assert!(share > fair * 8 / 10 && share < fair * 12 / 10, "a fair share of {fair}: {checkpoints:?}");
    }
    assert_eq!(setup.events_applied("carrier_delays"), events.len() as u64);
}

on_all_combinations!(what_a_projection_folds_in_memory_is_all_written);
fn what_a_projection_folds_in_memory_is_all_written(setup: &Setup) {
    setup.insert(&flights::events());
    // Many batches, so that there is something to lose between them.
    setup.run(["run", "--once", "--plugin", &plugin("aircraft_log"), "--batch-size", "97"]).success();
    let log = setup.sorted_rows("aircraft_log", "SELECT aircraft, flights, miles, last_airport FROM aircraft_log");
    assert_eq!(log, flights::aircraft_log());
}

on_both_databases!(running_again_applies_nothing_twice);
fn running_again_applies_nothing_twice(setup: &Setup) {
    let events = flights::events();
    let (first, second) = events.split_at(3_000);
    let run = || setup.run(["run", "--once", "--plugin", &plugin("carrier_delays")]);
    setup.insert(first);
    run().success();
    run().success();
    assert_eq!(setup.events_applied("carrier_delays"), 3_000);
    setup.insert(second);
    run().success();
    assert_eq!(setup.events_applied("carrier_delays"), 5_000);
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
}
