-- The host's tables in a projection's own file. The columns are those of migrations/postgres/read_model.
CREATE TABLE _projectionist_checkpoints (
    projection       TEXT NOT NULL,
    total_partitions INTEGER NOT NULL CHECK (total_partitions > 0),
    partition_key    INTEGER NOT NULL CHECK (partition_key >= 0 AND partition_key < total_partitions),
    position         INTEGER NOT NULL DEFAULT 0,
    epoch            INTEGER NOT NULL DEFAULT 0,
    owner            TEXT NOT NULL DEFAULT '',
    lineage          TEXT,
    events_applied   INTEGER NOT NULL DEFAULT 0,
    plugin_version   INTEGER NOT NULL DEFAULT 0,
    plugin_digest    TEXT NOT NULL DEFAULT '',
    updated_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    PRIMARY KEY (projection, total_partitions, partition_key)
);

CREATE TABLE _projectionist_projections (
    projection     TEXT PRIMARY KEY,
    schema_version INTEGER NOT NULL,
    migrated_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
);

CREATE TABLE _projectionist_dead_letters (
    projection        TEXT NOT NULL,
    global_position   INTEGER NOT NULL,
    bounded_context   TEXT NOT NULL,
    aggregate_type    TEXT NOT NULL,
    aggregate_id      TEXT NOT NULL,
    aggregate_version INTEGER NOT NULL,
    event_id          TEXT NOT NULL,
    event_type        TEXT NOT NULL,
    reason            TEXT NOT NULL CHECK (reason IN ('poison', 'behind', 'skipped')),
    error             TEXT NOT NULL,
    attempts          INTEGER NOT NULL,
    plugin_digest     TEXT NOT NULL,
    created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    PRIMARY KEY (projection, global_position)
);

CREATE VIEW projection_checkpoints AS
    SELECT projection AS projection_name, min(position) AS last_global_position, max(updated_at) AS updated_at
    FROM _projectionist_checkpoints GROUP BY projection;
