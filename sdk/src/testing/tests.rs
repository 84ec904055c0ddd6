//! What a test on SQLite shares with a run in the host.

use super::{TestHost, event, json, values};
use crate::{Event, Failure, Numeric, Projection, Timestamp, Transaction, Value, config, params};

/// What a [`Script`] does in one call.
type Step = fn(&mut Script, &Transaction<'_>, &Event) -> Result<(), Failure>;

/// A projection that does, for each event type, what [`step`] says.
#[derive(Default)]
struct Script {
    /// Events handled by this instance.
    handled: i64,
}

/// What happens for an event type.
fn step(event_type: &str) -> Step {
    match event_type {
        "Insert" => |_, tx, event| Ok(tx.execute("INSERT INTO t (id) VALUES ($1)", params![event.aggregate_id()])?),
        "Fail" => |_, _, _| Err(Failure::transient("not now")),
        "CountInMemory" => |script, tx, _| {
            script.handled += 1;
            Ok(tx.execute("INSERT INTO counted VALUES ($1)", params![script.handled])?)
        },
        "Swallow" => |_, tx, _| {
            let _ = tx.query("SELECT * FROM nothing_of_this_name", params![]);
            Ok(())
        },
        "ReadOwnWrite" => |_, tx, event| {
            tx.execute("INSERT INTO t (id) VALUES ($1)", params![event.aggregate_id()])?;
            let row = tx.query_one("SELECT count(*) AS n FROM t", params![])?;
            Ok(tx.execute("INSERT INTO counted VALUES ($1)", params![row.get::<i64>("n")?])?)
        },
        "Sql" => |_, tx, event| {
            let sql: String = event.payload()?;
            Ok(tx.query(&sql, params![]).map(drop)?)
        },
        "Setting" => |_, tx, _| {
            let n: i64 = config::parse("n")?.unwrap_or(-1);
            Ok(tx.execute("INSERT INTO counted VALUES ($1)", params![n])?)
        },
        "SwapParameters" => |_, tx, _| Ok(tx.execute("INSERT INTO t (id, more) SELECT $2, $1", params!["one", "two"])?),
        "Affected" => |_, tx, _| {
            let changed = tx.query("UPDATE t SET more = 'x' RETURNING id", params![])?;
            assert_eq!(changed.len() as u64, changed.affected());
            let read = tx.query("SELECT * FROM t", params![])?;
            assert_eq!(read.affected(), 0);
            Ok(tx.execute("INSERT INTO counted VALUES ($1)", params![changed.affected()])?)
        },
        _ => |_, _, _| Ok(()),
    }
}

impl Projection for Script {
    fn name() -> &'static str {
        "script"
    }

    fn version() -> u32 {
        2
    }

    fn aggregate_types() -> &'static [&'static str] {
        &["Test"]
    }

    fn migrate(&mut self, tx: &Transaction<'_>, from_version: u32) -> Result<(), Failure> {
        if from_version < 1 {
            tx.execute("CREATE TABLE t (id TEXT PRIMARY KEY)", params![])?;
        }
        tx.execute("ALTER TABLE t ADD COLUMN more TEXT", params![])?;
        tx.execute("CREATE TABLE counted (n BIGINT)", params![])?;
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
        step(event.event_type())(self, tx, event)
    }
}

/// The failure of a batch of these event types, as a test would print it.
fn failure_of(types: &[&str]) -> String {
    let mut host = TestHost::<Script>::new();
    host.try_apply(types.iter().map(|&event_type| event(event_type))).unwrap_err().to_string()
}

/// The failure of one statement in `handle`.
fn refusal_of(sql: &str) -> String {
    let mut host = TestHost::<Script>::new();
    let failure = host.try_apply([event("Sql").payload(sql)]).unwrap_err();
    failure.failure().message().to_owned()
}

