//! A newer host on the tables of an older one: a server is migrated by its operator, a file by the host itself, and
//! either goes on where the older host stopped.

use std::path::PathBuf;

use projectionist_tests::{Kind, Setup, on_both_databases, wait_until};

use crate::sabotage::{catch_up, note, notes};

/// The migrations of the read model's, or the events', tables.
fn migrations(kind: &str, tables: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "migrations", kind, tables].iter().collect()
}

/// The version of the newest of them.
pub(crate) fn newest_migration(kind: Kind, tables: &str) -> usize {
    let folder = match kind {
        Kind::Postgres => "postgres",
        Kind::Sqlite => "sqlite",
    };
    let files = std::fs::read_dir(migrations(folder, tables)).expect("the migrations");
    let names = files.map(|file| file.expect("a migration").file_name().into_string().expect("a name in UTF-8"));
    names.filter_map(|name| name.split_once('_')?.0.parse().ok()).max().unwrap_or(0)
}

/// Puts the read model's own tables back to what the first version of the host made, with the checkpoint in them.
pub(crate) fn downgrade(setup: &Setup) {
    let kind = setup.read_model().kind();
    let (folder, bookkeeping) = match kind {
        Kind::Postgres => ("postgres", "projectionist._migrations_read_model"),
        Kind::Sqlite => ("sqlite", "_projectionist_migrations"),
    };
    let mut connection = setup.read_model().connect_to("saboteur");
    let checkpoints = setup.own_table("checkpoints");
    let projections = setup.own_table("projections");
    let columns = "projection, total_partitions, partition_key, position, epoch, owner, events_applied, plugin_version, \
                   plugin_digest";
    connection.execute(&format!("CREATE TABLE kept_checkpoints AS SELECT {columns} FROM {checkpoints}"));
    connection
        .execute(&format!("CREATE TABLE kept_projections AS SELECT projection, schema_version FROM {projections}"));
    let tables = match kind {
        Kind::Postgres => {
            "SELECT format('DROP TABLE projectionist.%I CASCADE', tablename) FROM pg_tables
             WHERE schemaname = 'projectionist' AND tablename NOT LIKE '%migrations%'
             UNION ALL
             SELECT format('DROP FUNCTION IF EXISTS %s CASCADE', oid::regprocedure) FROM pg_proc
             WHERE pronamespace = 'projectionist'::regnamespace AND proname <> 'notify_events'"
        }
        Kind::Sqlite => {
            "SELECT 'DROP ' || type || ' ' || name FROM sqlite_master
             WHERE type IN ('table', 'view') AND (name LIKE '@_projectionist@_%' ESCAPE '@' OR name = 'projection_checkpoints')
               AND name <> '_projectionist_migrations' ORDER BY type DESC"
        }
    };
    for drop in connection.rows(tables) {
        connection.execute(&drop[0]);
    }
    let first = migrations(folder, "read_model").join("0001_checkpoints.sql");
    connection.execute(&std::fs::read_to_string(first).expect("the first migration"));
    connection.execute(&format!("DELETE FROM {bookkeeping} WHERE version > 1"));
    connection.execute(&format!("INSERT INTO {checkpoints} ({columns}) SELECT * FROM kept_checkpoints"));
    connection
        .execute(&format!("INSERT INTO {projections} (projection, schema_version) SELECT * FROM kept_projections"));
    connection.execute("DROP TABLE kept_checkpoints; DROP TABLE kept_projections");
}

on_both_databases!(tables_of_an_older_host_are_brought_up_and_work_goes_on_where_it_stopped);
fn tables_of_an_older_host_are_brought_up_and_work_goes_on_where_it_stopped(setup: &Setup) {
    setup.insert(&[note("a"), note("b")]);
    catch_up(setup, &[]).success();
    downgrade(setup);
    setup.insert(&[note("a")]);
    if setup.read_model().kind() == Kind::Postgres {
        let error = format!(
            "the read model tables of {} are at version 1, and this host works with version {}\n\
             hint: run `host migrate` with the same database URLs",
            setup.read_model().shown(),
            newest_migration(setup.read_model().kind(), "read_model")
        );
        catch_up(setup, &[]).failed(2, &error);
        setup.run(["status"]).failed(2, &error);
        setup.run(["migrate"]).success();
    }
    setup.run(["status"]).success();
    catch_up(setup, &[]).success();
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"], ["a", "2"]]);
    assert_eq!(setup.events_applied("saboteur"), 3);
}

