//! On Postgres a projection's SQL runs as a role that owns its schema and nothing else; who has made the read model, and
//! with which rights the host runs, makes no difference.

use projectionist_tests::{Cluster, Kind, Setup, plugin};

use crate::sabotage::{catch_up, note, note as harmless, noted};

/// The owners of everything in a schema, the schema itself included, without doubles.
fn owners(setup: &Setup, schema: &str) -> Vec<String> {
    let sql = format!(
        "SELECT DISTINCT pg_get_userbyid(owner) FROM (
             SELECT nspowner AS owner FROM pg_namespace WHERE nspname = '{schema}'
             UNION ALL SELECT relowner FROM pg_class WHERE relnamespace = to_regnamespace('{schema}')) AS all_owners"
    );
    setup.read_model().connect().rows(&sql).into_iter().flatten().collect()
}

/// The name of a projection's role.
fn role_of(setup: &Setup, projection: &str) -> String {
    let oid = "SELECT oid FROM pg_database WHERE datname = current_database()";
    format!("{projection}@{}", setup.read_model().connect().value(oid))
}

#[test]
fn each_projection_has_a_role_that_owns_its_schema_and_nobody_can_log_in_as() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    let (saboteur, counter) = (plugin("saboteur"), plugin("counter"));
    setup.run(["run", "--once", "--plugin", &saboteur, "--plugin", &counter, "--workers", "2"]).success();
    for projection in ["saboteur", "counter"] {
        let role = role_of(&setup, projection);
        assert_eq!(owners(&setup, projection), [&*role]);
        let powers = format!(
            "SELECT rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication
                    OR EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid)
             FROM pg_roles WHERE rolname = '{role}'"
        );
        assert_eq!(setup.read_model().connect().value(&powers), "false");
        let elsewhere = format!(
            "SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) = '{role}'
                AND relnamespace NOT IN ('{projection}'::regnamespace, 'pg_toast'::regnamespace)"
        );
        assert_eq!(setup.read_model().connect().value(&elsewhere), "0");
    }
    // A rebuild runs as the same role, so what it puts in place has the same owner.
    setup.run(["rebuild", "--plugin", &saboteur]).success();
    assert_eq!(owners(&setup, "saboteur"), [role_of(&setup, "saboteur")]);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    assert_eq!(noted(&setup), 2);
}

#[test]
fn a_read_model_that_a_host_without_roles_has_made_is_taken_over() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    let role = role_of(&setup, "saboteur");
    let mut owner = setup.read_model().connect();
    owner.execute(&format!(
        "REASSIGN OWNED BY \"{role}\" TO CURRENT_USER; DROP ROLE \"{role}\";
         CREATE TABLE saboteur.numbered (id BIGINT GENERATED ALWAYS AS IDENTITY, s SERIAL);
         CREATE SEQUENCE saboteur.alone; CREATE VIEW saboteur.shown AS SELECT * FROM saboteur.notes;
         CREATE INDEX by_note ON saboteur.notes (note)"
    ));
    assert_eq!(owners(&setup, "saboteur"), [owner.value("SELECT current_user")]);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    assert_eq!(noted(&setup), 2);
    assert_eq!(owners(&setup, "saboteur"), [role]);
}

#[test]
fn a_login_that_may_not_make_roles_is_told_what_an_administrator_can_run() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    let mut owner = setup.connect();
    owner.execute(
        "CREATE ROLE app LOGIN;
         DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO app', current_database()); END $$;
         GRANT USAGE ON SCHEMA projectionist TO app;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA projectionist TO app;
         GRANT SELECT ON events TO app",
    );
    setup.insert(&[harmless("a")]);
    let run = || {
        let mut command = setup.command(["run", "--once", "--plugin", &plugin("saboteur")]);
        command.env("DATABASE_URL", setup.source().url().replace("postgres@", "app@"));
        projectionist_tests::Host::spawn(command).wait()
    };
    let output = run();
    let role = role_of(&setup, "saboteur");
    output.exited(2);
    let error = &output.stderr;
    assert!(
        error.contains(&format!("the SQL of saboteur is to run as the role {role}, and app may not see to that")),
        "{error}"
    );
    assert!(error.contains("permission denied to create role"), "{error}");
    assert!(error.contains("or give the host's login CREATEROLE"), "{error}");
    let statements: String = error.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert_eq!(statements, format!("CREATE ROLE \"{role}\" NOLOGIN;GRANT \"{role}\" TO \"app\";"));
    // As it says.
    owner.execute(&statements);
    run().success();
    assert_eq!(noted(&setup), 1);
    assert_eq!(owners(&setup, "saboteur"), [role]);
}
