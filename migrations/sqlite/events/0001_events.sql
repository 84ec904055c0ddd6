-- The events tables of pupsourcing, in SQLite's types. A timestamp is TEXT in RFC 3339, UTC, with microseconds.
CREATE TABLE IF NOT EXISTS events (
    global_position   INTEGER PRIMARY KEY AUTOINCREMENT,
    bounded_context   TEXT NOT NULL DEFAULT 'default',
    aggregate_type    TEXT NOT NULL,
    aggregate_id      TEXT NOT NULL,
    aggregate_version INTEGER NOT NULL,
    event_id          TEXT NOT NULL UNIQUE,
    event_type        TEXT NOT NULL,
    event_version     INTEGER NOT NULL DEFAULT 1,
    payload           BLOB NOT NULL,
    trace_id          TEXT,
    correlation_id    TEXT,
    causation_id      TEXT,
    metadata          TEXT,
    created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    UNIQUE (bounded_context, aggregate_type, aggregate_id, aggregate_version)
);

CREATE TABLE IF NOT EXISTS aggregate_heads (
    bounded_context   TEXT NOT NULL DEFAULT 'default',
    aggregate_type    TEXT NOT NULL,
    aggregate_id      TEXT NOT NULL,
    aggregate_version INTEGER NOT NULL,
    updated_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    PRIMARY KEY (bounded_context, aggregate_type, aggregate_id)
);