#[test]
fn a_failed_batch_leaves_nothing_in_tables_or_memory() {
    let mut host = TestHost::<Script>::new();
    host.apply([event("CountInMemory"), event("CountInMemory")]);
    let failure = host.try_apply([event("CountInMemory"), event("Insert"), event("Fail")]).unwrap_err();
    assert_eq!(failure.to_string(), "handle of Fail at position 5: transient failure: not now");
    assert_eq!(host.value::<i64>("SELECT count(*) FROM t"), 0);
    host.apply([event("CountInMemory")]);
    assert_eq!(host.rows("SELECT n FROM counted"), [values![1], values![2], values![1]]);
}

#[test]
fn a_restart_drops_memory_and_keeps_tables() {
    let mut host = TestHost::<Script>::new();
    host.apply([event("CountInMemory")]);
    host.restart();
    host.apply([event("CountInMemory")]);
    assert_eq!(host.rows("SELECT n FROM counted"), [values![1], values![1]]);
}

#[test]
fn a_held_statement_that_fails_names_the_event_it_came_from() {
    let message = "handle of Insert at position 2: permanent failure: \
                   UNIQUE constraint failed: t.id, in: INSERT INTO t (id) VALUES ($1) (SQLSTATE 23505)";
    assert_eq!(failure_of(&["Insert", "Insert", "Ignored"]), message);
    assert_eq!(failure_of(&["Insert", "Insert", "Affected"]), message);
}

#[test]
fn an_error_that_the_projection_swallows_fails_the_batch_all_the_same() {
    assert_eq!(
        failure_of(&["Swallow"]),
        "handle of Swallow at position 1: permanent failure: \
         no such table: nothing_of_this_name, in: SELECT * FROM nothing_of_this_name (SQLSTATE 42P01)"
    );
}

#[test]
fn a_query_sees_what_was_executed_before_it() {
    let mut host = TestHost::<Script>::new();
    host.apply([event("ReadOwnWrite")]);
    assert_eq!(host.value::<i64>("SELECT n FROM counted"), 1);
}

#[test]
fn rows_changed_are_counted_and_rows_read_are_not() {
    let mut host = TestHost::<Script>::new();
    let insert = |id| event("Insert").aggregate("Test", id);
    host.apply([insert("a"), insert("b"), event("Affected")]);
    assert_eq!(host.value::<i64>("SELECT n FROM counted"), 2);
}

#[test]
fn events_that_the_filters_leave_out_are_not_handled() {
    let mut host = TestHost::<Script>::new();
    host.apply([event("Insert").aggregate("Other", "o"), event("Insert").aggregate("Test", "t")]);
    assert_eq!(host.rows("SELECT id FROM t"), [values!["t"]]);
}

#[test]
fn an_older_version_is_migrated_from_where_it_is() {
    let old = "CREATE TABLE t (id TEXT PRIMARY KEY); INSERT INTO t VALUES ('kept')";
    let mut host = TestHost::<Script>::new().at_version(1, old);
    host.migrate();
    assert_eq!(host.rows("SELECT id, more FROM t"), [values!["kept", None::<&str>]]);
}

#[test]
fn settings_reach_the_projection_and_only_its_own() {
    let mut with = TestHost::<Script>::new().set("n", 7);
    let mut without = TestHost::<Script>::new();
    without.apply([event("Setting")]);
    with.apply([event("Setting")]);
    without.apply([event("Setting")]);
    assert_eq!(with.rows("SELECT n FROM counted"), [values![7]]);
    assert_eq!(without.rows("SELECT n FROM counted"), [values![-1], values![-1]]);
}

#[test]
fn parameters_are_bound_by_their_number() {
    let mut host = TestHost::<Script>::new();
    host.apply([event("SwapParameters")]);
    assert_eq!(host.rows("SELECT id, more FROM t"), [values!["two", "one"]]);
}

#[test]
fn what_the_host_refuses_is_refused_here() {
    for (sql, reason) in [
        ("CREATE TABLE x (a TEXT)", "not allowed here"),
        ("DROP TABLE t", "not allowed here"),
        ("COMMIT", "not allowed here"),
        ("SAVEPOINT s", "not allowed here"),
        ("ATTACH 'other.db' AS other", "not allowed here"),
        ("PRAGMA user_version = 7", "not allowed here"),
        ("DELETE FROM t; DELETE FROM t", "more than one statement"),
        ("", "an empty statement"),
        ("SELECT $1", "0 parameters given, where the statement has 1"),
        ("SELECT ?", "the parameter ?: they are written $1, $2, …"),
        ("SELECT :name", "the parameter :name: they are written $1, $2, …"),
        ("SELEC 1", "near \"SELEC\": syntax error"),
    ] {
        let message = refusal_of(sql);
        assert!(message.starts_with(reason), "{sql}: {message}");
    }
}

