//! Everything that is not the attacker's, as text, to be compared before and after.

use projectionist_tests::{Kind, Setup};

/// All that an attacker could change: `watched` is a `counter` that does not run meanwhile; `schemas` (a pattern) are the
/// attackers' own, and `rows` the projections whose rows in the host's tables are not looked at.
pub(super) fn outside(setup: &Setup, watched: &str, schemas: &str, rows: &str) -> Vec<String> {
    match setup.read_model().kind() {
        Kind::Postgres => on_the_server(setup, watched, schemas, rows),
        Kind::Sqlite => in_files(setup, watched, schemas),
    }
}

/// In the database, and what belongs to the whole server.
fn on_the_server(setup: &Setup, watched: &str, schemas: &str, rows: &str) -> Vec<String> {
    let mut connection = setup.read_model().connect();
    let mut all = Vec::new();
    for sql in [
        "SELECT global_position, encode(payload, 'hex') FROM events ORDER BY 1",
        "SELECT * FROM aggregate_heads ORDER BY 1, 2, 3",
        "SELECT last_value FROM events_global_position_seq",
        "SELECT projection, total_partitions, partition_key, position, events_applied, term FROM projectionist.checkpoints
         WHERE projection !~ 'ROWS' ORDER BY 1, 2, 3",
        "SELECT projection, schema_version FROM projectionist.projections WHERE projection !~ 'ROWS' ORDER BY 1",
        "SELECT projection, global_position, reason FROM projectionist.dead_letters WHERE projection !~ 'ROWS' ORDER BY 1, 2",
        "SELECT projection, action FROM projectionist.dead_letter_requests ORDER BY id",
        "SELECT * FROM WATCHED.counter ORDER BY 1",
        "SELECT rolname, rolsuper, rolcanlogin, rolcreaterole, rolinherit FROM pg_roles ORDER BY 1",
        "SELECT pg_get_userbyid(roleid), pg_get_userbyid(member) FROM pg_auth_members ORDER BY 1, 2",
        "SELECT nspname, pg_get_userbyid(nspowner), nspacl::text FROM pg_namespace
         WHERE nspname !~ '^pg_(toast_)?temp' ORDER BY 1",
        "SELECT nspname, relname, relkind, pg_get_userbyid(relowner), relacl::text, reloptions::text, relhastriggers
         FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE nspname !~ 'SCHEMAS' AND nspname !~ '^pg_' ORDER BY 1, 2",
        "SELECT nspname, proname, pg_get_userbyid(proowner) FROM pg_proc
         JOIN pg_namespace ON pg_namespace.oid = pronamespace WHERE nspname !~ 'SCHEMAS' ORDER BY pg_proc.oid",
        "SELECT extname FROM pg_extension ORDER BY 1",
        "SELECT setdatabase, setrole, setconfig::text FROM pg_db_role_setting ORDER BY 1, 2",
        "SELECT lomowner FROM pg_largeobject_metadata
         WHERE regexp_replace(pg_get_userbyid(lomowner), '@.*', '') !~ 'SCHEMAS' ORDER BY oid",
        "SELECT gid FROM pg_prepared_xacts ORDER BY 1",
        "SELECT locktype FROM pg_locks WHERE locktype = 'advisory' AND database =
             (SELECT oid FROM pg_database WHERE datname = current_database())",
    ] {
        let sql = sql.replace("ROWS", rows).replace("SCHEMAS", schemas).replace("WATCHED", watched);
        all.push(format!("{sql}\n{:?}", connection.rows(&sql)));
    }
    all
}

/// In the file of the events, in that of the watched one, and which files there are. An attacker's own has the host's tables,
/// too: they are as the host has left them, and nothing in it runs by itself.
fn in_files(setup: &Setup, watched: &str, schemas: &str) -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(setup.folder())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        // What SQLite makes and removes beside a file.
        .filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm"))
        .collect();
    files.sort();
    let mut all = vec![format!("{files:?}")];
    let events = [
        "SELECT global_position, hex(payload) FROM events ORDER BY 1",
        "SELECT name, sql FROM sqlite_master ORDER BY 1",
    ];
    let mut connection = setup.connect();
    all.extend(events.map(|sql| format!("{sql}\n{:?}", connection.rows(sql))));
    let rows = [
        "SELECT projection, total_partitions, partition_key, position, events_applied, term FROM _projectionist_checkpoints",
        "SELECT projection, schema_version FROM _projectionist_projections",
        "SELECT * FROM counter ORDER BY 1",
        "SELECT name, sql FROM sqlite_master ORDER BY 1",
    ];
    all.extend(rows.map(|sql| format!("{sql}\n{:?}", setup.rows(watched, sql))));
    // Whatever the host has made in a file, and no more triggers than there are in one that nobody attacks.
    let prefix = schemas.trim_start_matches('^').split('[').next().unwrap_or_default();
    let own = files.iter().filter_map(|file| file.strip_prefix("projectionist.")?.strip_suffix(".db"));
    let of_host = "SELECT quote(name) FROM sqlite_master WHERE name LIKE '%projection%' ORDER BY 1";
    let of_host: Vec<String> = setup.rows(watched, of_host).into_iter().flatten().collect();
    let of_host = format!(
        "SELECT name, sql FROM sqlite_master WHERE name IN ({}) OR type = 'trigger' ORDER BY 1",
        of_host.join(", ")
    );
    for name in own.filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok())) {
        for sql in [&*of_host, "SELECT schema_version FROM _projectionist_projections", "PRAGMA integrity_check"] {
            all.push(format!("{name} {sql}\n{:?}", setup.rows(name, sql)));
        }
        all.push(format!("{name} {:?}", setup.rows(name, "PRAGMA journal_mode")));
    }
    all
}
