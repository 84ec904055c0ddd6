//! A projection reads tables that are not its own where the operator lets it, and nothing else of them; and no longer than
//! the operator says so.

use projectionist_tests::{Kind, Setup, plugin};
use serde_json::json;

use crate::evil::{attack, harmless, sql, survivors};

/// A table of somebody else's, in a schema of his.
fn foreign_table(setup: &Setup) {
    setup.read_model().connect().execute(
        "CREATE SCHEMA sales; CREATE TABLE sales.prices (name TEXT PRIMARY KEY, cents BIGINT);
         INSERT INTO sales.prices VALUES ('apple', 50); CREATE TABLE sales.secrets (a TEXT)",
    );
}

/// Runs it beside a `counter` until both have caught up, with these options.
fn run(setup: &Setup, options: &[&str]) -> projectionist_tests::Output {
    let (evil, counter) = (plugin("evil"), plugin("counter"));
    setup.run([&["run", "--once", "--plugin", &evil, "--plugin", &counter][..], options].concat())
}

/// What each projection may read, as `status --json` says it.
fn granted(setup: &Setup) -> serde_json::Value {
    let output = setup.run(["status", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&output.success().stdout).expect("JSON");
    report["projections"].as_array().unwrap().iter().map(|one| json!([one["name"], one["grants"]])).collect()
}

/// Whether the role of a projection may read a table, whatever it says.
fn may_read(setup: &Setup, projection: &str, table: &str) -> String {
    let role = format!("'{projection}@' || (SELECT oid FROM pg_database WHERE datname = current_database())");
    let (schema, _) = table.split_once('.').unwrap();
    setup.read_model().connect().value(&format!(
        "SELECT has_schema_privilege({role}, '{schema}', 'USAGE') AND has_table_privilege({role}, '{table}', 'SELECT')"
    ))
}

#[test]
fn what_is_granted_is_read_and_nothing_else_is_done_with_it() {
    let setup = Setup::new(Kind::Postgres);
    foreign_table(&setup);
    let outside = "is outside of the projection's own schema";
    let attacks = [
        ("SELECT * FROM sales.secrets", outside),
        ("SELECT * FROM counter.counter", outside),
        ("UPDATE sales.prices SET cents = 0", "may be read and no more"),
        ("INSERT INTO sales.prices VALUES ('pear', 1)", "may be read and no more"),
        ("WITH x AS (DELETE FROM sales.prices RETURNING 1) SELECT * FROM x", "may be read and no more"),
        ("SELECT * FROM sales.prices FOR UPDATE", "leave FOR UPDATE out"),
        ("SELECT * FROM (SELECT * FROM sales.prices FOR SHARE) AS x", "leave FOR UPDATE out"),
    ];
    let mut events = vec![attack("a", sql("query", "SELECT name, cents FROM sales.prices"))];
    for (number, (statement, _)) in attacks.iter().enumerate() {
        events.push(attack(&format!("bad-{number}"), sql("query", statement)));
    }
    setup.insert(&events);
    run(&setup, &["--grant-read", "evil=sales.prices"]).success();
    let read = survivors(&setup);
    assert!(read.len() == 1 && read[0].contains("apple") && read[0].contains("50"), "{read:?}");
    let letters = setup.dead_letters("evil");
    assert_eq!(letters.len(), attacks.len());
    for (letter, (statement, why)) in letters.iter().zip(attacks) {
        assert!(letter.error.contains(why), "{statement}: {}", letter.error);
    }
    assert_eq!(granted(&setup), json!([["counter", []], ["evil", ["sales.prices"]]]));
    let text = setup.run(["status"]);
    assert!(text.success().stdout.contains("evil may also read sales.prices\n"), "{}", text.stdout);
    assert_eq!(may_read(&setup, "evil", "sales.prices"), "true");
    assert_eq!(may_read(&setup, "evil", "sales.secrets"), "false");
    assert_eq!(may_read(&setup, "counter", "sales.prices"), "false");
    assert_eq!(setup.read_model().connect().value("SELECT cents FROM sales.prices"), "50");
}

#[test]
fn what_is_not_named_any_more_is_taken_away_by_a_run_and_by_nothing_else() {
    let setup = Setup::new(Kind::Postgres);
    foreign_table(&setup);
    setup.insert(&[harmless("a")]);
    let both = "evil=sales.prices,sales.secrets";
    run(&setup, &["--grant-read", both]).success();
    assert_eq!(granted(&setup), json!([["counter", ["sales.secrets"]], ["evil", ["sales.prices", "sales.secrets"]]]));
    // A rebuild reads what it is told, and takes nothing from those that run.
    setup.run(["rebuild", "--plugin", &plugin("evil")]).success();
    assert_eq!(may_read(&setup, "evil", "sales.prices"), "true");
    setup.run(["rebuild", "--plugin", &plugin("evil"), "--grant-read", "sales.prices"]).success();
    run(&setup, &["--grant-read", "evil=sales.secrets"]).success();
    assert_eq!(granted(&setup), json!([["counter", []], ["evil", ["sales.secrets"]]]));
    assert_eq!(may_read(&setup, "evil", "sales.prices"), "false");
    run(&setup, &[]).success();
    assert_eq!(granted(&setup), json!([["counter", []], ["evil", []]]));
    assert_eq!(may_read(&setup, "evil", "sales.secrets"), "false");
    let usage = setup
        .read_model()
        .connect()
        .value("SELECT coalesce(array_length(nspacl, 1), 0) FROM pg_namespace WHERE nspname = 'sales'");
    assert!(usage == "0" || usage == "1", "nobody but its owner may use the schema: {usage}");
}

#[test]
fn a_definition_does_not_hold_on_to_what_was_granted() {
    let setup = Setup::new(Kind::Postgres);
    foreign_table(&setup);
    setup.insert(&[harmless("a")]);
    for statement in
        ["CREATE VIEW spy AS SELECT * FROM sales.prices", "CREATE TABLE x (a TEXT REFERENCES sales.prices)"]
    {
        let output = run(&setup, &["--grant-read", "sales.prices", "--set", &format!("evil.migrate={statement}")]);
        assert_ne!(output.code, Some(0), "{statement}");
        assert!(output.stderr.contains("may be read and no more"), "{statement}: {}", output.stderr);
    }
}

#[test]
fn what_runs_functions_of_its_owner_when_it_is_read_is_not_granted() {
    let setup = Setup::new(Kind::Postgres);
    foreign_table(&setup);
    // What somebody who owns a view can do to whoever reads it.
    setup.read_model().connect().execute(
        "CREATE FUNCTION sales.loot() RETURNS TEXT LANGUAGE plpgsql AS $$ BEGIN DELETE FROM evil.survivors; RETURN ''; END $$;
         CREATE VIEW sales.cheap AS SELECT name || sales.loot() AS name, cents FROM sales.prices;
         CREATE MATERIALIZED VIEW sales.dear AS SELECT name, cents FROM sales.prices;
         CREATE TABLE sales.parts (name TEXT) PARTITION BY LIST (name);
         ALTER TABLE sales.secrets ENABLE ROW LEVEL SECURITY;
         CREATE POLICY looting ON sales.secrets USING (sales.loot() = '')",
    );
    setup.insert(&[harmless("a"), attack("b", sql("query", "SELECT name FROM sales.cheap"))]);
    for (table, is) in [("sales.cheap", "a view"), ("sales.secrets", "a table with row security")] {
        let output = run(&setup, &["--max-attempts", "1", "--grant-read", &format!("evil={table}")]);
        let error = &output.exited(1).stderr;
        assert!(
            error.contains(&format!("{table} is {is}, and cannot be granted (--grant-read): reading it")),
            "{error}"
        );
        assert_eq!(may_read(&setup, "evil", table), "false");
        assert_eq!(setup.position("evil"), 0, "it does not begin without what it is to read");
    }
    let granted = ["--grant-read", "evil=sales.prices,sales.dear,sales.parts"];
    run(&setup, &granted).success();
    assert_eq!(survivors(&setup), ["harmless"], "the view is outside of what it may read");
    for table in ["sales.prices", "sales.dear", "sales.parts"] {
        assert_eq!(may_read(&setup, "evil", table), "true", "{table}");
    }
    // One that becomes such a thing later is found at the next start.
    setup.read_model().connect().execute("ALTER TABLE sales.prices ENABLE ROW LEVEL SECURITY");
    setup.insert(&[harmless("c")]);
    let output = run(&setup, &[&["--max-attempts", "1"][..], &granted].concat());
    assert!(output.exited(1).stderr.contains("sales.prices is a table with row security"), "{}", output.stderr);
}

#[test]
fn a_grant_that_cannot_be_given_is_refused_or_waited_for() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[harmless("a")]);
    let output = run(&setup, &["--grant-read", "evli=sales.prices"]);
    output.failed(
        2,
        "--grant-read is for evli, and no plugin is called that\nhint: say NAME=… of one that is loaded: evil, counter",
    );
    let error = run(&setup, &["--grant-read", "projectionist.checkpoints"]);
    assert!(error.exited(2).stderr.contains("are not granted"), "{}", error.stderr);
    // A table that is not there yet, as that of a projection that has not run.
    let mut host = setup.start(["run", "--plugin", &plugin("evil"), "--grant-read", "sales.prices"]);
    host.wait_for_log("(--grant-read); who owns it can run: GRANT USAGE ON SCHEMA");
    foreign_table(&setup);
    projectionist_tests::wait_until("it goes on by itself", || setup.events_applied("evil") == 1);
    host.terminate();
    host.wait().success();

    let setup = Setup::new(Kind::Sqlite);
    setup.insert(&[harmless("a")]);
    run(&setup, &["--grant-read", "counter.counter"]).failed(
        2,
        "--grant-read counter.counter: a projection in SQLite has a file of its own, and reads no other\n\
         hint: keep the read models in Postgres (READ_MODEL_URL), or have one projection fold both",
    );
}
