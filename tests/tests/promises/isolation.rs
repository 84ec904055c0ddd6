//! With `--isolation login` a projection's statements run in a session that logs in as its role, with no stronger one to go
//! back to, and everything a worker does is done there as well as anywhere. What that session holds is in
//! `evil::sql_beneath`.

use projectionist_tests::{Cluster, Host, Kind, Setup, plugin, wait_until};
use serde_json::Value;

use crate::dead_letters::{MENDED, dlq, dlq_by_itself, parked, reasons};
use crate::sabotage::{catch_up, follow, note, noted, notes};

/// The option.
const LOGIN: [&str; 2] = ["--isolation", "login"];

/// The name of the saboteur's role.
fn role(setup: &Setup) -> String {
    let oid = "SELECT oid FROM pg_database WHERE datname = current_database()";
    format!("saboteur@{}", setup.read_model().connect().value(oid))
}

/// Who the sessions of its workers belong to, without doubles.
fn sessions(setup: &Setup) -> Vec<String> {
    let sql = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = current_database()
               AND application_name ~ '^projectionist saboteur ' ORDER BY 1";
    setup.read_model().connect().rows(sql).into_iter().flatten().collect()
}

/// What `status --json` says of it.
fn isolation(setup: &Setup) -> Value {
    let output = setup.run(["status", "--json"]);
    let report: Value = serde_json::from_str(&output.success().stdout).expect("JSON");
    report["projections"][0]["isolation"].clone()
}

#[test]
fn a_session_is_the_projections_own_and_nobody_else_can_log_in_as_it() {
    let setup = Setup::new(Kind::Postgres);
    // One, so that none of the host's own, in which it has claimed, lies idle beside it.
    let host = follow(&setup, &[&LOGIN[..], &["--connections", "1"]].concat());
    setup.insert(&[note("a")]);
    wait_until("the event is applied", || noted(&setup) == 1);
    let role = role(&setup);
    assert_eq!(sessions(&setup), [&*role]);
    let powers = format!(
        "SELECT rolcanlogin, rolpassword IS NULL, rolinherit OR rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls,
             EXISTS (SELECT FROM pg_auth_members WHERE member = pg_authid.oid)
         FROM pg_authid WHERE rolname = '{role}'"
    );
    let mut owner = setup.read_model().connect();
    assert_eq!(owner.rows(&powers), [["false", "true", "false", "false"]], "at rest it is closed");
    assert_eq!(isolation(&setup), "login");
    host.terminate();
    host.wait().success();
    // From one to the other and back, nothing has to be changed.
    setup.insert(&[note("a")]);
    catch_up(&setup, &["--isolation", "role"]).success();
    assert_eq!((noted(&setup), isolation(&setup)), (2, "role".into()));
    setup.insert(&[note("a")]);
    catch_up(&setup, &["--isolation", "saboteur=login"]).success();
    assert_eq!((noted(&setup), isolation(&setup)), (3, "login".into()));
    assert_eq!(setup.events_applied("saboteur"), 3);
}

#[test]
fn what_is_parked_is_retried_and_skipped_and_rebuilt_by_a_login_as_well() {
    let setup = Setup::new(Kind::Postgres);
    catch_up(&setup, &LOGIN).success();
    parked(&setup);
    catch_up(&setup, &LOGIN).success();
    assert_eq!(
        reasons(&setup).iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>(),
        ["poison", "behind", "behind"]
    );
    // It fails again, and says so.
    let output = dlq_by_itself(&setup, &["retry", "--all", "--isolation", "login"]);
    assert!(output.exited(1).stderr.contains("not mended"), "{}", output.stderr);
    assert_eq!(setup.dead_letters("saboteur")[0].attempts, 2);
    // By the command itself, by a worker.
    dlq_by_itself(&setup, &["retry", "--all", "--isolation", "login", MENDED[0], MENDED[1]]).success();
    assert_eq!((reasons(&setup), noted(&setup)), (vec![], 6));
    setup.insert(&[crate::dead_letters::bad("c"), note("c")]);
    let mut host = follow(&setup, &LOGIN);
    wait_until("it is parked", || reasons(&setup).len() == 2);
    host.wait_for_log("aggregate parked");
    dlq(&setup, &["skip", "default/Saboteur/c"]).success();
    assert_eq!(reasons(&setup).len(), 1, "the skipped one");
    host.terminate();
    host.wait().success();
    let before = notes(&setup);
    setup.run(["rebuild", "--plugin", &plugin("saboteur"), "--isolation", "login", MENDED[0], MENDED[1]]).success();
    assert_eq!(notes(&setup).len(), before.len() + 1, "mended, none has to be skipped");
    // With another number of partitions.
    setup.insert(&[note("a"), note("b"), note("c"), note("d")]);
    catch_up(&setup, &[&LOGIN[..], &["--workers", "3"]].concat()).success();
    assert_eq!(notes(&setup).len(), before.len() + 5);
    let left = "SELECT count(*) FROM projectionist.seals WHERE projection <> 'saboteur' OR total_partitions <> 3";
    assert_eq!(setup.read_model().connect().value(left), "0", "a key goes with its claim");
}