on_both_databases!(a_migration_that_is_missing_below_the_newest_is_noticed);
fn a_migration_that_is_missing_below_the_newest_is_noticed(setup: &Setup) {
    setup.insert(&[note("a")]);
    catch_up(setup, &[]).success();
    // As if a release had brought the newest, and then another one, of an older branch, the one below.
    let (books, undo) = match setup.read_model().kind() {
        Kind::Postgres => ("projectionist._migrations_read_model", "DROP TABLE projectionist.pauses".to_owned()),
        Kind::Sqlite => ("_projectionist_migrations", format!("DROP TABLE {}", setup.own_table("pauses"))),
    };
    let mut connection = setup.read_model().connect_to("saboteur");
    connection.execute(&undo);
    connection.execute(&format!("DELETE FROM {books} WHERE version = 11"));
    let newest = newest_migration(setup.read_model().kind(), "read_model");
    if newest == 11 {
        // On SQLite it is the newest that there is: a later host has brought another.
        connection.execute(&format!(
            "INSERT INTO {books} (version, description, success, checksum, execution_time) VALUES (999, 'of tomorrow', true, '', 0)"
        ));
    }
    if setup.read_model().kind() == Kind::Postgres {
        let error = format!(
            "the read model tables of {} lack what these migrations bring: 11\n\
             hint: run `host migrate` with the same database URLs",
            setup.read_model().shown()
        );
        catch_up(setup, &[]).failed(2, &error);
        setup.run(["status"]).failed(2, &error);
        setup.run(["migrate"]).success();
    }
    setup.insert(&[note("a")]);
    catch_up(setup, &[]).success();
    setup.run(["pause", "saboteur"]).success();
    assert_eq!(notes(setup), [["a", "1"], ["a", "2"]]);
}

#[test]
fn several_that_migrate_at_once_wait_for_each_other() {
    let setup = Setup::empty(Kind::Postgres);
    let together: Vec<_> = (0..6).map(|_| setup.start(["migrate"])).collect();
    for migrate in together {
        migrate.wait().success();
    }
    let setup = Setup::new(Kind::Postgres);
    catch_up(&setup, &[]).success();
    // One of them is at work for longer than a migration waits for a table.
    downgrade(&setup);
    let mut reader = setup.connect();
    reader.execute("BEGIN; LOCK TABLE projectionist.checkpoints IN ACCESS SHARE MODE");
    let first = setup.start(["migrate"]);
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'projectionist migrate' AND datname = current_database() AND wait_event_type = 'Lock'";
    wait_until("the first one is at work", || setup.connect().value(waits) == "1");
    first.freeze();
    let mut second = setup.start(["migrate"]);
    second.wait_for_log("another `host migrate` is at work in this database: waiting until it has ended");
    let long = format!("{waits} AND wait_event = 'advisory' AND query_start < now() - interval '7 seconds'");
    wait_until("the second one has waited for longer", || setup.connect().value(&long) == "1");
    reader.execute("COMMIT");
    first.kill();
    second.wait().success();
}

#[test]
fn a_file_that_was_left_when_its_maker_was_killed_is_made_by_whoever_comes_next() {
    let setup = Setup::empty(Kind::Sqlite);
    // The migrator's bookkeeping comes first; what it keeps the books of had not begun.
    let bookkeeping = "CREATE TABLE _projectionist_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
                           installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
                           checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)";
    for name in ["projectionist.db", "projectionist.saboteur.db"] {
        drop(setup.file(name, ""));
    }
    setup.connect().execute(bookkeeping);
    setup.read_model().connect_to("saboteur").execute(bookkeeping);
    catch_up(&setup, &[]).success();
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    assert_eq!(notes(&setup), [["a", "1"]]);
}
