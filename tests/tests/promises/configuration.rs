//! A mistake in what the user typed or set is told with what happened, to what, and what to do next; the exit code
//! tells scripts whose fault it is.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use projectionist_tests::{Cluster, Host, Kind, Output, Setup, on_both_databases, plugin};

use crate::sabotage::{catch_up, note};
use crate::upgrade::newest_migration;

/// Runs `user_count` once with these arguments.
fn run(setup: &Setup, more: &[&str]) -> Output {
    setup.run([&["run", "--once", "--plugin", &*plugin("user_count")], more].concat())
}

/// Gives a file or a folder these permissions.
fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_database_that_does_not_exist_is_told() {
    let setup = Setup::on(Cluster::shared());
    let shown = setup.source().shown();
    let (server, _) = shown.rsplit_once('/').unwrap();
    let error = format!(
        "{server}/nowhere does not exist: database \"nowhere\" does not exist\n\
         hint: create it (createdb), then run `host migrate`; or correct the URL"
    );
    let url = Cluster::shared().url("nowhere");
    for command in [&["migrate"][..], &["status"], &["export"], &["import", "-"], &["run", "--plugin"]] {
        let file = plugin("user_count");
        let file: &[&str] = if command[0] == "run" { &[&file] } else { &[] };
        setup.run([command, file, &["--database-url", &url]].concat()).failed(2, &error);
    }
    // The same for the read models.
    run(&setup, &["--read-model-url", &url]).failed(2, &error);
}

#[test]
fn a_server_that_does_not_answer_is_told() {
    let setup = Setup::empty(Kind::Sqlite);
    let output = run(&setup, &["--database-url", "postgres://me:secret@localhost/shop?host=/nonexistent"]);
    let error = output.exited(1).error();
    assert!(error.starts_with("cannot connect to postgres://me@/nonexistent:5432/shop: "), "{error}");
    assert!(error.ends_with("hint: is the server running, and reachable from here at that address?"), "{error}");
    assert!(!output.stderr.contains("secret"), "{}", output.stderr);
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let cluster = Cluster::shared();
    let setup = Setup::on(cluster);
    setup.connect().execute("CREATE ROLE guarded LOGIN PASSWORD 'opensesame'");
    let url = |login: &str| cluster.url_as(login, "postgres");
    let output = run(&setup, &["--database-url", &url("guarded:sesamstrasse")]);
    let error = output.exited(2).error();
    assert!(error.contains(" refused the login: password authentication failed for user \"guarded\"\n"), "{error}");
    let hint = "hint: check user and password in the URL (DATABASE_URL, READ_MODEL_URL), or PGPASSWORD";
    assert!(error.ends_with(hint), "{error}");
    assert!(!output.stderr.contains("sesam"), "{}", output.stderr);
    // With the right one the next mistake is met.
    let output = run(&setup, &["--database-url", &url("guarded:opensesame")]);
    assert!(output.exited(2).error().contains(" has no events tables yet"), "{}", output.error());
}

#[test]
fn a_postgres_database_that_was_never_migrated_is_told() {
    let setup = Setup::empty(Kind::Postgres);
    let database = setup.source().shown();
    let hint = "hint: run `host migrate` with the same database URLs";
    let error = format!("{database} has no events tables yet\n{hint}");
    run(&setup, &[]).failed(2, &error);
    setup.run(["status"]).failed(2, &error);
    setup.run(["export"]).failed(2, &error);
    // Events of another system, and no room for read models.
    let other = Setup::new(Kind::Sqlite);
    let error = format!("{database} has no read model tables yet\n{hint}");
    run(&other, &["--read-model-url", &setup.source().url()]).failed(2, &error);
}

on_both_databases!(tables_that_a_newer_host_has_changed_are_refused);
fn tables_that_a_newer_host_has_changed_are_refused(setup: &Setup) {
    let error = |tables: &str, database: &str| {
        let known = newest_migration(setup.read_model().kind(), &tables.replace(' ', "_"));
        format!(
            "the {tables} tables of {database} were changed by a newer host, so that this one cannot work with them: it \
             knows them up to version {known}, and needs version 999\n\
             hint: use the newer host; tables that it has only added to would do for this one, too"
        )
    };
    run(setup, &[]).success();
    let newer = |bookkeeping: &str| {
        format!(
            "INSERT INTO {bookkeeping} (version, description, success, checksum, execution_time)
             VALUES (999, 'breaking of tomorrow', true, '', 0)"
        )
    };
    let (events, read_model, file) = match setup.source().kind() {
        Kind::Postgres => {
            ("projectionist._migrations_events", "projectionist._migrations_read_model", setup.source().shown())
        }
        Kind::Sqlite => {
            let file = setup.source().file_of("user_count").display().to_string();
            ("_projectionist_migrations", "_projectionist_migrations", file)
        }
    };
    setup.read_model().connect_to("user_count").execute(&newer(read_model));
    run(setup, &[]).failed(2, &error("read model", &file));
    setup.run(["migrate"]).failed(2, &error("read model", &file));
    setup.connect().execute(&newer(events));
    let database = setup.source().shown();
    run(setup, &[]).failed(2, &error("events", &database));
    setup.run(["status"]).failed(2, &error("events", &database));
}