#[test]
fn a_worker_that_was_replaced_is_fenced_in_a_session_of_its_own_too() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    let host = follow(&setup, &LOGIN);
    wait_until("it works", || noted(&setup) == 1);
    // As somebody who has taken the partition over.
    setup.read_model().connect().execute(
        "UPDATE projectionist.checkpoints SET epoch = epoch + 1, owner = 'somebody else' WHERE projection = 'saboteur'",
    );
    setup.insert(&[note("a")]);
    let output = host.wait();
    assert!(output.exited(4).stderr.contains("was taken over by somebody else"), "{}", output.stderr);
    assert_eq!((noted(&setup), setup.events_applied("saboteur")), (1, 1), "its batch was rolled back");
    catch_up(&setup, &LOGIN).success();
    assert_eq!((noted(&setup), setup.events_applied("saboteur")), (2, 2));
}

#[test]
fn each_login_has_a_password_that_the_server_asks_for() {
    let cluster = Cluster::start_letting_in("local all postgres trust\nlocal all all scram-sha-256\n");
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[&LOGIN[..], &["--workers", "4"]].concat()).success();
    assert_eq!(noted(&setup), 1);
}

#[test]
fn a_server_that_refuses_the_role_is_told_of_with_the_line_that_lets_it_in() {
    let cluster = Cluster::start_letting_in("local all postgres trust\nlocal all all reject\n");
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a")]);
    let output = catch_up(&setup, &LOGIN);
    let error = &output.exited(2).stderr;
    let database = setup.connect().value("SELECT current_database()");
    let line = format!("    local \"{database}\" \"{}\" scram-sha-256", role(&setup));
    assert!(
        error.contains("saboteur is to log in by itself (--isolation login), and the server does not let it in"),
        "{error}"
    );
    assert!(error.lines().any(|found| found == line), "{error} should have the line {line}");
    assert_eq!(catch_up(&setup, &[]).code, Some(0), "with the other isolation it goes on");
}

#[test]
fn the_least_that_a_host_needs_is_enough_and_what_is_missing_is_said() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    let mut owner = setup.connect();
    owner.execute(include_str!("../../../deploy/postgres/roles.sql"));
    let run = || {
        let mut command = setup.command(["run", "--once", "--plugin", &plugin("saboteur")]);
        command.args(LOGIN).env("DATABASE_URL", setup.source().url().replace("postgres@", "projectionist_host@"));
        Host::spawn(command).wait()
    };
    setup.insert(&[note("a")]);
    run().success();
    assert_eq!(noted(&setup), 1);
    owner.execute("ALTER ROLE projectionist_host NOCREATEROLE");
    setup.insert(&[note("a")]);
    let output = run();
    let error = &output.exited(2).stderr;
    assert!(error.contains("projectionist_host may not see to that: "), "{error}");
    let statement = "ALTER ROLE \"projectionist_host\" CREATEROLE";
    assert!(error.contains(statement), "{error}");
    owner.execute(statement);
    run().success();
    assert_eq!(noted(&setup), 2);
}

#[test]
fn a_file_has_no_logins() {
    let setup = Setup::new(Kind::Sqlite);
    let output = catch_up(&setup, &LOGIN);
    assert!(
        output.exited(2).stderr.contains("--isolation login for saboteur: SQLite knows no logins"),
        "{}",
        output.stderr
    );
    let inspected = setup.run(["plugin", "inspect", &plugin("saboteur"), "--isolation", "login"]);
    assert!(inspected.success().stdout.lines().any(|line| line.starts_with("isolation") && line.ends_with("login")));
}

