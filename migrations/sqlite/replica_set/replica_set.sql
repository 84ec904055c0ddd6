-- As projectionist.replica_sets and projectionist.replica_generations in Postgres, in a file of its own for each set.
CREATE TABLE IF NOT EXISTS replica_set (
    only       INTEGER PRIMARY KEY CHECK (only = 1),
    generation INTEGER NOT NULL,
    roster     TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS replica_generations (
    generation INTEGER PRIMARY KEY,
    reason     TEXT NOT NULL,
    members    INTEGER NOT NULL,
    slots      INTEGER NOT NULL,
    moved      INTEGER NOT NULL,
    written_by TEXT NOT NULL,
    written_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
);