#[test]
fn a_schema_that_is_somebody_elses_is_left_alone() {
    let setup = Setup::new(Kind::Postgres);
    setup.connect().execute("CREATE SCHEMA saboteur; CREATE TABLE saboteur.notes (mine int)");
    let output = catch_up(&setup, &[]);
    assert_ne!(output.code, Some(0));
    assert!(
        output.error().contains("the schema saboteur is there already and is not this projection's"),
        "{}",
        output.error()
    );
    assert_eq!(setup.connect().rows("SELECT * FROM saboteur.notes"), Vec::<Vec<String>>::new());
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let setup = Setup::new(Kind::Sqlite);
    let hint = "hint: check that the folder exists and that this user may write there";
    let file = setup.file("file", "");
    for (folder, reason) in [
        (file.display().to_string(), "Not a directory (os error 20)"),
        (setup.folder().join("missing").display().to_string(), "No such file or directory (os error 2)"),
    ] {
        let url = format!("sqlite://{folder}/x.db");
        let error = format!("cannot create {folder}/x.db: {reason}\n{hint}");
        run(&setup, &["--database-url", &url]).failed(1, &error);
        let output = run(&setup, &["--read-model-url", &url]);
        let error = output.exited(1).error();
        assert!(error.starts_with(&format!("cannot keep read models beside {folder}/x.db: {reason}")), "{error}");
        assert!(error.ends_with(hint), "{error}");
    }
    let folder = setup.folder().join("closed");
    std::fs::create_dir(&folder).unwrap();
    permit(&folder, 0o555);
    let url = format!("sqlite://{}/x.db", folder.display());
    let arguments = ["run", "--once", "--plugin", &plugin("user_count"), "--read-model-url", &url];
    let command = setup.unprivileged(arguments);
    let output = Host::spawn(command).wait();
    let error = output.exited(1).error();
    let expected = format!("cannot keep read models beside {}/x.db: Permission denied (os error 13)", folder.display());
    assert!(error.starts_with(&expected) && error.ends_with(hint), "{error}");
}

#[test]
fn a_file_that_is_read_only_is_told() {
    let setup = Setup::new(Kind::Sqlite);
    run(&setup, &[]).success();
    let hint = "hint: check that the folder exists and that this user may write there";
    let arguments = ["run", "--once", "--plugin", &plugin("user_count")];
    for file in [setup.folder().join("projectionist.db"), setup.source().file_of("user_count")] {
        permit(&file, 0o444);
        let output = Host::spawn(setup.unprivileged(arguments)).wait();
        let error = output.exited(1).error();
        let expected = format!("cannot write {}: the file is read-only for this user", file.display());
        assert!(error.contains(&expected), "{error}\n--- should contain\n{expected}");
        assert!(error.ends_with(hint) || file == setup.source().file_of("user_count"), "{error}");
        permit(&file, 0o644);
    }
    run(&setup, &[]).success();
}

#[test]
fn a_file_that_is_no_database_is_told() {
    let setup = Setup::empty(Kind::Sqlite);
    let _ = setup.file("projectionist.db", "this is text, and quite a lot of it, so that it is no empty file\n");
    let output = run(&setup, &[]);
    assert!(output.exited(1).error().contains("file is not a database"), "{}", output.error());
    assert!(output.error().contains("projectionist.db"), "{}", output.error());
}