#[test]
fn what_a_projection_has_planted_in_its_schema_is_run_by_nothing_that_the_host_does() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    // Past the guard: what fits the host's own statements better than the catalogue's operators and functions do.
    let plant = format!(
        r#"CREATE TABLE public.loot (who TEXT);
           SET ROLE "{}"; SET search_path = saboteur;
           CREATE FUNCTION loot() RETURNS TEXT LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO public.loot VALUES (current_user);
               RETURN '';
           EXCEPTION WHEN insufficient_privilege THEN RETURN '';
           END $$;
           CREATE FUNCTION cat(TEXT, OID) RETURNS TEXT LANGUAGE sql AS $$ SELECT loot() || concat($1, $2) $$;
           CREATE OPERATOR || (LEFTARG = TEXT, RIGHTARG = OID, FUNCTION = cat);
           CREATE FUNCTION format(TEXT, TEXT, NAME) RETURNS TEXT LANGUAGE sql AS
               $$ SELECT loot() || pg_catalog.format($1, VARIADIC ARRAY[$2, $3::text]) $$;
           RESET ROLE"#,
        role(&setup)
    );
    setup.read_model().connect().execute(&plant);
    for isolation in ["role", "login"] {
        setup.insert(&[note("a")]);
        catch_up(&setup, &["--isolation", isolation]).success();
        assert_eq!(setup.read_model().connect().rows("SELECT who FROM public.loot"), [[""; 0]; 0], "{isolation}");
    }
    assert_eq!((noted(&setup), setup.events_applied("saboteur")), (3, 3));
}

#[test]
fn no_projection_is_called_as_the_hosts_user() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    let named = format!("postgres={}", plugin("saboteur"));
    let output = setup.run(["run", "--once", "--plugin", &named]);
    let error = output.exited(2).error();
    assert!(
        error.contains("no projection can be called postgres: that is the user that the host logs in to"),
        "{error}"
    );
    assert!(error.ends_with("hint: run it under another name: --plugin NAME=FILE"), "{error}");
}

#[test]
fn no_projection_is_called_as_the_user_who_reads_the_events() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    // The same database, read as somebody else than it is written as.
    let events = setup.source().url().replace("postgres@", "reader@");
    let named = format!("reader={}", plugin("saboteur"));
    for command in
        [&["run", "--once", "--plugin"][..], &["rebuild", "--plugin"], &["dlq", "retry", "--all", "--plugin"]]
    {
        let mut command = setup.command([command, &[&named]].concat());
        command.env("DATABASE_URL", &events).env("READ_MODEL_URL", setup.source().url());
        let output = Host::spawn(command).wait();
        let error = output.exited(2).error();
        assert!(
            error.contains("no projection can be called reader: that is the user that the host logs in to"),
            "{error}"
        );
        assert!(error.ends_with("hint: run it under another name: --plugin NAME=FILE"), "{error}");
    }
    assert!(setup.checkpoints("reader").is_empty());
}

#[test]
fn a_host_of_before_goes_on_with_seals_that_have_no_numbers() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    catch_up(&setup, &LOGIN).success();
    // What a host of the release before has made: the key of its claim, and a seal over what it wants to have done.
    let (position, epoch) = (setup.position("saboteur"), setup.checkpoints("saboteur")[0].epoch);
    let mut session = setup.read_model().connect();
    session.execute(
        "UPDATE projectionist.seals SET inner_key = decode(repeat('36', 64), 'hex'), outer_key = decode(repeat('5c', 64), 'hex')",
    );
    session.execute(&format!("SET SESSION AUTHORIZATION \"{}\"", role(&setup)));
    let advance = |from: u64| {
        let said = format!(
            r#"{{"projection": "saboteur", "total": 1, "key": 0, "epoch": {epoch}, "from": {from}, "to": {}, "applied": 1,
               "version": 1, "digest": "x", "forgets": false}}"#,
            from + 1
        );
        format!(
            "SELECT projectionist.advance(said, sha256(decode(repeat('5c', 64), 'hex')
                 || sha256(decode(repeat('36', 64), 'hex') || convert_to('advance ' || said, 'UTF8'))))
             FROM (VALUES ('{said}')) AS what (said)"
        )
    };
    for from in position..position + 3 {
        session.execute(&advance(from));
    }
    assert_eq!((setup.position("saboteur"), setup.events_applied("saboteur")), (position + 3, 4));
    assert!(session.try_execute(&advance(position)).unwrap_err().contains("is not where this claim has left it"));
}
