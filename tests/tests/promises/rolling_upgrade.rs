//! Old and new hosts together: `host migrate` of the next release adds to the tables while hosts of this one work on them, and they
//! go on, are started anew, and lose and double nothing.
//!
//! A host of another release cannot be had here. What it would have left can: a migration that this one does not know.

use projectionist_tests::{Cluster, Kind, Setup, on_both_databases, plugin, wait_until};
use serde_json::json;

use crate::dead_letters::dlq_by_itself;
use crate::replica_sets::{AGGREGATES, every_note_once, join, leave, settled, under_load};
use crate::sabotage::{catch_up, follow, note, noted, notes, order};
use crate::upgrade::downgrade;

/// What the next release's `host migrate` does: adds columns to every table of the host's, and a table, and keeps its books.
fn migrate_to_the_next_release(setup: &Setup) {
    let books = |table: &str| {
        format!(
            "INSERT INTO {table} (version, description, success, checksum, execution_time)
             VALUES (999, 'of tomorrow', true, '', 0)"
        )
    };
    if setup.read_model().kind() == Kind::Postgres {
        let mut connection = setup.connect();
        let alter =
            "SELECT format('ALTER TABLE %I.%I ADD COLUMN of_tomorrow TEXT, ADD COLUMN and_more INT NOT NULL DEFAULT 7',
                                   schemaname, tablename)
                     FROM pg_tables WHERE schemaname = 'projectionist' AND tablename NOT LIKE '%migrations%'
                                       OR schemaname = 'public' AND tablename IN ('events', 'aggregate_heads')";
        let altered = connection.rows(alter);
        assert!(altered.len() >= 10, "{altered:?}");
        for statement in altered {
            connection.execute(&statement[0]);
        }
        connection.execute("CREATE TABLE projectionist.of_tomorrow (id BIGINT PRIMARY KEY)");
        connection.execute(&books("projectionist._migrations_events"));
        connection.execute(&books("projectionist._migrations_read_model"));
        return;
    }
    for mut connection in [setup.connect(), setup.read_model().connect_to("saboteur")] {
        let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%migrations%'
                       AND (name LIKE '@_projectionist@_%' ESCAPE '@' OR name IN ('events', 'aggregate_heads'))";
        let names = connection.rows(names);
        assert!(names.len() >= 2, "{names:?}");
        for name in names {
            connection.execute(&format!("ALTER TABLE {} ADD COLUMN of_tomorrow TEXT", name[0]));
            connection.execute(&format!("ALTER TABLE {} ADD COLUMN and_more INTEGER NOT NULL DEFAULT 7", name[0]));
        }
        connection.execute("CREATE TABLE _projectionist_of_tomorrow (id INTEGER PRIMARY KEY)");
        connection.execute(&books("_projectionist_migrations"));
    }
}

on_both_databases!(every_command_works_on_tables_that_the_next_release_has_added_to);
fn every_command_works_on_tables_that_the_next_release_has_added_to(setup: &Setup) {
    setup.insert(&[note("a"), order("b", json!({"do": "fail"}))]);
    catch_up(setup, &[]).success();
    migrate_to_the_next_release(setup);
    // This release's own, run again where a deployment does so at each start.
    setup.run(["migrate"]).success();
    setup.insert(&[note("a"), order("c", json!({"do": "fail"})), note("c")]);
    catch_up(setup, &[]).success();
    assert_eq!(notes(setup), [["a", "1"], ["a", "2"]]);
    assert_eq!(setup.dead_letters("saboteur").len(), 3);
    setup
        .run([
            "append",
            "--aggregate-type",
            "Saboteur",
            "--aggregate-id",
            "a",
            "--event-type",
            "Order",
            "--payload",
            r#"{"do": "note"}"#,
        ])
        .success();
    dlq_by_itself(setup, &["skip", "default/Saboteur/c"]).success();
    setup.run(["pause", "saboteur"]).success();
    setup.run(["resume", "saboteur"]).success();
    catch_up(setup, &["--workers", "2"]).success();
    assert_eq!(notes(setup), [["a", "1"], ["a", "2"], ["c", "2"], ["a", "3"]]);
    // Which tries everything afresh: what was given up is parked again.
    setup.run(["rebuild", "--plugin", &plugin("saboteur")]).success();
    assert_eq!(notes(setup), [["a", "1"], ["a", "2"], ["a", "3"]]);
    // There are dead letters, which it counts; the tables are as they should be.
    let doctor = setup.run(["doctor"]);
    assert!(!doctor.exited(1).stdout.contains("host migrate"), "{}", doctor.stdout);
    assert!(!doctor.stdout.contains("newer host"), "{}", doctor.stdout);
    let status = setup.run(["status", "--json"]);
    assert!(status.success().stdout.contains("saboteur"), "{}", status.stdout);
    let export = setup.run(["export"]);
    assert_eq!(export.success().stdout.lines().count(), 6);
}

on_both_databases!(tables_are_migrated_under_load_and_old_hosts_go_on_and_come_and_go);
fn tables_are_migrated_under_load_and_old_hosts_go_on_and_come_and_go(setup: &Setup) {
    let mut hosts = Vec::new();
    let rounds = under_load(setup, |_| {
        let (first, second, third) = (join(setup, &[]), join(setup, &[]), join(setup, &[]));
        settled(setup, &[&first, &second, &third], 16);
        let goes_on = || {
            let before = noted(setup);
            wait_until("on it goes", || noted(setup) > before + 2 * AGGREGATES as u64);
        };
        goes_on();
        migrate_to_the_next_release(setup);
        setup.run(["migrate"]).success();
        settled(setup, &[&first, &second, &third], 16);
        goes_on();
        // One after the other, also to an old one again: an upgrade that is taken back half-way.
        let fourth = join(setup, &[]);
        leave(first);
        second.kill();
        settled(setup, &[&third, &fourth], 16);
        goes_on();
        hosts = vec![third, fourth];
    });
    wait_until("all is applied", || noted(setup) == (rounds * AGGREGATES) as u64);
    for host in hosts {
        leave(host);
    }
    every_note_once(setup, rounds);
}

#[test]
fn a_migration_that_has_to_wait_for_somebody_gives_up_soon_and_changes_nothing() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    downgrade(&setup);
    let mut reader = setup.connect();
    reader.execute("BEGIN; LOCK TABLE projectionist.checkpoints IN ACCESS SHARE MODE");
    let output = setup.run(["migrate"]);
    let error = output.exited(1).error();
    assert!(error.contains("canceling statement due to lock timeout"), "{error}");
    let hint = "hint: nothing was changed by the migration that failed; mend the cause and run `host migrate` again";
    assert!(error.ends_with(hint), "{error}");
    reader.execute("COMMIT");
    setup.run(["migrate"]).success();
    setup.insert(&[note("a")]);
    let host = follow(&setup, &[]);
    wait_until("it goes on", || noted(&setup) == 2);
    host.terminate();
    host.wait().success();
}