#[test]
fn partitions_that_do_not_exist_are_refused() {
    let setup = Setup::new(Kind::Sqlite);
    let hint = "hint: keys are from 0: with --total-partitions 4 they are 0, 1, 2 and 3";
    let error = format!("there is no partition 4 of 4: keys go from 0 to 3\n{hint}");
    run(&setup, &["--partition-key", "4", "--total-partitions", "4"]).failed(2, &error);
    run(&setup, &["--partition-key", "3", "--total-partitions", "4", "--workers", "2"]).failed(2, &error);
    let error = format!("the total of partitions is 0, and it must be from 1 to 65536\n{hint}");
    run(&setup, &["--total-partitions", "0"]).failed(2, &error);
    let error = "--partition-key 2 without --total-partitions\n\
                 hint: say out of how many, such as --total-partitions 4";
    run(&setup, &["--partition-key", "2"]).failed(2, error);
    let error = "--workers is 0\nhint: say how many partitions this process is to work on";
    run(&setup, &["--workers", "0"]).failed(2, error);
}

#[test]
fn a_url_that_is_none_is_refused_without_repeating_it() {
    let setup = Setup::empty(Kind::Sqlite);
    let hint = "hint: say postgres://user:password@host:5432/database or sqlite://file.db";
    let error = format!("that is not a database URL: it starts with neither `postgres://` nor `sqlite://`\n{hint}");
    run(&setup, &["--database-url", "mysql://me:secret@localhost/shop"]).failed(2, &error);
    let error = format!("that is not a database URL: it names no file\n{hint}");
    run(&setup, &["--read-model-url", "sqlite://"]).failed(2, &error);
    let output = run(&setup, &["--database-url", "postgres://me:secret@localhost:port/shop"]);
    assert!(output.exited(2).error().starts_with("that is not a database URL: "), "{}", output.error());
    assert!(!output.stderr.contains("secret"), "{}", output.stderr);
}

#[test]
fn flags_that_make_no_sense_are_refused_with_2() {
    let setup = Setup::empty(Kind::Sqlite);
    for arguments in [
        &["--batch-size", "0"][..],
        &["--on-error", "ignore"],
        &["--max-attempts", "0"],
        &["--poll-interval", "0"],
        &["--set", "no-value"],
        &["--set", "=value"],
        &["--partition-key", "first"],
        &["--log", "projectionist=shout"],
        &["--log-format", "xml"],
        &["--no-such-flag"],
    ] {
        let output = run(&setup, arguments);
        output.exited(2);
        assert!(output.error().contains(arguments[0]), "{arguments:?}: {}", output.error());
    }
    setup.run(["run"]).exited(2);
    let output = run(&setup, &["--stale-after", "1"]);
    let error = "invalid value '1' for '--stale-after <SECONDS>': say 3 to 86400 seconds, or 0 for never";
    assert!(output.exited(2).error().starts_with(error), "{}", output.stderr);
    setup.run(["no-such-command"]).exited(2);
    setup.run(["append", "--aggregate-type", "A"]).exited(2);
    assert_eq!(std::fs::read_dir(setup.folder()).unwrap().count(), 0, "nothing was made");
}