#[test]
fn values_are_stored_as_the_host_stores_them() {
    let host = TestHost::<Script>::new();
    let stored = |value: Value| {
        let row = &host.query("SELECT typeof($1), CAST($1 AS TEXT)", vec![value])[0];
        (row.get::<String>(0).unwrap(), row.get::<String>(1).unwrap())
    };
    let expect = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());
    assert_eq!(stored(Value::Boolean(true)), expect("integer", "1"));
    assert_eq!(stored(Value::Timestamp(1)), expect("text", "1970-01-01T00:00:00.000001Z"));
    assert_eq!(stored(Value::Numeric("1.50".into())), expect("text", "1.50"));
    assert_eq!(stored(Value::Json("[1]".into())), expect("text", "[1]"));
    assert_eq!(stored(Value::Uuid("8ece".into())), expect("text", "8ece"));
    assert_eq!(stored(Value::Float64(0.5)), expect("real", "0.5"));
    assert_eq!(stored(Value::Bytes(vec![65])), expect("blob", "A"));
}

#[test]
fn values_that_sqlite_would_lose_are_refused() {
    let database = super::database::Database::new();
    let code = |value| database.read("SELECT $1", &[value]).unwrap_err().code().to_owned();
    assert_eq!(code(Value::Float64(f64::NAN)), "22003");
    assert_eq!(code(Value::Text("a\0b".into())), "22021");
}

#[test]
fn columns_read_back_by_their_declared_type() {
    let host = TestHost::<Script>::new().at_version(
        2,
        "CREATE TABLE kinds (b BOOLEAN, t timestamp with time zone, u UUID, j JSONB, n NUMERIC(10, 2), i INT,
                             f REAL, s VARCHAR(10), x BLOB);
         INSERT INTO kinds VALUES (1, '2024-01-01T00:00:00.000000Z', '8ece', '{\"a\":1}', '12.5', 3,
                                   0.5, 's', x'00ff');
         INSERT INTO kinds (t, j) VALUES ('soon', '7')",
    );
    let moment: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
    let number: Numeric = "12.5".parse().unwrap();
    let uuid = Value::Uuid("8ece".into());
    let [full, odd] = host.rows("SELECT * FROM kinds").try_into().unwrap();
    assert_eq!(full, values![true, moment, uuid, json!({"a": 1}), number, 3, 0.5, "s", vec![0u8, 255]]);
    assert_eq!(odd[1], Value::Text("soon".into()));
    assert_eq!(odd[3], Value::Json("7".into()));
    assert!(odd[4..].iter().all(|value| *value == Value::Null));
}

#[test]
fn a_column_that_is_not_there_or_of_another_type_is_named() {
    let host = TestHost::<Script>::new();
    let rows = host.query("SELECT 'x' AS id, 2 AS n", params![]);
    let message = |error: crate::ColumnError| error.to_string();
    assert_eq!(rows[0].get::<i64>("m").map_err(message), Err("column m is not among those there are (id, n)".into()));
    assert_eq!(rows[0].get::<i64>("id").map_err(message), Err("column id is text and does not read as i64".into()));
    assert_eq!(rows[0].get::<i64>(1).map_err(message), Ok(2));
}

#[test]
fn a_store_gives_events_what_they_leave_out() {
    let event = Event::from(event("UserCreated").aggregate("User", "u1"));
    assert_eq!((event.position(), event.aggregate_version(), event.event_version()), (1, 1, 1));
    assert_eq!(event.created_at().to_string(), "2024-01-01T00:00:00.000000Z");
    assert_eq!(event.event_id(), "00000000-0000-4000-8000-000000000001");
    assert_eq!(event.bounded_context(), "default");
    assert_eq!(event.payload_bytes(), b"{}");
}