on_both_databases!(every_flag_has_its_environment_variable_and_a_flag_wins);
fn every_flag_has_its_environment_variable_and_a_flag_wins(setup: &Setup) {
    setup.insert(&[note("a"), note("b")]);
    let mut command = setup.command(["run", "--once", "--plugin", &plugin("saboteur")]);
    command.env("PARTITION_KEY", "1").env("TOTAL_PARTITIONS", "3").env("BATCH_SIZE", "7").env("LOG_FORMAT", "json");
    let output = Host::spawn(command).wait();
    let claimed = output.success().stderr.lines().find(|line| line.contains("partition claimed")).expect("a log line");
    let claimed: serde_json::Value = serde_json::from_str(claimed).expect("a line of JSON");
    assert_eq!(claimed["span"]["projection"], "saboteur");
    assert_eq!(claimed["span"]["partition"], "1 of 3");
    assert_eq!(claimed["position"], 0);
    let mut command = setup.command(["run", "--once", "--plugin", &plugin("saboteur"), "--partition-key", "2"]);
    command.env("PARTITION_KEY", "1").env("TOTAL_PARTITIONS", "3");
    Host::spawn(command).wait().success();
    let keys: Vec<_> = setup.checkpoints("saboteur").iter().map(|checkpoint| checkpoint.key).collect();
    assert_eq!(keys, [1, 2]);
    let mut command = setup.command(["run", "--once", "--plugin", &plugin("saboteur")]);
    command.env("TOTAL_PARTITIONS", "many");
    Host::spawn(command).wait().exited(2);
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let setup = Setup::empty(Kind::Sqlite);
    let output = setup.run(["--help"]);
    let help = &output.success().stdout;
    assert!(
        help.contains("Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 stopped by policy, 4 fenced.")
    );
    for command in [
        "migrate",
        "append",
        "import",
        "export",
        "run",
        "status",
        "demo",
        "plugin inspect",
        "plugin validate",
        "plugin trust keygen",
        "plugin trust sign",
        "plugin trust verify",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        assert!(help.contains(&format!("\n  {} ", words[0])), "{command}: {help}");
        let output = setup.run([&words[..], &["--help"]].concat());
        let shown = &output.success().stdout;
        assert!(shown.contains("Example") && shown.contains(&format!("  host {command}")), "{command}: {shown}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(setup.run(["completions", shell]).success().stdout.contains("host"), "{shell}");
    }
    assert!(setup.run(["--version"]).success().stdout.starts_with("host 0."));
}

#[test]
fn an_option_that_cannot_be_meant_is_told_with_what_it_may_be() {
    let setup = Setup::new(Kind::Sqlite);
    let own = plugin("saboteur");
    let name = "is no name for a projection: it has to be of the form [a-z_][a-z0-9_]{0,47}, because it names a schema and \
                a file";
    let loaded = "hint: say NAME=… of one that is loaded: saboteur";
    for (option, expected) in [
        (
            &["--isolation", "guest"][..],
            "invalid value 'guest' for '--isolation <[NAME=]role|login>': say role or login",
        ),
        (
            &["--isolation", "X=login"],
            &*format!("invalid value 'X=login' for '--isolation <[NAME=]role|login>': `X` {name}"),
        ),
        (
            &["--isolation", "other=login"],
            &*format!("--isolation is for other, and no plugin is called that\n{loaded}"),
        ),
        (
            &["--isolation", "login"],
            "--isolation login for saboteur: SQLite knows no logins\n\
             hint: leave it out: there a projection has a file of its own; or keep the read models in Postgres (READ_MODEL_URL)",
        ),
        (
            &["--for", "saboteur"],
            "invalid value 'saboteur' for '--for <NAME.KEY=VALUE>': say NAME.KEY=VALUE, such as user_count.batch_size=500",
        ),
        (
            &["--for", "saboteur.workers=0"],
            "invalid value 'saboteur.workers=0' for '--for <NAME.KEY=VALUE>': workers is a number from 1 to 65536",
        ),
        (
            &["--for", "other.workers=2"],
            "--for is for other, and no plugin is called that\nhint: say the name of one that is loaded: saboteur",
        ),
        (
            &["--for", "saboteur.workers=2", "--total-partitions", "4"],
            "saboteur has workers of its own, and --total-partitions is for all\nhint: say one of the two",
        ),
        (&["--connections", "0"], "invalid value '0' for '--connections <N>': say 1 to 1000"),
        (&["--connections", "many"], "invalid value 'many' for '--connections <N>': say 1 to 1000"),
        (
            &["--replica-set", "Main"],
            &*format!("invalid value 'Main' for '--replica-set <NAME[=PROJECTION,…]>': `Main` {name}"),
        ),
        (
            &["--slots", "4", "--once"],
            "--slots without --replica-set\n\
             hint: slots are those of a --replica-set; without one, say how many partitions: --total-partitions",
        ),
        (
            &["--replica-set", "main", "--slots", "1025"],
            "invalid value '1025' for '--slots <[NAME=]N>': say 1 to 1024 slots",
        ),
        (&["--http", "localhost"], "invalid value 'localhost' for '--http <ADDRESS>': invalid socket address syntax"),
        (&["--http-token-file", "token"], "the following required arguments were not provided:\n  --http <ADDRESS>"),
        (&["--max-lag", "other=5"], &*format!("--max-lag is for other, and no plugin is called that\n{loaded}")),
        (
            &["--stale-after", "1"],
            "invalid value '1' for '--stale-after <SECONDS>': say 3 to 86400 seconds, or 0 for never",
        ),
        (
            &["--config", "nowhere.toml"],
            "cannot read nowhere.toml: No such file or directory (os error 2)\n\
             hint: check the path given to --config (PROJECTIONIST_CONFIG)",
        ),
    ] {
        let output = setup.run([&["run", "--plugin", &own], option].concat());
        let error = output.exited(2).error();
        // What clap adds: usage, and where help is.
        let told = error.split("\n\n").next().unwrap_or_default();
        assert_eq!(told, expected, "{option:?}");
    }
    assert!(setup.checkpoints("saboteur").is_empty(), "nothing has run");
}
